// The passes of one step.
#include "step.h"

#include <algorithm>
#include <cmath>

#include "score_reference.h"

namespace mine_fast::engine {

namespace {

constexpr double kDeferred = 1e4;  // largest factor (times M, or its inverse) that is left to the optimiser

}  // namespace

Step::Worker::Worker(const Network& network, const Kernels& kernels, int64_t tile_rows, int64_t batch)
    : tile(network, kernels, tile_rows, true),
      gradient(network.size),
      y_rows(batch * network.layers[0].stride),
      i(tile_rows),
      j(tile_rows),
      pair(tile_rows) {}

Step::Step(const Network& network, const Kernels& kernels, int64_t batch, int64_t shuffles, Loss loss, double alpha,
           ThreadPool& pool)
    : network_(network),
      kernels_(kernels),
      batch_(batch),
      shuffles_(shuffles),
      loss_(loss),
      alpha_(alpha),
      pool_(pool),
      x_(kernels, batch, network.x_width + 1),
      y_(kernels, batch, network.y_width),
      row_of_slot_(batch),
      x_part_(batch * network.layers[0].stride),
      y_part_(batch * network.layers[0].stride),
      x_rows_(batch * network.layers[0].stride),
      zeros_(network.max_stride),
      prepared_(network, kernels, true) {
  for (const HiddenLayer& layer : network.layers) has_noise_ = has_noise_ || layer.noise > 0.f;
  const int64_t threads = pool.size();
  tile_rows_ = (equal_parts((batch + threads - 1) / threads, rows_of_tile(network)) + 3) / 4 * 4;
  for (int64_t t = 0; t < threads; ++t) {
    workers_.push_back(std::make_unique<Worker>(network, kernels, tile_rows_, batch));
    workers_[t]->begin = batch * t / threads;
    workers_[t]->end = batch * (t + 1) / threads;
  }
}

// Noise of the inputs is drawn once for each row of x and of y, not for each pair, so that the first layer stays one
// product per row. In a shuffle every row occurs once: its pairs have independent noise, as if each drew its own.
// The batch is kept in the order of the marginal shuffle's ranks ("slots"): the partner of slot p is then slot p +
// shift, and every access of the first layer runs along memory.
void Step::gather(const Data& data, const StepState& state) {
  const Bijection order(state.seed, state.epoch, kPassStream, data.rows);
  const MarginalShuffle shuffle(state.seed, state.offset, batch_);
  for (int64_t i = 0; i < batch_; ++i) {
    const int64_t slot = shuffle.rank(i), row = order.apply(state.position + i);
    row_of_slot_[slot] = i;
    copy_pair(network_, kernels_, data, row, noise_, i, x_.row(slot), y_.row(slot));
  }
  x_.look_for_zeros();
  y_.look_for_zeros();
}

template <typename Body>
void Step::for_each_tile(Worker& worker, int64_t shift, int64_t first_pair, Body&& body) {
  for (int64_t begin = worker.begin; begin < worker.end; begin += tile_rows_) {
    if (cancelled_) return;
    if (&worker == workers_[0].get()) poll();
    const int64_t rows = std::min(tile_rows_, worker.end - begin);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t partner = begin + r + shift;
      worker.i[r] = static_cast<int32_t>(begin + r);
      worker.j[r] = static_cast<int32_t>(partner >= batch_ ? partner - batch_ : partner);
      worker.pair[r] = first_pair + row_of_slot_[begin + r];
    }
    const float* scores =
        worker.tile.forward(weights_, x_part_.data(), y_part_.data(), worker.i.data(), worker.j.data(), rows,
                            has_noise_ ? &noise_ : nullptr, worker.pair.data());
    if (++worker.tiles > kFlushTiles) flush(worker);
    body(scores, rows);
  }
}

void Step::poll() {
  try {
    (*poll_)();
  } catch (...) {
    cancelled_ = true;
    throw;
  }
}

