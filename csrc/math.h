// Elementary functions for host and device. On the host the float versions are branch-free polynomials, because the
// compiler vectorises a loop over those and cannot vectorise a loop over calls into libm; on the device they are the
// CUDA functions. Relative error of the host versions: exp 1e-7, tanh 2.1e-7 (tests/test_ops_first_layer.py).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "host_device.h"

namespace mine_fast {

// Without the overloads of isfinite, of which host and device have different ones.
template <typename T>
MINE_FAST_HD bool is_finite(T v) {
  return v - v == T(0);
}

MINE_FAST_HD double exp_of(double v) { return ::exp(v); }
MINE_FAST_HD double log_of(double v) { return ::log(v); }
MINE_FAST_HD double tanh_of(double v) { return ::tanh(v); }
MINE_FAST_HD double normal_cdf_of(double v) { return 0.5 * ::erfc(-v * 0.7071067811865476); }
MINE_FAST_HD float log_of(float v) { return ::logf(v); }

#if defined(__CUDA_ARCH__)
MINE_FAST_HD float exp_of(float v) { return ::expf(v); }
MINE_FAST_HD float tanh_of(float v) { return ::tanhf(v); }
MINE_FAST_HD float normal_cdf_of(float v) { return 0.5f * ::erfcf(-v * 0.70710678f); }
#else
// exp(v) = 2^k exp(r), |r| <= ln(2)/2, exp(r) by its Taylor polynomial of degree 7; NaN stays NaN.
MINE_FAST_HD float exp_of(float v) {
  const float clamped = v < -104.f ? -104.f : (v > 88.8f ? 88.8f : v);  // beyond: 0 and inf in fp32
  const float rounded = clamped * 1.44269504f + 12582912.f;             // 1.5 * 2^23: the sum rounds to an integer
  const float k = rounded - 12582912.f;
  float r = clamped - k * 0.693359375f;
  r += k * 2.12194440e-4f;
  float p = 1.98412698e-4f;
  p = p * r + 1.38888889e-3f;
  p = p * r + 8.33333333e-3f;
  p = p * r + 4.16666667e-2f;
  p = p * r + 1.66666667e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.f;
  p = p * r + 1.f;
  // 2^k in two factors, since 2^128 and the subnormals have no exponent field of their own.
  const int32_t half = static_cast<int32_t>(k) >> 1;
  const int32_t rest = static_cast<int32_t>(k) - half;
  const uint32_t first_bits = static_cast<uint32_t>(half + 127) << 23;
  const uint32_t second_bits = static_cast<uint32_t>(rest + 127) << 23;
  float first, second;
  std::memcpy(&first, &first_bits, sizeof first);
  std::memcpy(&second, &second_bits, sizeof second);
  return v != v ? v : p * first * second;
}

// tanh(v) = (1 - e) / (1 + e), e = exp(-2|v|), and near 0, where that cancels, its continued fraction.
MINE_FAST_HD float tanh_of(float v) {
  const float a = v < 0.f ? -v : v;
  const float e = exp_of(-2.f * a);
  const float far = (1.f - e) / (1.f + e);
  const float s = a * a;
  const float near =
      a * (135135.f + s * (17325.f + s * (378.f + s))) / (135135.f + s * (62370.f + s * (3150.f + s * 28.f)));
  const float magnitude = a < 0.625f ? near : far;
  return v < 0.f ? -magnitude : (v != v ? v : magnitude);
}

// The standard normal distribution function, by the Chebyshev fit of erfc (Press et al., Numerical Recipes, 6.2):
// accurate relative to the tail, which 1 + erf(v) is not.
MINE_FAST_HD float normal_cdf_of(float v) {
  const float a = (v < 0.f ? -v : v) * 0.70710678f;
  const float t = 1.f / (1.f + 0.5f * a);
  float p = 0.17087277f;
  p = p * t - 0.82215223f;
  p = p * t + 1.48851587f;
  p = p * t - 1.13520398f;
  p = p * t + 0.27886807f;
  p = p * t - 0.18628806f;
  p = p * t + 0.09678418f;
  p = p * t + 0.37409196f;
  p = p * t + 1.00002368f;
  const float tail = 0.5f * t * exp_of(-a * a - 1.26551223f + t * p);
  return v < 0.f ? tail : 1.f - tail;
}
#endif

}  // namespace mine_fast
