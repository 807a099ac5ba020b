// Activations of vectors: value and derivative together, from one exponential. The functions are csrc/activation.h's;
// their errors against fp64 (tests/engine/test_activations.py) are at most 4 units of 2^-24, relative to the value
// (GELU: to 1 where it is smaller) and to 1 for derivatives. Infinities give what the formula gives, NaN gives NaN.
#pragma once

#include "../activation.h"
#include "vector_math.h"

namespace mine_fast::engine {
namespace {

template <int lanes>
struct Activated {
  vec<lanes> value, derivative;
};

// v sigmoid(u), and its derivative if du / dv is u_slope at `at`, which is v where that does not overflow.
template <int lanes>
MINE_FAST_INLINE Activated<lanes> gated_by_sigmoid(const vec<lanes>& v, const vec<lanes>& u, const vec<lanes>& at,
                                                   const vec<lanes>& u_slope) {
  const vec<lanes> e = Exponential<lanes>(-u).value(), most = broadcast<lanes>(3.4028235e38f);
  const vec<lanes> gate = 1.f / (1.f + e);
  const vec<lanes> rest = gate * select<lanes>(e > most, most, e);  // 1 - gate without its cancellation
  return {v * gate, gate + gate * rest * at * u_slope};
}

// v Phi(v), Phi the normal distribution function: Phi(-a) = exp(-a^2 / 2) t Q(t), t = 1 / (1 + 0.265 a), where Q is a
// minimax polynomial (relative error 1.2e-8); its density needs the same exponential.
template <int lanes>
MINE_FAST_INLINE Activated<lanes> gated_by_normal(const vec<lanes>& v) {
  const vec<lanes> t = 1.f / (magnitude<lanes>(v) * 0.265f + 1.f);
  const vec<lanes> bell = Exponential<lanes>(v * v * -0.5f).value();
  vec<lanes> q = t * 0.0308207683f - 0.14422822f;
  q = q * t + 0.217814147f;
  q = q * t - 0.116361745f;
  q = q * t + 0.137952551f;
  q = q * t + 0.0603133254f;
  q = q * t + 0.102700934f;
  q = q * t + 0.105246671f;
  q = q * t + 0.10574156f;
  const vec<lanes> tail = bell * t * q;
  const vec<lanes> below = select<lanes>(v < 0.f, tail, 1.f - tail);
  return {v * below, below + v * bell * 0.39894228f};
}

template <Activation kind, int lanes>
MINE_FAST_INLINE Activated<lanes> activated(const vec<lanes>& v, float slope) {
  const vec<lanes> zero{}, one = broadcast<lanes>(1.f);
  if constexpr (kind == Activation::kRelu) {
    return {select<lanes>(v < 0.f, zero, v), select<lanes>(v > 0.f, one, zero)};
  } else if constexpr (kind == Activation::kLeakyRelu) {
    const vec<lanes> derivative = select<lanes>(v > 0.f, one, broadcast<lanes>(slope));
    return {v * derivative, derivative};
  } else if constexpr (kind == Activation::kElu) {
    const auto positive = v > 0.f;
    const Exponential<lanes> e(select<lanes>(positive, zero, v));
    return {select<lanes>(positive, v, slope * e.minus_one()), select<lanes>(positive, one, slope * e.value())};
  } else if constexpr (kind == Activation::kGelu) {
    return gated_by_normal<lanes>(v);
  } else if constexpr (kind == Activation::kGeluTanh) {
    // 0.5 (1 + tanh(u / 2)) = sigmoid(u). Flat beyond 20, where the cube would overflow.
    vec<lanes> at = select<lanes>(v > 20.f, broadcast<lanes>(20.f), v);
    at = select<lanes>(at < -20.f, broadcast<lanes>(-20.f), at);
    const vec<lanes> square = at * at;
    return gated_by_sigmoid<lanes>(v, at * (square * 0.0713548163f + 1.59576912f), at,
                                   square * 0.214064449f + 1.59576912f);
  } else if constexpr (kind == Activation::kSilu) {
    return gated_by_sigmoid<lanes>(v, v, v, one);
  } else if constexpr (kind == Activation::kTanh) {
    // With e = exp(-2|v|): (1 - e) / (1 + e), and the derivative 4 e / (1 + e)^2 without the cancellation of 1 -
    // tanh^2.
    const Exponential<lanes> e(magnitude<lanes>(v) * -2.f);
    const vec<lanes> value = e.value(), inverse = 1.f / (1.f + value);
    const auto sign = bits_of<lanes>(v) & static_cast<int32_t>(0x80000000);
    return {from_bits<lanes>(bits_of<lanes>(-e.minus_one() * inverse) | sign), 4.f * value * inverse * inverse};
  } else {
    return {v, one};
  }
}

}  // namespace
}  // namespace mine_fast::engine