void Step::flush(Worker& worker) {
  if (worker.flushed.size() == 0) worker.flushed.resize(network_.size);
  kernels_.add(worker.flushed.data(), worker.gradient.data(), network_.size, 1.f);
  worker.gradient.clear();
  worker.tiles = 1;
}

// Everything that has been summed under the old reference, the first layer's rows included.
void Step::rescale(Worker& worker, float factor) {
  const int64_t stride = network_.layers[0].stride;
  kernels_.scale(worker.gradient.data(), worker.gradient.size(), factor);
  if (worker.flushed.size() > 0) kernels_.scale(worker.flushed.data(), worker.flushed.size(), factor);
  kernels_.scale(x_rows_.data() + worker.begin * stride, (worker.end - worker.begin) * stride, factor);
  kernels_.scale(worker.y_rows.data(), worker.y_rows.size(), factor);
}

void Step::marginal_tile(Worker& worker, const float* scores, int64_t rows, bool set, float guess) {
  const float most = kernels_.maximum(scores, rows);
  if (!worker.has_reference) {
    worker.reference = first_reference(guess, most);
    worker.has_reference = true;
  } else if (most - worker.reference > kRescaleAbove) {
    const double factor = std::exp(static_cast<double>(worker.reference) - static_cast<double>(most));
    rescale(worker, static_cast<float>(factor));
    worker.sum *= factor;
    worker.reference = most;
  }
  worker.sum += kernels_.exponentials(scores, rows, worker.reference, worker.tile.row_weight());
  worker.tile.backward(weights_, worker.tile.row_weight(), set,
                       {worker.gradient.data(), x_rows_.data(), worker.y_rows.data()});
}

void Step::marginal_pass(Worker& worker, const MarginalShuffle& shuffle, float guess) {
  const int64_t stride = network_.layers[0].stride;
  worker.gradient.clear();
  if (worker.flushed.size() > 0) worker.flushed.clear();
  worker.tiles = 0;
  worker.sum = worker.joint_sum = 0;
  worker.has_reference = false;
  // Alone, a worker meets every row of x and of y once in the first shuffle, and can set instead of add.
  const bool alone = workers_.size() == 1;
  if (!alone) {
    worker.y_rows.clear();
    std::fill_n(x_rows_.data() + worker.begin * stride, (worker.end - worker.begin) * stride, 0.f);
  }
  for (int64_t s = 0; s < shuffles_; ++s) {
    for_each_tile(worker, shuffle.shift(s), (1 + s) * batch_, [&](const float* scores, int64_t rows) {
      marginal_tile(worker, scores, rows, alone && s == 0, guess);
    });
  }
}

void Step::joint_pass(Worker& worker) {
  const double weight = -1.0 / (static_cast<double>(batch_) * worker.factor);
  for_each_tile(worker, 0, 0, [&](const float* scores, int64_t rows) {
    for (int64_t r = 0; r < rows; ++r) worker.joint_sum += scores[r];
    std::fill_n(worker.tile.row_weight(), rows, static_cast<float>(weight));
    worker.tile.backward(weights_, worker.tile.row_weight(), false,
                         {worker.gradient.data(), x_rows_.data(), worker.y_rows.data()});
  });
  if (worker.flushed.size() > 0) kernels_.add(worker.gradient.data(), worker.flushed.data(), network_.size, 1.f);
}

