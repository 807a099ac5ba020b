// CUDA side of the Donsker-Varadhan term: checks, allocation, launch. The moving average is read and written on the
// device, so that a step waits for nothing.
#include <torch/csrc/stable/library.h>

#include <cmath>
#include <tuple>

#include "dv_term.cuh"
#include "on_device.h"

namespace mine_fast {
namespace {

std::tuple<Tensor, Tensor, Tensor> dv_term_forward(
    const Tensor& scores,   // [N + M]
    int64_t joint_rows,     // N
    const Tensor& log_ema,  // [], fp32 or fp64 as the accumulation type of scores
    double alpha, int64_t loss) {
  const Tensor source = as_contiguous(scores);
  check_dv_term(source, joint_rows, log_ema, alpha, loss);
  const int64_t total = source.numel(), marginal_rows = total - joint_rows;
  check_one_device(source, {&log_ema});
  const OnDeviceOf here(source);
  Tensor value = empty_tensor(log_ema, {});
  Tensor new_log_ema = empty_tensor(log_ema, {});
  Tensor statistics = empty_tensor(log_ema, {3});
  const int64_t blocks = dv_term_blocks(total);
  Tensor partials;  // [3, blocks]
  if (blocks > 1) partials = empty_tensor(log_ema, {3, blocks}, ScalarType::Double);
  const DvSettings settings{joint_rows, marginal_rows, std::log(static_cast<double>(marginal_rows)), alpha,
                            static_cast<Loss>(loss)};
  with_device_dtype(source, "scores", [&](auto tag) {
    using Scalar = typename decltype(tag)::type;
    using T = accumulate_t<Scalar>;
    launch_dv_term<Scalar>(
        data<Scalar>(source), data<T>(log_ema), settings, blocks > 1 ? mutable_data<double>(partials) : nullptr,
        {mutable_data<T>(value), mutable_data<T>(new_log_ema), mutable_data<T>(statistics)}, here.stream());
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {value, new_log_ema, statistics};
}

Tensor dv_term_backward(const Tensor& grad,    // [], the upstream gradient of the loss
                        const Tensor& scores,  // [N + M]
                        int64_t joint_rows,
                        const Tensor& statistics) {  // [3]
  const Tensor source = as_contiguous(scores);
  check_dv_term_grad(grad, source, joint_rows, statistics);
  check_one_device(source, {&grad, &statistics});
  const OnDeviceOf here(source);
  Tensor grad_scores = empty_tensor(source, {source.numel()});
  with_device_dtype(source, "scores", [&](auto tag) {
    using Scalar = typename decltype(tag)::type;
    using T = accumulate_t<Scalar>;
    launch_dv_term_backward<Scalar>(data<T>(grad), data<Scalar>(source), data<T>(statistics), joint_rows,
                                    source.numel() - joint_rows, mutable_data<Scalar>(grad_scores), here.stream());
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return grad_scores;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mine_fast, CUDA, m) {
  m.impl("dv_term", TORCH_BOX(&dv_term_forward));
  m.impl("dv_term_backward", TORCH_BOX(&dv_term_backward));
}

}  // namespace mine_fast
