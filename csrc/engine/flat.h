// Loops over flat arrays: Adam, and what gradients need before it.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace mine_fast::engine {
namespace {

void scale(float* __restrict values, int64_t count, float factor) {
  for (int64_t i = 0; i < count; ++i) values[i] *= factor;
}

void add(float* __restrict values, const float* __restrict more, int64_t count, float factor) {
  for (int64_t i = 0; i < count; ++i) values[i] += factor * more[i];
}

double sum_of_squares(const float* values, int64_t count) {
  constexpr int64_t kBlock = 2048;  // fp32 sums of a block in 16 lanes, fp64 above
  double total = 0;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = begin + kBlock < count ? begin + kBlock : count;
    vec<8> even{}, odd{};
    int64_t i = begin;
    for (; i + 16 <= end; i += 16) {
      even += load<8>(values + i) * load<8>(values + i);
      odd += load<8>(values + i + 8) * load<8>(values + i + 8);
    }
    total += sum<8>(even + odd);
    for (; i < end; ++i) total += static_cast<double>(values[i]) * values[i];
  }
  return total;
}

// torch.optim.Adam and AdamW: eps outside the root, both moments bias-corrected, L2 decay inside or outside. The
// average is torch.lerp's, which goes from the nearer end.
template <bool l2, bool averaged>
MINE_FAST_INLINE void adam_loop(float* __restrict p, const float* __restrict g, float* __restrict m,
                                float* __restrict v, float* __restrict average, int64_t count, const AdamSettings& s) {
  const float keep = s.decoupled ? 1.f - s.rate * s.weight_decay : 1.f;
  const float correction = 1.f / s.root_correction;
  const float scale = s.gradient_scale, decay = s.weight_decay, beta2 = s.beta2, eps = s.eps, step = s.step_size;
  const float new1 = s.new1, new2 = s.new2;
  const bool from_old = s.averaging < 0.5f;
  const float part = from_old ? s.averaging : s.averaging - 1.f;
  for (int64_t i = 0; i < count; ++i) {
    float grad = scale * g[i];
    if constexpr (l2) grad += decay * p[i];
    const float first = m[i] + new1 * (grad - m[i]);
    const float second = beta2 * v[i] + new2 * grad * grad;
    m[i] = first;
    v[i] = second;
    const float updated = keep * p[i] - step * first / (__builtin_sqrtf(second) * correction + eps);
    p[i] = updated;
    if constexpr (averaged) average[i] = (from_old ? average[i] : updated) + part * (updated - average[i]);
  }
}

template <bool l2>
void adam_of(float* parameters, const float* gradient, float* first, float* second, float* average, int64_t count,
             const AdamSettings& settings) {
  if (average != nullptr) {
    adam_loop<l2, true>(parameters, gradient, first, second, average, count, settings);
  } else {
    adam_loop<l2, false>(parameters, gradient, first, second, nullptr, count, settings);
  }
}

void adam(float* parameters, const float* gradient, float* first, float* second, float* average, int64_t count,
          const AdamSettings& settings) {
  const bool l2 = settings.weight_decay != 0.f && !settings.decoupled;
  (l2 ? adam_of<true> : adam_of<false>)(parameters, gradient, first, second, average, count, settings);
}

}  // namespace
}  // namespace mine_fast::engine
