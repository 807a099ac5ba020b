// What every kernel file starts from: the CUDA runtime, the macros that differ off the GPU, and conversions of the
// 16-bit types.
//
// The kernel files use no <<< >>> and no torch, so that tests/cuda_on_cpu can run them, unmodified, on a machine
// without a GPU: its shim defines these macros and the CUDA names before it includes them.
#pragma once

#if !defined(MINE_FAST_LAUNCH)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
// The caller checks for a launch error: it alone knows how its library reports one.
#define MINE_FAST_LAUNCH(kernel, grid, block, stream, ...) kernel<<<(grid), (block), 0, (stream)>>>(__VA_ARGS__)
#define MINE_FAST_OUT_OF_LINE __device__ __noinline__
#endif

#include <cstdint>

#include "../accumulate.h"
#include "../host_device.h"

namespace mine_fast {

// Through the intrinsics, because torch compiles extensions with the operators of the 16-bit types switched off.
MINE_FAST_HD float widen(float v) { return v; }
MINE_FAST_HD double widen(double v) { return v; }
MINE_FAST_HD float widen(__half v) { return __half2float(v); }
MINE_FAST_HD float widen(__nv_bfloat16 v) { return __bfloat162float(v); }

template <typename Scalar>
MINE_FAST_HD Scalar narrow(accumulate_t<Scalar> v) {
  return v;
}
template <>
MINE_FAST_HD __half narrow<__half>(float v) {
  return __float2half_rn(v);
}
template <>
MINE_FAST_HD __nv_bfloat16 narrow<__nv_bfloat16>(float v) {
  return __float2bfloat16_rn(v);
}

}  // namespace mine_fast
