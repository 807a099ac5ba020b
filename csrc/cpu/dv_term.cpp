// CPU kernels of the Donsker-Varadhan term: one pass over the scores forward, one pass backward.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>

#include "../checks.h"
#include "parallel.h"

namespace mine_fast {
namespace {

constexpr int64_t kBlock = 512;  // scores that stay in L1 between the block's maximum and its sum
constexpr int kLanes = 16;       // independent partial sums, so that the compiler can vectorise them

template <typename Scalar>
MINE_FAST_CLONES double block_sum(const Scalar* scores, int64_t count) {
  double lane[kLanes] = {};  // double: 512 finite fp32 scores can sum to more than fp32 holds
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int l = 0; l < kLanes; ++l) lane[l] += static_cast<double>(static_cast<accumulate_t<Scalar>>(scores[i + l]));
  for (; i < count; ++i) lane[0] += static_cast<double>(static_cast<accumulate_t<Scalar>>(scores[i]));
  double sum = 0;
  for (int l = 0; l < kLanes; ++l) sum += lane[l];
  return sum;
}

template <typename Scalar>
MINE_FAST_CLONES LogSumExp<accumulate_t<Scalar>> block_log_sum_exp(const Scalar* scores, int64_t count) {
  using T = accumulate_t<Scalar>;
  T value[kBlock] = {};
  for (int64_t i = 0; i < count; ++i) value[i] = static_cast<T>(scores[i]);
  T top = value[0];  // a NaN passed over here still reaches the sum
  for (int64_t i = 1; i < count; ++i) top = top < value[i] ? value[i] : top;
  const T origin = LogSumExp<T>::origin(top);
  T lane[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int l = 0; l < kLanes; ++l) lane[l] += exp_of(value[i + l] - origin);
  for (; i < count; ++i) lane[0] += exp_of(value[i] - origin);
  T sum = 0;
  for (int l = 0; l < kLanes; ++l) sum += lane[l];
  return LogSumExp<T>::of_group(top, sum);
}

template <typename Scalar>
DvTerm<accumulate_t<Scalar>> reduce(const Scalar* scores, int64_t joint_rows, int64_t marginal_rows,
                                    accumulate_t<Scalar> log_ema, double alpha, Loss loss) {
  using T = accumulate_t<Scalar>;
  double joint = 0;  // the blocks' sums: a second-level accumulator keeps long fp32 sums exact
  for (int64_t i = 0; i < joint_rows; i += kBlock) joint += block_sum(scores + i, std::min(kBlock, joint_rows - i));
  LogSumExp<double> marginal;
  for (int64_t i = 0; i < marginal_rows; i += kBlock) {
    const auto block = block_log_sum_exp(scores + joint_rows + i, std::min(kBlock, marginal_rows - i));
    marginal.merge({static_cast<double>(block.max), static_cast<double>(block.sum)});
  }
  const DvTerm<double> term = dv_term<double>(joint / joint_rows, marginal.log_sum() - std::log(double(marginal_rows)),
                                              static_cast<double>(log_ema), alpha, loss);
  return {static_cast<T>(term.loss), static_cast<T>(term.joint_mean), static_cast<T>(term.log_mean_exp),
          static_cast<T>(term.log_ema), static_cast<T>(term.log_normaliser)};
}

std::tuple<Tensor, Tensor, Tensor> dv_term_forward(
    const Tensor& scores,   // [N + M]
    int64_t joint_rows,     // N
    const Tensor& log_ema,  // [], fp32 or fp64 as the accumulation type of scores
    double alpha, int64_t loss) {
  const Tensor source = as_contiguous(scores);
  check_dv_term(source, joint_rows, log_ema, alpha, loss);
  const int64_t marginal_rows = source.numel() - joint_rows;
  Tensor value = empty_tensor(log_ema, {});
  Tensor new_log_ema = empty_tensor(log_ema, {});
  Tensor statistics = empty_tensor(log_ema, {3});
  with_floating_dtype(source, "scores", [&](auto tag) {
    using Scalar = typename decltype(tag)::type;
    using T = accumulate_t<Scalar>;
    const DvTerm<T> term = reduce(static_cast<const Scalar*>(source.const_data_ptr()), joint_rows, marginal_rows,
                                  *static_cast<const T*>(log_ema.const_data_ptr()), alpha, static_cast<Loss>(loss));
    *static_cast<T*>(value.mutable_data_ptr()) = term.loss;
    *static_cast<T*>(new_log_ema.mutable_data_ptr()) = term.log_ema;
    T* out = static_cast<T*>(statistics.mutable_data_ptr());
    out[0] = term.joint_mean;
    out[1] = term.log_mean_exp;
    out[2] = term.log_normaliser;
  });
  return {value, new_log_ema, statistics};
}

template <typename Scalar>
MINE_FAST_CLONES void marginal_weights(const Scalar* scores, int64_t count, accumulate_t<Scalar> log_normaliser,
                                       accumulate_t<Scalar> scale, Scalar* grad) {
  using T = accumulate_t<Scalar>;
  for (int64_t i = 0; i < count; ++i)
    grad[i] = static_cast<Scalar>(scale * exp_of(static_cast<T>(scores[i]) - log_normaliser));
}

Tensor dv_term_backward(const Tensor& grad,    // [], the upstream gradient of the loss
                        const Tensor& scores,  // [N + M]
                        int64_t joint_rows,
                        const Tensor& statistics) {  // [3]
  const Tensor source = as_contiguous(scores);
  check_dv_term_grad(grad, source, joint_rows, statistics);
  const int64_t marginal_rows = source.numel() - joint_rows;
  Tensor grad_scores = empty_tensor(source, {source.numel()});
  with_floating_dtype(source, "scores", [&](auto tag) {
    using Scalar = typename decltype(tag)::type;
    using T = accumulate_t<Scalar>;
    const T upstream = *static_cast<const T*>(grad.const_data_ptr());
    const T log_normaliser = static_cast<const T*>(statistics.const_data_ptr())[2];
    const Scalar* in = static_cast<const Scalar*>(source.const_data_ptr());
    Scalar* out = static_cast<Scalar*>(grad_scores.mutable_data_ptr());
    std::fill(out, out + joint_rows, static_cast<Scalar>(-upstream / static_cast<T>(joint_rows)));
    marginal_weights(in + joint_rows, marginal_rows, log_normaliser, upstream / static_cast<T>(marginal_rows),
                     out + joint_rows);
  });
  return grad_scores;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mine_fast, CPU, m) {
  m.impl("dv_term", TORCH_BOX(&dv_term_forward));
  m.impl("dv_term_backward", TORCH_BOX(&dv_term_backward));
}

}  // namespace mine_fast
