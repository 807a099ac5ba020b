// What a tile does outside its products: the first layer's sums, activations and their derivatives, scores, the weights
// of the rows, and the way of a gradient back to the rows of x and y.
//
// Every hidden row carries a 1 behind its width (a "ones column": the next layer's bias is a column of its weights, and
// the bias's gradient falls out of the weights') and zeros up to its padded width.
#pragma once

#include <type_traits>

#include "activations.h"
#include "kernels.h"
#include "simd.h"

namespace mine_fast::engine {
namespace {

MINE_FAST_INLINE int64_t hidden_stride(int64_t width) { return padded(width + 1); }

// Of one row; the words of all rows lie as in Masks.
MINE_FAST_INLINE void positive_mask(const float* row, int64_t width, uint64_t* words, int64_t rows) {
  for (int64_t w = 0; w < mask_words(width); ++w) {
    const int64_t columns = padded(width) - w * 64;
    uint64_t bits = 0;
    for (int64_t c = 0; c < 64 && c < columns; c += 8) bits |= positive_bits8(row + w * 64 + c) << c;
    words[w * rows] = bits;
  }
}

// load_at(lanes, c) is the vector of pre-activations from column c on.
template <Activation act, typename Load>
MINE_FAST_INLINE void activate_row(const Load& load_at, int64_t width, float slope, float* __restrict hidden,
                                   float* __restrict derivative, uint64_t* mask, int64_t rows) {
  const auto step = [&](auto lanes, int64_t c) MINE_FAST_INLINE_LAMBDA {
    constexpr int kWidth = decltype(lanes)::value;
    const Activated<kWidth> result = activated<act, kWidth>(load_at(lanes, c), slope);
    store<kWidth>(hidden + c, result.value);
    if (derivative != nullptr) store<kWidth>(derivative + c, result.derivative);
  };
  int64_t c = 0;
  for (; c + kLanes <= padded(width); c += kLanes) step(std::integral_constant<int, kLanes>{}, c);
  if constexpr (kLanes > 8)
    if (c < padded(width)) step(std::integral_constant<int, 8>{}, c);
  if (derivative != nullptr)
    for (c = width; c < hidden_stride(width); ++c) derivative[c] = 0.f;
  for (c = width; c < hidden_stride(width); ++c) hidden[c] = 0.f;
  if constexpr (act == Activation::kRelu) {
    if (mask != nullptr) positive_mask(hidden, width, mask, rows);
  }
  hidden[width] = 1.f;
}

void first_layer(const float* x_rows, const float* y_rows, int64_t stride, const int32_t* i, const int32_t* j,
                 int64_t rows, int64_t width, Activation act, float slope, float* hidden, float* derivative,
                 uint64_t* masks) {
  with_activation(static_cast<int64_t>(act), [&](auto kind) {
    for (int64_t r = 0; r < rows; ++r) {
      const float* __restrict x = x_rows + i[r] * stride;
      const float* __restrict y = y_rows + j[r] * stride;
      activate_row<decltype(kind)::value>(
          [=](auto lanes, int64_t c) MINE_FAST_INLINE_LAMBDA {
            return load<decltype(lanes)::value>(x + c) + load<decltype(lanes)::value>(y + c);
          },
          width, slope, hidden + r * stride, derivative ? derivative + r * stride : nullptr,
          masks ? masks + r : nullptr, rows);
    }
  });
}

void activate_rows(float* z, int64_t stride, int64_t rows, int64_t width, Activation act, float slope,
                   float* derivative, uint64_t* masks) {
  with_activation(static_cast<int64_t>(act), [&](auto kind) {
    for (int64_t r = 0; r < rows; ++r) {
      float* row = z + r * stride;
      activate_row<decltype(kind)::value>(
          [=](auto lanes, int64_t c) MINE_FAST_INLINE_LAMBDA { return load<decltype(lanes)::value>(row + c); }, width,
          slope, row, derivative ? derivative + r * stride : nullptr, masks ? masks + r : nullptr, rows);
    }
  });
}

// body(c, gate) for the columns of a row, gate = activation'(pre-activation of c).
template <typename Body>
MINE_FAST_INLINE void gated_row(const float* __restrict derivative, const float* __restrict hidden, int64_t width,
                                const Body& body) {
  if (derivative != nullptr) {
    for (int64_t c = 0; c < padded(width); ++c) body(c, [&](float g) { return g * derivative[c]; });
  } else {
    for (int64_t c = 0; c < padded(width); ++c) body(c, [&](float g) { return hidden[c] > 0.f ? g : 0.f; });
  }
}

void through_activation(float* grad, const float* derivative, const float* hidden, int64_t stride, int64_t rows,
                        int64_t width) {
  for (int64_t r = 0; r < rows; ++r) {
    float* __restrict g = grad + r * stride;
    gated_row(derivative ? derivative + r * stride : nullptr, hidden + r * stride, width,
              [=](int64_t c, auto gate) MINE_FAST_INLINE_LAMBDA { g[c] = gate(g[c]); });
    for (int64_t c = width; c < hidden_stride(width); ++c) g[c] = 0.f;
  }
}

void from_output(const float* row_weight, const float* output_weights, const float* derivative, const float* hidden,
                 float* grad, int64_t stride, int64_t rows, int64_t width) {
  for (int64_t r = 0; r < rows; ++r) {
    float* __restrict g = grad + r * stride;
    const float weight = row_weight[r];
    const float* __restrict out = output_weights;
    gated_row(derivative ? derivative + r * stride : nullptr, hidden + r * stride, width,
              [=](int64_t c, auto gate) MINE_FAST_INLINE_LAMBDA { g[c] = gate(weight * out[c]); });
    for (int64_t c = width; c < hidden_stride(width); ++c) g[c] = 0.f;
  }
}

void first_layer_backward(float* grad, const float* derivative, const float* hidden, int64_t stride, const int32_t* i,
                          const int32_t* j, int64_t rows, int64_t width, bool set, float* x_grad, float* y_grad) {
  for (int64_t r = 0; r < rows; ++r) {
    float* __restrict g = grad + r * stride;
    for (int64_t c = width; c < padded(width); ++c) g[c] = 0.f;  // or what the bias column left there would be added
    float* __restrict x = x_grad + i[r] * stride;
    float* __restrict y = y_grad + j[r] * stride;
    const float* gates = derivative ? derivative + r * stride : nullptr;
    if (set) {
      gated_row(gates, hidden + r * stride, width, [=](int64_t c, auto gate) MINE_FAST_INLINE_LAMBDA {
        const float v = gate(g[c]);
        x[c] = v;
        y[c] = v;
      });
    } else {
      gated_row(gates, hidden + r * stride, width, [=](int64_t c, auto gate) MINE_FAST_INLINE_LAMBDA {
        const float v = gate(g[c]);
        x[c] += v;
        y[c] += v;
      });
    }
  }
}

// width here counts the ones column, so that the output's bias is one of the weights.
void scores(const float* hidden, int64_t stride, int64_t rows, int64_t width, const float* weights, float* scores) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* row = hidden + r * stride;
    vec<8> even{}, odd{};
    int64_t c = 0;
    for (; c + 16 <= padded(width); c += 16) {
      even += load<8>(row + c) * load<8>(weights + c);
      odd += load<8>(row + c + 8) * load<8>(weights + c + 8);
    }
    if (c < padded(width)) even += load<8>(row + c) * load<8>(weights + c);
    scores[r] = sum<8>(even + odd);
  }
}

