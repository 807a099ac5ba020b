// The kernels with 8 lanes, AVX2 with FMA.
// The instructions are turned on here and not by flags of the build, and only after the standard headers: a copy of one
// of their inline functions with these instructions must not become the one that the linker keeps for all files.
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels.h"

#if defined(__x86_64__)
#define MINE_FAST_ISA 2
#define MINE_FAST_ISA_NAME "avx2"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,bmi,bmi2,popcnt"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,bmi,bmi2,popcnt")
#endif

#include "kernel_table.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

namespace mine_fast::engine {

const Kernels* avx2_kernels() { return &kTable; }

}  // namespace mine_fast::engine

#else

namespace mine_fast::engine {

const Kernels* avx2_kernels() { return nullptr; }

}  // namespace mine_fast::engine

#endif
