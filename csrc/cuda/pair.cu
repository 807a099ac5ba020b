// CUDA side of pairing x with y and its shuffles: checks, allocation, launch.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "on_device.h"
#include "pair.cuh"

namespace mine_fast {
namespace {

Tensor pair(const Tensor& x,    // [B, dx]
            const Tensor& y,    // [B, dy]
            const Tensor& key,  // [2] int64
            int64_t shuffles) {
  const Tensor x_rows = as_contiguous(x), y_rows = as_contiguous(y);
  check_pair(x_rows, y_rows);
  const int64_t rows = x_rows.size(0), x_width = x_rows.size(1), y_width = y_rows.size(1);
  const Tensor packed = packed_key(key);
  check_shuffle(rows, shuffles);
  check_one_device(x_rows, {&y_rows, &key});
  const OnDeviceOf here(x_rows);
  Tensor paired = empty_tensor(x_rows, {(1 + shuffles) * rows, x_width + y_width});
  if (paired.numel() == 0) return paired;
  const int64_t item = static_cast<int64_t>(x_rows.element_size());
  launch_pair(x_rows.const_data_ptr(), y_rows.const_data_ptr(), data<int64_t>(packed), rows, x_width * item,
              y_width * item, shuffles, paired.mutable_data_ptr(), here.stream());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return paired;
}

std::tuple<Tensor, Tensor> pair_backward(const Tensor& grad,  // [(1 + S) * B, dx + dy]
                                         const Tensor& key,   // [2] int64
                                         int64_t x_width, int64_t shuffles) {
  const Tensor source = as_contiguous(grad);
  check_pair_grad(source, x_width, shuffles);
  const int64_t rows = source.size(0) / (1 + shuffles), y_width = source.size(1) - x_width;
  const Tensor packed = packed_key(key);
  check_shuffle(rows, shuffles);
  check_one_device(source, {&key});
  const OnDeviceOf here(source);
  Tensor grad_x = empty_tensor(source, {rows, x_width});
  Tensor grad_y = empty_tensor(source, {rows, y_width});
  if (source.numel() == 0) return {grad_x, grad_y};
  with_device_dtype(source, "grad", [&](auto tag) {
    using Scalar = typename decltype(tag)::type;
    launch_pair_backward(data<Scalar>(source), data<int64_t>(packed), rows, x_width, y_width, shuffles,
                         mutable_data<Scalar>(grad_x), mutable_data<Scalar>(grad_y), here.stream());
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {grad_x, grad_y};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mine_fast, CUDA, m) {
  m.impl("pair", TORCH_BOX(&pair));
  m.impl("pair_backward", TORCH_BOX(&pair_backward));
}

}  // namespace mine_fast
