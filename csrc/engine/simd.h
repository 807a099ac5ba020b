// Vectors of floats for the kernel files. A kernel file defines MINE_FAST_ISA (0 portable, 2 AVX2 + FMA, 512 AVX-512)
// and turns the instructions on for its own functions before it includes this; everything here has internal linkage,
// so that no code with wider instructions can be linked into another file's calls.
//
// The vectors are the compiler's own (gcc, clang): they lower to whatever the target has, so the portable kernels are
// these with 4 lanes (SSE2, NEON), and the 16-lane kernels can be run without AVX-512 to test their logic.
#pragma once

#include <cstdint>
#include <cstring>

#if MINE_FAST_ISA >= 2 && defined(__x86_64__)
#include <immintrin.h>
#endif

#define MINE_FAST_INLINE inline __attribute__((always_inline))
#define MINE_FAST_INLINE_LAMBDA __attribute__((always_inline))

namespace mine_fast::engine {
namespace {

template <int lanes>
struct Vector;

#define MINE_FAST_VECTOR(LANES, BYTES)                                                  \
  template <>                                                                           \
  struct Vector<LANES> {                                                                \
    typedef float type __attribute__((vector_size(BYTES)));                             \
    typedef float unaligned __attribute__((vector_size(BYTES), aligned(4), may_alias)); \
    typedef int32_t mask __attribute__((vector_size(BYTES)));                           \
  }
MINE_FAST_VECTOR(4, 16);
MINE_FAST_VECTOR(8, 32);
MINE_FAST_VECTOR(16, 64);
#undef MINE_FAST_VECTOR

template <int lanes>
using vec = typename Vector<lanes>::type;

template <int lanes>
MINE_FAST_INLINE vec<lanes> load(const float* p) {
  return *reinterpret_cast<const typename Vector<lanes>::unaligned*>(p);
}
template <int lanes>
MINE_FAST_INLINE void store(float* p, const vec<lanes>& v) {
  *reinterpret_cast<typename Vector<lanes>::unaligned*>(p) = v;
}
template <int lanes>
MINE_FAST_INLINE vec<lanes> broadcast(float v) {
  return v - vec<lanes>{};  // and not a sum: v + 0 is not v for v = -0, so the compiler would have to add
}
template <int lanes>
MINE_FAST_INLINE float sum(const vec<lanes>& v) {
  float total = 0;
  for (int i = 0; i < lanes; ++i) total += v[i];
  return total;
}

// Computes v here and not later. (The vectors of the emulated AVX-512 are in no register.)
template <typename V>
MINE_FAST_INLINE void pin(V& v) {
#if defined(MINE_FAST_EMULATE_AVX512) && MINE_FAST_ISA == 512
  (void)v;
#elif defined(__x86_64__) && MINE_FAST_ISA == 512
  asm volatile("" : "+v"(v));
#elif defined(__x86_64__)
  asm volatile("" : "+x"(v));
#elif defined(__aarch64__)
  asm volatile("" : "+w"(v));
#else
  (void)v;
#endif
}

// The widest vector, and the one that takes what is left of a row: rows are padded to 8 floats (kPad).
#if MINE_FAST_ISA == 512
constexpr int kLanes = 16;
#elif MINE_FAST_ISA == 2
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

// Bit i: p[i] > 0 or NaN, for 8 floats: what is not a number must go on to the loss, which stops the run.
MINE_FAST_INLINE uint64_t positive_bits8(const float* p) {
#if MINE_FAST_ISA >= 2 && defined(__x86_64__)
  return static_cast<uint64_t>(_mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(p), _mm256_setzero_ps(), _CMP_NLE_UQ)));
#else
  uint64_t bits = 0;
  for (int i = 0; i < 8; ++i) bits |= static_cast<uint64_t>(!(p[i] <= 0.f)) << i;
  return bits;
#endif
}

// Bit i: p[i] is not 0, for 8 floats.
MINE_FAST_INLINE uint64_t nonzero_bits8(const float* p) {
#if MINE_FAST_ISA >= 2 && defined(__x86_64__)
  return static_cast<uint64_t>(_mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(p), _mm256_setzero_ps(), _CMP_NEQ_UQ)));
#else
  uint64_t bits = 0;
  for (int i = 0; i < 8; ++i) bits |= static_cast<uint64_t>(p[i] != 0.f) << i;
  return bits;
#endif
}

// out [8, 8] = in [8, 8] transposed.
MINE_FAST_INLINE void transpose8(const float* in, int64_t in_row, float* out, int64_t out_row) {
#if MINE_FAST_ISA >= 2 && defined(__x86_64__)
  __m256 pairs[8], fours[8];
  for (int r = 0; r < 8; r += 2) {
    const __m256 even = _mm256_loadu_ps(in + r * in_row), odd = _mm256_loadu_ps(in + (r + 1) * in_row);
    pairs[r] = _mm256_unpacklo_ps(even, odd);
    pairs[r + 1] = _mm256_unpackhi_ps(even, odd);
  }
  for (int r = 0; r < 8; r += 4) {  // columns 0, 4 | 1, 5 | 2, 6 | 3, 7 of rows r to r + 3
    fours[r] = _mm256_shuffle_ps(pairs[r], pairs[r + 2], 0x44);
    fours[r + 1] = _mm256_shuffle_ps(pairs[r], pairs[r + 2], 0xee);
    fours[r + 2] = _mm256_shuffle_ps(pairs[r + 1], pairs[r + 3], 0x44);
    fours[r + 3] = _mm256_shuffle_ps(pairs[r + 1], pairs[r + 3], 0xee);
  }
  for (int c = 0; c < 4; ++c) {
    _mm256_storeu_ps(out + c * out_row, _mm256_permute2f128_ps(fours[c], fours[c + 4], 0x20));
    _mm256_storeu_ps(out + (c + 4) * out_row, _mm256_permute2f128_ps(fours[c], fours[c + 4], 0x31));
  }
#else
  for (int c = 0; c < 8; ++c)
    for (int r = 0; r < 8; ++r) out[c * out_row + r] = in[r * in_row + c];
#endif
}

}  // namespace
}  // namespace mine_fast::engine
