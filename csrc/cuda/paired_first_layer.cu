// CUDA side of the paired first layer: checks, allocation, launch.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "on_device.h"
#include "paired_first_layer.cuh"

namespace mine_fast {
namespace {

// Calls body(ScalarTag, ActivationTag) for the run-time dtype and activation.
template <typename Body>
void with_device_types(const Tensor& t, int64_t activation, Body&& body) {
  with_device_dtype(t, "x_part", [&](auto scalar) {
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
  const Tensor packed = packed_key(key);
  check_shuffle(rows, shuffles);
  check_one_device(x_rows, {&y_rows, &offset, &key});
  const OnDeviceOf here(x_rows);
  Tensor hidden = empty_tensor(x_rows, {(1 + shuffles) * rows, width});
  if (hidden.numel() == 0) return hidden;
  with_device_types(x_rows, activation, [&](auto scalar, auto kind) {
    using Scalar = typename decltype(scalar)::type;
    launch_paired_first_layer<decltype(kind)::value>(data<Scalar>(x_rows), data<Scalar>(y_rows), data<Scalar>(offset),
                                                     data<int64_t>(packed), rows, width, shuffles, slope,
                                                     mutable_data<Scalar>(hidden), here.stream());
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
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
  const Tensor packed = packed_key(key);
  check_shuffle(rows, shuffles);
  check_one_device(x_rows, {&source, &y_rows, &offset, &key});
  const OnDeviceOf here(x_rows);
  Tensor grad_x = empty_tensor(x_rows, {rows, width});
  Tensor grad_y = empty_tensor(x_rows, {rows, width});
  if (grad_x.numel() == 0) return {grad_x, grad_y};
  with_device_types(x_rows, activation, [&](auto scalar, auto kind) {
    using Scalar = typename decltype(scalar)::type;
    launch_paired_first_layer_backward<decltype(kind)::value>(
        data<Scalar>(source), data<Scalar>(x_rows), data<Scalar>(y_rows), data<Scalar>(offset), data<int64_t>(packed),
        rows, width, shuffles, slope, mutable_data<Scalar>(grad_x), mutable_data<Scalar>(grad_y), here.stream());
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {grad_x, grad_y};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mine_fast, CUDA, m) {
  m.impl("paired_first_layer", TORCH_BOX(&paired_first_layer));
  m.impl("paired_first_layer_backward", TORCH_BOX(&paired_first_layer_backward));
}

}  // namespace mine_fast
