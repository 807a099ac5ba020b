// The kernels with 16 lanes, and 8 for what is left of a row.
// The instructions are turned on here and not by flags of the build, and only after the standard headers: a copy of one
// of their inline functions with these instructions must not become the one that the linker keeps for all files.
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels.h"

#if defined(__x86_64__)
#define MINE_FAST_ISA 512
#define MINE_FAST_ISA_NAME "avx512"

#if defined(MINE_FAST_EMULATE_AVX512)  // tests on a machine without AVX-512: the same code with 16 lanes made of 8
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,bmi,bmi2,popcnt"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,bmi,bmi2,popcnt")
#endif
#elif defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,bmi,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl"))), \
                             apply_to = function)
#else
#pragma GCC target("avx2,fma,bmi,bmi2,popcnt,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#endif

#include "kernel_table.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

namespace mine_fast::engine {

const Kernels* avx512_kernels() { return &kTable; }

}  // namespace mine_fast::engine

#else

namespace mine_fast::engine {

const Kernels* avx512_kernels() { return nullptr; }

}  // namespace mine_fast::engine

#endif
