// CUDA's names for g++, so that the unmodified kernel files of csrc/cuda run on a CPU: every CUDA thread of a block is
// a fiber (or, for ThreadSanitizer, an OS thread), blocks run one after the other. Include it before the kernels.
//
// It finds what depends on the order of threads: a missing or divergent __syncthreads, an index out of its block, a
// value read before it is written, a launch that no grid holds.
//
// It does not find, and only a GPU can tell:
//   - races between blocks, which run one after the other here;
//   - what the GPU's own arithmetic gives: exp, log and erf of its library, fused multiply-adds, __half and
//     bfloat16 instructions (here: conversions to float and back), denormals;
//   - misaligned vector accesses, which x86 carries out, and registers, shared memory or occupancy beyond what there is;
//   - shuffles of a warp whose lanes have diverged: the mask is ignored, a warp is complete or the shim reports it;
//   - what stands above the launchers: bindings of the ops, the current stream and device, autograd on a GPU, the
//     allocator, capture into CUDA graphs, nccl.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <initializer_list>

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
using cudaStream_t = void*;

extern thread_local dim3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace shim {

// Runs body once per thread of every block. A deadlock or a barrier that some threads miss is reported by last_error().
void launch(dim3 grid, dim3 block, const std::function<void()>& body);
void barrier(int line);
// Writes this lane's 8 bytes, waits for its warp, returns those of another lane.
uint64_t exchange(uint64_t mine, int from_lane, int line);
int lane();

// The order of blocks and, anew after every barrier, of threads; seed 0 keeps both in sequence.
void configure(uint64_t seed);
const char* last_error();  // of the launches since configure(), or null

template <typename T>
T shuffle(T value, int from_lane, int line) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = exchange(bits, from_lane, line);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace shim

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
// Blocks run one at a time, and each starts with what the last one left, as on a GPU.
#define __shared__ static
#define __syncthreads() shim::barrier(__LINE__)
#define __shfl_down_sync(mask, value, distance) \
  ((void)(mask),                                \
   shim::shuffle(value, shim::lane() + (distance) < 32 ? shim::lane() + (distance) : shim::lane(), __LINE__))
#define __shfl_xor_sync(mask, value, bits) ((void)(mask), shim::shuffle(value, shim::lane() ^ (bits), __LINE__))
#define __shfl_sync(mask, value, from) ((void)(mask), shim::shuffle(value, (from) % 32, __LINE__))

#define MINE_FAST_LAUNCH(kernel, grid, block, stream, ...) \
  ((void)(stream), shim::launch((grid), (block), [&] { kernel(__VA_ARGS__); }))
#define MINE_FAST_OUT_OF_LINE

// 16-bit storage types with round-to-nearest-even conversions.
struct __half {
  uint16_t bits;
};
struct __nv_bfloat16 {
  uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 v) {
  const uint32_t bits = static_cast<uint32_t>(v.bits) << 16;
  float out;
  std::memcpy(&out, &bits, sizeof out);
  return out;
}

inline __nv_bfloat16 __float2bfloat16_rn(float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, sizeof bits);
  if (v != v) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

inline float __half2float(__half v) {
  const int exponent = v.bits >> 10 & 31, mantissa = v.bits & 1023;
  const float magnitude = exponent == 31  ? (mantissa ? NAN : INFINITY)
                          : exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24)
                                          : std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25);
  return v.bits & 0x8000 ? -magnitude : magnitude;
}

inline __half __float2half_rn(float v) {
  const uint16_t sign = std::signbit(v) ? 0x8000 : 0;
  const float magnitude = std::fabs(v);
  if (v != v) return {0x7fff};
  if (magnitude >= 65520.f) return {static_cast<uint16_t>(sign | 0x7c00)};  // rounds past the largest half
  int exponent;
  std::frexp(magnitude, &exponent);  // magnitude in [2^(exponent-1), 2^exponent)
  const int unit = std::max(exponent - 11, -24);
  const auto steps = static_cast<int>(std::nearbyint(std::ldexp(magnitude, -unit)));  // in units of the last place
  return {static_cast<uint16_t>(sign | (steps < 1024 ? steps : ((unit + 24) << 10) + steps))};
}