// The sums of all workers, in worker 0's units.
void Step::merge(const float* parameters) {
  const int64_t stride = network_.layers[0].stride;
  Worker& whole = *workers_[0];
  for (size_t t = 1; t < workers_.size(); ++t) {
    Worker& part = *workers_[t];
    const float ratio = static_cast<float>(part.factor / whole.factor);
    kernels_.add(whole.gradient.data(), part.gradient.data(), network_.size, ratio);
    kernels_.add(whole.y_rows.data(), part.y_rows.data(), part.y_rows.size(), ratio);
    if (ratio != 1.f) kernels_.scale(x_rows_.data() + part.begin * stride, (part.end - part.begin) * stride, ratio);
  }
  const HiddenLayer& last = network_.last();
  // The output bias's gradient is the sum of all row weights, which cancel: exactly, for mine_biased. So from fp64.
  double weights = -1;
  for (const auto& worker : workers_) weights += worker->marginal_weight;
  whole.gradient[network_.output + last.width] = static_cast<float>(weights / whole.factor);
  if (Tile::last_rows_unscaled(network_)) {
    for (int64_t n = 0; n < last.width; ++n)
      kernels_.scale(whole.gradient.data() + last.parameters + n * last.in_stride, last.in_stride,
                     parameters[network_.output + n]);
  }
}

// dW of the first layer: [X 1]^T x_rows and Y^T y_rows, a share of the columns of X and Y for each thread.
void Step::first_layer_products() {
  const HiddenLayer& first = network_.layers[0];
  const int64_t threads = pool_.size();
  float* out = gradient();
  pool_.run([&](int64_t t) {
    const auto columns = [&](const InputRows& rows, const float* grad, float* matrix) {
      rows.backward(rows.columns() * t / threads, rows.columns() * (t + 1) / threads, grad, first.width, first.stride,
                    matrix, zeros_.data());
    };
    columns(x_, x_rows_.data(), out);
    columns(y_, workers_[0]->y_rows.data(), out + x_.columns() * first.stride);
  });
}

Step::Result Step::compute(const Data& data, const float* parameters, const StepState& state, const Poll& poll) {
  poll_ = &poll;
  cancelled_ = false;
  noise_ = {state.seed, state.offset};
  const HiddenLayer& first = network_.layers[0];
  const MarginalShuffle shuffle(state.seed, state.offset, batch_);
  gather(data, state);
  weights_ = prepared_.of(parameters);
  const float guess = static_cast<float>(loss_ == Loss::kMine ? state.log_ema : -INFINITY);

  pool_.run([&](int64_t t) {
    const int64_t begin = workers_[t]->begin, end = workers_[t]->end, at = begin * first.stride;
    x_.forward(begin, end, network_.x_weights(parameters), first.width, first.stride, x_part_.data() + at,
               zeros_.data());
    y_.forward(begin, end, network_.y_weights(parameters), first.width, first.stride, y_part_.data() + at,
               zeros_.data());
  });
  pool_.run([&](int64_t t) { marginal_pass(*workers_[t], shuffle, guess); });

  const double pairs = static_cast<double>(shuffles_) * static_cast<double>(batch_);
  double reference = -INFINITY, sum = 0;
  for (const auto& worker : workers_) reference = std::max(reference, static_cast<double>(worker->reference));
  for (const auto& worker : workers_) sum += worker->sum * std::exp(worker->reference - reference);
  const double log_mean_exp = reference + std::log(sum / pairs);
  const double log_normaliser = dv_term<double>(0, log_mean_exp, state.log_ema, alpha_, loss_).log_normaliser;
  for (const auto& worker : workers_) {
    worker->factor = std::exp(worker->reference - log_normaliser) / pairs;
    worker->marginal_weight = worker->sum * worker->factor;
    if (!(worker->factor * pairs < kDeferred && worker->factor * pairs > 1 / kDeferred)) {
      rescale(*worker, static_cast<float>(worker->factor));
      worker->factor = 1;
    }
  }
  pool_.run([&](int64_t t) { joint_pass(*workers_[t]); });

  double joint_sum = 0;
  for (const auto& worker : workers_) joint_sum += worker->joint_sum;
  merge(parameters);
  first_layer_products();
  return {dv_term<double>(joint_sum / static_cast<double>(batch_), log_mean_exp, state.log_ema, alpha_, loss_),
          static_cast<float>(workers_[0]->factor)};
}

}  // namespace mine_fast::engine
