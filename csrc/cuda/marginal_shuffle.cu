// CUDA side of the marginal shuffle: checks, allocation, launch.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "marginal_shuffle.cuh"
#include "on_device.h"

namespace mine_fast {
namespace {

std::tuple<Tensor, Tensor> advance_key(const Tensor& key) {  // [2] int64
  const Tensor packed = packed_key(key);
  const OnDeviceOf here(key);
  Tensor current = empty_tensor(key, {2}), next = empty_tensor(key, {2});
  launch_advance_key(data<int64_t>(packed), mutable_data<int64_t>(current), mutable_data<int64_t>(next), here.stream());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {current, next};
}

Tensor shuffle_index(const Tensor& key,  // [2] int64
                     int64_t rows, int64_t shuffles, bool inverse) {
  const Tensor packed = packed_key(key);
  check_shuffle(rows, shuffles);
  const OnDeviceOf here(key);
  Tensor index = empty_tensor(key, {shuffles, rows});  // [S, B]
  if (index.numel() == 0) return index;
  launch_shuffle_index(data<int64_t>(packed), rows, shuffles, inverse, mutable_data<int64_t>(index), here.stream());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return index;
}

Tensor marginal_shuffle(const Tensor& y,    // [B, ...]
                        const Tensor& key,  // [2] int64
                        int64_t shuffles) {
  const Tensor source = as_contiguous(y);
  const int64_t rows = source.size(0);
  const Tensor packed = packed_key(key);
  check_shuffle(rows, shuffles);
  check_one_device(source, {&key});
  const OnDeviceOf here(source);
  std::vector<int64_t> shape{shuffles};
  for (int64_t d = 0; d < source.dim(); ++d) shape.push_back(source.size(d));
  Tensor shuffled = empty_tensor(source, shape);  // [S, B, ...]
  if (shuffled.numel() == 0) return shuffled;
  const int64_t row_bytes = source.numel() / rows * static_cast<int64_t>(source.element_size());
  launch_marginal_shuffle(source.const_data_ptr(), data<int64_t>(packed), rows, row_bytes, shuffles,
                          shuffled.mutable_data_ptr(), here.stream());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return shuffled;
}

Tensor marginal_shuffle_backward(const Tensor& grad,  // [S, B, ...]
                                 const Tensor& key) {
  const Tensor source = as_contiguous(grad);
  const int64_t shuffles = source.size(0), rows = source.size(1);
  const Tensor packed = packed_key(key);
  check_shuffle(rows, shuffles);
  check_one_device(source, {&key});
  const OnDeviceOf here(source);
  std::vector<int64_t> shape;
  for (int64_t d = 1; d < source.dim(); ++d) shape.push_back(source.size(d));
  Tensor grad_y = empty_tensor(source, shape);  // [B, ...]
  if (grad_y.numel() == 0) return grad_y;
  with_device_dtype(source, "grad", [&](auto tag) {
    using Scalar = typename decltype(tag)::type;
    launch_marginal_shuffle_backward(data<Scalar>(source), data<int64_t>(packed), rows, grad_y.numel() / rows, shuffles,
                                     mutable_data<Scalar>(grad_y), here.stream());
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return grad_y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mine_fast, CUDA, m) {
  m.impl("advance_key", TORCH_BOX(&advance_key));
  m.impl("shuffle_index", TORCH_BOX(&shuffle_index));
  m.impl("marginal_shuffle", TORCH_BOX(&marginal_shuffle));
  m.impl("marginal_shuffle_backward", TORCH_BOX(&marginal_shuffle_backward));
}

}  // namespace mine_fast
