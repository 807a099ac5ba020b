// Elementary functions of vectors, for activations and noise. NaN goes in and comes out.
#pragma once

#include "simd.h"

namespace mine_fast::engine {
namespace {

// a where the mask is set, else b.
template <int lanes>
MINE_FAST_INLINE vec<lanes> select(const typename Vector<lanes>::mask& mask, const vec<lanes>& a, const vec<lanes>& b) {
  return mask ? a : b;
}

template <int lanes>
MINE_FAST_INLINE typename Vector<lanes>::mask bits_of(const vec<lanes>& v) {
  return reinterpret_cast<typename Vector<lanes>::mask>(v);
}
template <int lanes>
MINE_FAST_INLINE vec<lanes> from_bits(const typename Vector<lanes>::mask& bits) {
  return reinterpret_cast<vec<lanes>>(bits);
}

template <int lanes>
MINE_FAST_INLINE vec<lanes> magnitude(const vec<lanes>& v) {
  return from_bits<lanes>(bits_of<lanes>(v) & 0x7fffffff);
}

// exp(v) = (1 + above) * power, `above` = exp(r) - 1 accurate relative to itself, |r| <= ln(2) / 2, `power` a power of
// 2. Beyond -88 power is 0 and beyond 88.4 infinite: exp's own limits are 88.7 and, with subnormals, -103.3.
template <int lanes>
struct Exponential {
  vec<lanes> above, power;

  MINE_FAST_INLINE explicit Exponential(const vec<lanes>& exponent) {
    vec<lanes> v = select<lanes>(exponent < -88.f, broadcast<lanes>(-88.f), exponent);
    v = select<lanes>(v > 88.8f, broadcast<lanes>(88.8f), v);
    const vec<lanes> rounded = v * 1.44269504f + 12582912.f;  // 1.5 * 2^23: the sum rounds to an integer,
    const vec<lanes> k = rounded - 12582912.f;                // which its lowest bits hold too
    vec<lanes> r = v - k * 0.693359375f;                      // ln 2 in two parts
    r = r + k * 2.12194440e-4f;
    // Minimax of (exp(r) - 1 - r) / r^2: 3e-9 relative to exp, 2e-8 to exp - 1.
    vec<lanes> p = r * 1.38144672e-3f + 8.36878084e-3f;
    p = p * r + 4.16683927e-2f;
    p = p * r + 1.66665196e-1f;
    p = p * r + 4.9999994e-1f;
    above = r * r * p + r;
    power = from_bits<lanes>((bits_of<lanes>(rounded) << 23) + 0x3f800000);
  }

  MINE_FAST_INLINE vec<lanes> value() const { return (above + 1.f) * power; }
  MINE_FAST_INLINE vec<lanes> minus_one() const { return above * power + (power - 1.f); }
};

// ln(v) for normal positive v (Cephes).
template <int lanes>
MINE_FAST_INLINE vec<lanes> logarithm(const vec<lanes>& v) {
  // v = 2^e m, m in [sqrt(1/2), sqrt(2)).
  const typename Vector<lanes>::mask bits = bits_of<lanes>(v) - 0x3f3504f3;
  const vec<lanes> e = __builtin_convertvector(bits >> 23, vec<lanes>);
  const vec<lanes> x = from_bits<lanes>((bits & 0x007fffff) + 0x3f3504f3) - 1.f;
  vec<lanes> p = x * 7.0376836292e-2f - 1.1514610310e-1f;
  p = p * x + 1.1676998740e-1f;
  p = p * x - 1.2420140846e-1f;
  p = p * x + 1.4249322787e-1f;
  p = p * x - 1.6668057665e-1f;
  p = p * x + 2.0000714765e-1f;
  p = p * x - 2.4999993993e-1f;
  p = p * x + 3.3333331174e-1f;
  const vec<lanes> square = x * x;
  return x + (p * x * square - e * 2.12194440e-4f - 0.5f * square) + e * 0.693359375f;
}

// Sine and cosine of `quarters` quarter turns, |quarters| <= 2 (Cephes' polynomials).
template <int lanes>
MINE_FAST_INLINE void sine_and_cosine(const vec<lanes>& quarters, vec<lanes>& sine, vec<lanes>& cosine) {
  const vec<lanes> rounded = quarters + 12582912.f;
  const typename Vector<lanes>::mask q = bits_of<lanes>(rounded);
  const vec<lanes> angle = (quarters - (rounded - 12582912.f)) * 1.57079633f;
  const vec<lanes> square = angle * angle;
  vec<lanes> s = square * -1.9515295891e-4f + 8.3321608736e-3f;
  s = s * square - 1.6666654611e-1f;
  s = s * square * angle + angle;
  vec<lanes> c = square * 2.443315711809948e-5f - 1.388731625493765e-3f;
  c = c * square + 4.166664568298827e-2f;
  c = c * square * square - 0.5f * square + 1.f;
  const typename Vector<lanes>::mask odd = (q & 1) != 0;
  sine = from_bits<lanes>(bits_of<lanes>(select<lanes>(odd, c, s)) ^ ((q & 2) << 30));
  cosine = from_bits<lanes>(bits_of<lanes>(select<lanes>(odd, s, c)) ^ (((q + 1) & 2) << 30));
}

template <int lanes>
MINE_FAST_INLINE vec<lanes> square_root(const vec<lanes>& v) {
  vec<lanes> root;
#pragma GCC unroll 1
  for (int i = 0; i < lanes; ++i) root[i] = __builtin_sqrtf(v[i]);
  return root;
}

}  // namespace
}  // namespace mine_fast::engine
