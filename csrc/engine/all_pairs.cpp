// The passes over the tiles: marginal, then joint.
#include "all_pairs.h"

#include <algorithm>
#include <cmath>

#include "score_reference.h"

namespace mine_fast::engine {

namespace {

constexpr double kBaseAbove = 600.;  // as kRescaleAbove, for the fp64 sums
constexpr int64_t kRowsOfX = 8;      // of a tile; the fewer, the more rows of y, and the more to add up for each pair

void add_scaled(double* __restrict sums, const float* __restrict values, int64_t count, double factor) {
  for (int64_t n = 0; n < count; ++n) sums[n] += factor * static_cast<double>(values[n]);
}

void add(double* __restrict sums, const double* __restrict values, int64_t count) {
  for (int64_t n = 0; n < count; ++n) sums[n] += values[n];
}

void scale(double* values, int64_t count, double factor) {
  for (int64_t n = 0; n < count; ++n) values[n] *= factor;
}

}  // namespace

AllPairs::Worker::Worker(const Network& network, const Kernels& kernels, int64_t tile_rows, int64_t batch,
                         bool with_gradient)
    : tile(network, kernels, tile_rows, with_gradient), i(tile_rows), j(tile_rows), pair(tile_rows) {
  if (!with_gradient) return;
  const int64_t stride = network.layers[0].stride;
  recent.resize(network.size);
  x_recent.resize(tile_rows * stride);
  y_recent.resize(tile_rows * stride);
  gradient.resize(network.size);
  y_sums.resize(batch * stride);
}

AllPairs::AllPairs(const Network& network, const Kernels& kernels, int64_t batch, Loss loss, double alpha,
                   bool with_gradient, ThreadPool& pool)
    : network_(network),
      kernels_(kernels),
      batch_(batch),
      loss_(loss),
      alpha_(alpha),
      with_gradient_(with_gradient),
      pool_(pool),
      tile_rows_(rows_of_tile(network)),
      x_sums_(with_gradient ? batch * network.layers[0].stride : 0),
      prepared_(network, kernels, true) {
  const int64_t threads = pool.size();
  for (int64_t t = 0; t < threads; ++t) {
    workers_.push_back(std::make_unique<Worker>(network, kernels, tile_rows_, batch, with_gradient));
    workers_[t]->begin = batch * t / threads;
    workers_[t]->end = batch * (t + 1) / threads;
  }
}

// From one pair to the next both rows change, so that no sum waits for the one before it.
int64_t AllPairs::list_marginal(Worker& worker, const Block& block) const {
  int64_t pairs = 0;
  for (int64_t first = 0; first < block.y_rows; ++first) {
    int64_t column = first;
    for (int64_t row = 0; row < block.x_rows; ++row) {
      const int64_t i = block.x + row, j = block.y + column;
      if (i != j) {
        worker.i[pairs] = static_cast<int32_t>(row);
        worker.j[pairs] = static_cast<int32_t>(column);
        worker.pair[pairs] = (j > i ? j - i : j - i + batch_) * batch_ + i;
        ++pairs;
      }
      if (++column == block.y_rows) column = 0;
    }
  }
  return pairs;
}

int64_t AllPairs::list_joint(Worker& worker, const Block& block) const {
  for (int64_t row = 0; row < block.x_rows; ++row) {
    worker.i[row] = worker.j[row] = static_cast<int32_t>(row);
    worker.pair[row] = block.x + row;
  }
  return block.x_rows;
}

bool AllPairs::poll_on(const Worker& worker) {
  if (&worker == workers_[0].get()) {
    try {
      (*poll_)();
    } catch (...) {
      cancelled_ = true;
      throw;
    }
  }
  return !cancelled_;
}

const float* AllPairs::forward(Worker& worker, const Block& block, int64_t pairs) {
  const int64_t stride = network_.layers[0].stride;
  return worker.tile.forward(weights_, x_part_ + block.x * stride, y_part_ + block.y * stride, worker.i.data(),
                             worker.j.data(), pairs, noise_, worker.pair.data());
}

// Of the tile of the last forward, by its row_weight(), which times `factor` are the weights of the fp64 sums.
void AllPairs::backward(Worker& worker, const Block& block, double factor) {
  const int64_t stride = network_.layers[0].stride;
  std::fill_n(worker.x_recent.data(), block.x_rows * stride, 0.f);
  std::fill_n(worker.y_recent.data(), block.y_rows * stride, 0.f);
  worker.tile.backward(weights_, worker.tile.row_weight(), false,
                       {worker.recent.data(), worker.x_recent.data(), worker.y_recent.data()});
  add_scaled(x_sums_.data() + block.x * stride, worker.x_recent.data(), block.x_rows * stride, factor);
  add_scaled(worker.y_sums.data() + block.y * stride, worker.y_recent.data(), block.y_rows * stride, factor);
}

void AllPairs::flush(Worker& worker) {
  worker.tiles = 0;
  if (!with_gradient_) return;
  const int64_t later = later_parameters(network_), count = network_.size - later;
  const double factor = std::isfinite(worker.reference) ? std::exp(worker.reference - worker.base) : 1.;
  add_scaled(worker.gradient.data() + later, worker.recent.data() + later, count, factor);
  std::fill_n(worker.recent.data() + later, count, 0.f);
}

void AllPairs::scale_sums(Worker& worker, double factor) {
  if (!with_gradient_) return;
  const int64_t stride = network_.layers[0].stride;
  scale(worker.gradient.data(), network_.size, factor);
  scale(x_sums_.data() + worker.begin * stride, (worker.end - worker.begin) * stride, factor);
  scale(worker.y_sums.data(), batch_ * stride, factor);
}

void AllPairs::start(Worker& worker) {
  worker.tiles = 0;
  worker.reference = -INFINITY;
  worker.base = 0;
  worker.marginal = {};
  worker.joint_sum = 0;
  if (!with_gradient_) return;
  const int64_t stride = network_.layers[0].stride;
  worker.recent.clear();
  worker.gradient.clear();
  worker.y_sums.clear();
  std::fill_n(x_sums_.data() + worker.begin * stride, (worker.end - worker.begin) * stride, 0.);
}

void AllPairs::set_reference(Worker& worker, float reference) {
  const bool first = !std::isfinite(worker.reference);
  flush(worker);
  worker.reference = reference;
  if (!first && reference - worker.base <= kBaseAbove) return;
  if (!first) scale_sums(worker, std::exp(worker.base - reference));
  worker.base = reference;
}

void AllPairs::marginal_tile(Worker& worker, const Block& block) {
  const int64_t pairs = list_marginal(worker, block);
  if (pairs == 0) return;
  const float* scores = forward(worker, block, pairs);
  const float most = *std::max_element(scores, scores + pairs);
  // Weights that are too small for fp32 do not count beside the one that made the reference.
  if (std::isfinite(most) && !(most - worker.reference <= kRescaleAbove)) set_reference(worker, most);
  const float reference = std::isfinite(worker.reference) ? worker.reference : 0.f;
  float* weight = worker.tile.row_weight();
  worker.marginal.merge({reference, kernels_.exponentials(scores, pairs, reference, weight)});
  if (!with_gradient_) return;
  backward(worker, block, std::exp(reference - worker.base));
  if (++worker.tiles == kFlushTiles) flush(worker);
}

void AllPairs::marginal_pass(Worker& worker) {
  start(worker);
  const int64_t x_rows = equal_parts(worker.end - worker.begin, kRowsOfX);
  const int64_t y_rows = equal_parts(batch_, tile_rows_ / kRowsOfX);
  for (int64_t x = worker.begin; x < worker.end; x += x_rows) {
    for (int64_t y = 0; y < batch_; y += y_rows) {
      if (!poll_on(worker)) return;
      marginal_tile(worker, {x, std::min(x_rows, worker.end - x), y, std::min(y_rows, batch_ - y)});
    }
  }
  flush(worker);
}

void AllPairs::joint_pass(Worker& worker) {
  worker.reference = 0;
  worker.base = 0;
  const int64_t rows = equal_parts(worker.end - worker.begin, tile_rows_);
  for (int64_t begin = worker.begin; begin < worker.end; begin += rows) {
    if (!poll_on(worker)) return;
    const int64_t here = std::min(rows, worker.end - begin);
    const Block block{begin, here, begin, here};
    const float* scores = forward(worker, block, list_joint(worker, block));
    for (int64_t r = 0; r < here; ++r) worker.joint_sum += scores[r];
    if (!with_gradient_) continue;
    std::fill_n(worker.tile.row_weight(), here, static_cast<float>(-1. / static_cast<double>(batch_)));
    backward(worker, block, 1.);
    if (++worker.tiles == kFlushTiles) flush(worker);
  }
  flush(worker);
}

// The sums of all workers; `weights` is the sum of all row weights.
void AllPairs::merge(const float* parameters, double weights) {
  Worker& whole = *workers_[0];
  for (size_t t = 1; t < workers_.size(); ++t) {
    add(whole.gradient.data(), workers_[t]->gradient.data(), network_.size);
    add(whole.y_sums.data(), workers_[t]->y_sums.data(), whole.y_sums.size());
  }
  const HiddenLayer& last = network_.last();
  whole.gradient[network_.output + last.width] = weights;  // of the output bias, exactly
  if (Tile::last_rows_unscaled(network_)) {
    for (int64_t n = 0; n < last.width; ++n)
      scale(whole.gradient.data() + last.parameters + n * last.in_stride, last.in_stride,
            parameters[network_.output + n]);
  }
}

DvTerm<double> AllPairs::compute(const float* parameters, const float* x_part, const float* y_part, double log_ema,
                                 const NoiseKey* noise, const Poll& poll) {
  poll_ = &poll;
  cancelled_ = false;
  x_part_ = x_part;
  y_part_ = y_part;
  noise_ = noise;
  weights_ = prepared_.of(parameters);
  pool_.run([&](int64_t t) { marginal_pass(*workers_[t]); });

  const double rows = static_cast<double>(batch_), pairs = rows * (rows - 1);
  LogSumExp<double> marginal;
  for (const auto& worker : workers_) marginal.merge(worker->marginal);
  const double log_mean_exp = marginal.log_sum() - std::log(pairs);
  const double log_normaliser = dv_term<double>(0, log_mean_exp, log_ema, alpha_, loss_).log_normaliser;
  pool_.run([&](int64_t t) {
    scale_sums(*workers_[t], std::exp(workers_[t]->base - log_normaliser) / pairs);
    joint_pass(*workers_[t]);
  });

  double joint_sum = 0;
  for (const auto& worker : workers_) joint_sum += worker->joint_sum;
  if (with_gradient_) merge(parameters, std::expm1(log_mean_exp - log_normaliser));
  return dv_term<double>(joint_sum / rows, log_mean_exp, log_ema, alpha_, loss_);
}

}  // namespace mine_fast::engine
