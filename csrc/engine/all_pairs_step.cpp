// The first layer around all pairs: rows of the batch in, the gradient of all parameters out.
#include "all_pairs_step.h"

#include <algorithm>

#include "../shuffle.h"

namespace mine_fast::engine {

AllPairsStep::AllPairsStep(const Network& network, const Kernels& kernels, int64_t batch, Loss loss, double alpha,
                           ThreadPool& pool)
    : network_(network),
      kernels_(kernels),
      batch_(batch),
      pool_(pool),
      all_pairs_(network, kernels, batch, loss, alpha, true, pool),
      x_(kernels, batch, network.x_width + 1),
      y_(kernels, batch, network.y_width),
      x_part_(batch * network.layers[0].stride),
      y_part_(batch * network.layers[0].stride),
      x_rows_(batch * network.layers[0].stride),
      y_rows_(batch * network.layers[0].stride),
      gradient_(network.size),
      zeros_(network.max_stride) {}

// Noise of the inputs is drawn once for each row, as in Step::gather.
void AllPairsStep::gather(const Data& data, const StepState& state) {
  const Bijection order(state.seed, state.epoch, kPassStream, data.rows);
  const NoiseKey noise{state.seed, state.offset};
  for (int64_t i = 0; i < batch_; ++i) {
    const int64_t row = order.apply(state.position + i);
    copy_pair(network_, kernels_, data, row, noise, i, x_.row(i), y_.row(i));
  }
  x_.look_for_zeros();
  y_.look_for_zeros();
}

AllPairsStep::Result AllPairsStep::compute(const Data& data, const float* parameters, const StepState& state,
                                           const Poll& poll) {
  const HiddenLayer& first = network_.layers[0];
  const int64_t threads = pool_.size();
  const NoiseKey noise{state.seed, state.offset};
  gather(data, state);
  pool_.run([&](int64_t t) {
    const int64_t begin = batch_ * t / threads, end = batch_ * (t + 1) / threads, at = begin * first.stride;
    x_.forward(begin, end, network_.x_weights(parameters), first.width, first.stride, x_part_.data() + at,
               zeros_.data());
    y_.forward(begin, end, network_.y_weights(parameters), first.width, first.stride, y_part_.data() + at,
               zeros_.data());
  });
  const DvTerm<double> term =
      all_pairs_.compute(parameters, x_part_.data(), y_part_.data(), state.log_ema, &noise, poll);

  const int64_t later = AllPairs::later_parameters(network_);
  std::copy_n(all_pairs_.gradient() + later, network_.size - later, gradient_.data() + later);
  std::copy_n(all_pairs_.x_rows(), x_rows_.size(), x_rows_.data());
  std::copy_n(all_pairs_.y_rows(), y_rows_.size(), y_rows_.data());
  pool_.run([&](int64_t t) {
    const auto columns = [&](const InputRows& rows, const float* grad, float* matrix) {
      rows.backward(rows.columns() * t / threads, rows.columns() * (t + 1) / threads, grad, first.width, first.stride,
                    matrix, zeros_.data());
    };
    columns(x_, x_rows_.data(), gradient_.data());
    columns(y_, y_rows_.data(), gradient_.data() + x_.columns() * first.stride);
  });
  return {term, 1.f};
}

}  // namespace mine_fast::engine