void weighted_sum(const float* hidden, int64_t stride, int64_t rows, int64_t width, const float* row_weight,
                  float* weighted) {
  constexpr int kWide = 8;
  int64_t c = 0;
  for (; c + kWide * 8 <= padded(width); c += kWide * 8) {
    vec<8> sums[kWide]{};
    for (int64_t r = 0; r < rows; ++r)
      for (int v = 0; v < kWide; ++v) sums[v] += broadcast<8>(row_weight[r]) * load<8>(hidden + r * stride + c + 8 * v);
    for (int v = 0; v < kWide; ++v) store<8>(weighted + c + 8 * v, load<8>(weighted + c + 8 * v) + sums[v]);
  }
  for (; c < padded(width); c += 8) {
    vec<8> even{}, odd{};
    int64_t r = 0;
    for (; r + 2 <= rows; r += 2) {
      even += broadcast<8>(row_weight[r]) * load<8>(hidden + r * stride + c);
      odd += broadcast<8>(row_weight[r + 1]) * load<8>(hidden + (r + 1) * stride + c);
    }
    if (r < rows) even += broadcast<8>(row_weight[r]) * load<8>(hidden + r * stride + c);
    store<8>(weighted + c, load<8>(weighted + c) + (even + odd));
  }
}

float maximum(const float* scores, int64_t rows) {
  vec<8> most = broadcast<8>(-__builtin_inff());
  int64_t r = 0;
  for (; r + 8 <= rows; r += 8) {
    const vec<8> next = load<8>(scores + r);
    most = next > most ? next : most;
  }
  float result = -__builtin_inff();
  for (int i = 0; i < 8; ++i) result = most[i] > result ? most[i] : result;
  for (; r < rows; ++r) result = scores[r] > result ? scores[r] : result;
  return result;
}

double exponentials(const float* scores, int64_t rows, float reference, float* weights) {
  typedef double doubles __attribute__((vector_size(32)));
  doubles even{}, odd{};
  int64_t r = 0;
  for (; r + 8 <= rows; r += 8) {
    store<8>(weights + r, Exponential<8>(load<8>(scores + r) - reference).value());
    even += __builtin_convertvector(load<4>(weights + r), doubles);
    odd += __builtin_convertvector(load<4>(weights + r + 4), doubles);
  }
  double total = 0;
  for (int i = 0; i < 4; ++i) total += even[i] + odd[i];
  for (; r < rows; ++r) total += weights[r] = exp_of(scores[r] - reference);
  return total;
}

void transpose(const float* in, int64_t in_row, int64_t rows, int64_t columns, float* out, int64_t out_row) {
  constexpr int64_t kBlock = 16;  // a block of both sides stays in the first-level cache
  for (int64_t r0 = 0; r0 < rows; r0 += kBlock) {
    const int64_t here = rows - r0 < kBlock ? rows - r0 : kBlock;
    const float* from = in + r0 * in_row;
    float* to = out + r0;
    int64_t c = 0;
    if (here == kBlock) {
      for (; c + 8 <= columns; c += 8) {
        transpose8(from + c, in_row, to + c * out_row, out_row);
        transpose8(from + 8 * in_row + c, in_row, to + c * out_row + 8, out_row);
      }
    }
    for (; c < columns; ++c)
      for (int64_t r = 0; r < here; ++r) to[c * out_row + r] = from[r * in_row + c];
  }
}

}  // namespace
}  // namespace mine_fast::engine
