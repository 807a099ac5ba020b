// CPU kernels of the paired first layer. W [x; y] = Wx x + Wy y, so both products are made once per row outside, and
// this adds them for the joint rows and for every shuffle, with bias and activation, in one pass. The backward
// recomputes the pre-activations from x_part and y_part: memory does not grow with the number of shuffles.
#include <torch/csrc/stable/library.h>

#include <tuple>
#include <vector>

#include "../activation.h"
#include "parallel.h"
#include "shuffle_table.h"

namespace mine_fast {
namespace {

template <Activation kind, typename Scalar>
MINE_FAST_CLONES void add_and_activate(const Scalar* x_row, const Scalar* y_row, const Scalar* bias, int64_t width,
                                       accumulate_t<Scalar> slope, Scalar* out) {
  using T = accumulate_t<Scalar>;
  for (int64_t c = 0; c < width; ++c)
    out[c] = static_cast<Scalar>(
        activate<kind, T>(static_cast<T>(x_row[c]) + static_cast<T>(y_row[c]) + static_cast<T>(bias[c]), slope));
}

// sum[c] += grad[c] * activation'(x_row[c] + y_row[c] + bias[c])
template <Activation kind, typename Scalar>
MINE_FAST_CLONES void add_pre_activation_grad(const Scalar* grad, const Scalar* x_row, const Scalar* y_row,
                                              const Scalar* bias, int64_t width, accumulate_t<Scalar> slope,
                                              accumulate_t<Scalar>* sum) {
  using T = accumulate_t<Scalar>;
  for (int64_t c = 0; c < width; ++c)
    sum[c] += static_cast<T>(grad[c]) *
              activation_derivative<kind, T>(
                  static_cast<T>(x_row[c]) + static_cast<T>(y_row[c]) + static_cast<T>(bias[c]), slope);
}

// Calls body(ScalarTag, ActivationTag) for the run-time dtype and activation.
template <typename Body>
void with_types(const Tensor& t, int64_t activation, Body&& body) {
  with_floating_dtype(t, "x_part", [&](auto scalar) {
    const bool known = with_activation(activation, [&](auto kind) { body(scalar, kind); });
    STD_TORCH_CHECK(known, "unknown activation code ", activation);
  });
}

Tensor paired_first_layer(const Tensor& x_part,  // [B, h]
                          const Tensor& y_part,  // [B, h]
                          const Tensor& bias,    // [h]
                          const Tensor& key,     // [2] int64
                          int64_t shuffles, int64_t activation, double slope) {
  check_parts(x_part, y_part, bias);
  const Tensor x_rows = as_contiguous(x_part), y_rows = as_contiguous(y_part), offset = as_contiguous(bias);
  const int64_t rows = x_rows.size(0), width = x_rows.size(1);
  const ShuffleTable table(key, rows, shuffles);
  Tensor hidden = empty_tensor(x_rows, {(1 + shuffles) * rows, width});
  with_types(x_rows, activation, [&](auto scalar, auto kind) {
    using Scalar = typename decltype(scalar)::type;
    const Scalar* xs = static_cast<const Scalar*>(x_rows.const_data_ptr());
    const Scalar* ys = static_cast<const Scalar*>(y_rows.const_data_ptr());
    const Scalar* bs = static_cast<const Scalar*>(offset.const_data_ptr());
    Scalar* out = static_cast<Scalar*>(hidden.mutable_data_ptr());
    parallel_rows((1 + shuffles) * rows, width, [&](int64_t begin, int64_t end) {
      for_each_row(begin, end, rows, [&](int64_t r, int64_t i, int64_t block) {
        const int64_t j = block == 0 ? i : table.partner(i, block - 1);
        add_and_activate<decltype(kind)::value>(xs + i * width, ys + j * width, bs, width,
                                                static_cast<accumulate_t<Scalar>>(slope), out + r * width);
      });
    });
  });
  return hidden;
}

std::tuple<Tensor, Tensor> paired_first_layer_backward(const Tensor& grad,    // [(1 + S) * B, h]
                                                       const Tensor& x_part,  // [B, h]
                                                       const Tensor& y_part,  // [B, h]
                                                       const Tensor& bias,    // [h]
                                                       const Tensor& key,     // [2] int64
                                                       int64_t shuffles, int64_t activation, double slope) {
  check_parts(x_part, y_part, bias);
  const Tensor source = as_contiguous(grad), x_rows = as_contiguous(x_part), y_rows = as_contiguous(y_part),
               offset = as_contiguous(bias);
  const int64_t rows = x_rows.size(0), width = x_rows.size(1);
  check_parts_grad(source, x_rows, shuffles);
  const ShuffleTable table(key, rows, shuffles);
  Tensor grad_x = empty_tensor(x_rows, {rows, width});
  Tensor grad_y = empty_tensor(x_rows, {rows, width});
  with_types(x_rows, activation, [&](auto scalar, auto kind) {
    using Scalar = typename decltype(scalar)::type;
    using T = accumulate_t<Scalar>;
    constexpr Activation act = decltype(kind)::value;
    const Scalar* g = static_cast<const Scalar*>(source.const_data_ptr());
    const Scalar* xs = static_cast<const Scalar*>(x_rows.const_data_ptr());
    const Scalar* ys = static_cast<const Scalar*>(y_rows.const_data_ptr());
    const Scalar* bs = static_cast<const Scalar*>(offset.const_data_ptr());
    Scalar* gx = static_cast<Scalar*>(grad_x.mutable_data_ptr());
    Scalar* gy = static_cast<Scalar*>(grad_y.mutable_data_ptr());
    const T slope_value = static_cast<T>(slope);
    parallel_rows(rows, width * 2 * (1 + shuffles), [&](int64_t begin, int64_t end) {
      std::vector<T> x_sum(width), y_sum(width);
      for (int64_t i = begin; i < end; ++i) {
        // Row i as x and row i as y share the joint pair and part in every shuffle.
        std::fill(x_sum.begin(), x_sum.end(), T(0));
        add_pre_activation_grad<act>(g + i * width, xs + i * width, ys + i * width, bs, width, slope_value,
                                     x_sum.data());
        std::copy(x_sum.begin(), x_sum.end(), y_sum.begin());
        for (int64_t s = 0; s < shuffles; ++s) {
          const Scalar* block = g + (1 + s) * rows * width;
          const int64_t partner = table.partner(i, s), owner = table.owner(i, s);
          add_pre_activation_grad<act>(block + i * width, xs + i * width, ys + partner * width, bs, width, slope_value,
                                       x_sum.data());
          add_pre_activation_grad<act>(block + owner * width, xs + owner * width, ys + i * width, bs, width,
                                       slope_value, y_sum.data());
        }
        for (int64_t c = 0; c < width; ++c) {
          gx[i * width + c] = static_cast<Scalar>(x_sum[c]);
          gy[i * width + c] = static_cast<Scalar>(y_sum[c]);
        }
      }
    });
  });
  return {grad_x, grad_y};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mine_fast, CPU, m) {
  m.impl("paired_first_layer", TORCH_BOX(&paired_first_layer));
  m.impl("paired_first_layer_backward", TORCH_BOX(&paired_first_layer_backward));
}

}  // namespace mine_fast
