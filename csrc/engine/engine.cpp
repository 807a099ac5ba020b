// The step loop: where the next batch is, the optimiser's settings, and what is left behind when a run ends early.
#include "engine.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "all_pairs_step.h"

namespace mine_fast::engine {

Engine::Engine(Network layout, Loss loss, double alpha, uint64_t seed)
    : network(std::move(layout)),
      parameters(network.size),
      first_moment(network.size),
      second_moment(network.size),
      average(network.size),
      log_ema(-INFINITY),
      kernels(available_kernels().front()),
      loss_(loss),
      alpha_(alpha),
      seed_(seed) {}

// Where the next batch begins; a pass whose rest fills no batch is over.
StepState Engine::state(int64_t rows, int64_t batch) const {
  const bool fits = position + batch <= rows;
  return {seed_, offset, fits ? epoch : epoch + 1, fits ? position : 0, log_ema};
}

int64_t Engine::threads_of(int64_t requested, int64_t batch, int64_t shuffles) const {
  if (requested > 0) return std::min(requested, batch);
  const int64_t partners = shuffles == kAllPairs ? batch : 1 + shuffles;
  const double pairs = static_cast<double>(partners) * static_cast<double>(batch);
  const double rows = 2.0 * static_cast<double>(batch * network.layers[0].in * network.layers[0].width);
  return threads_for(pairs * static_cast<double>(network.multiply_adds_per_pair()) + rows, batch);
}

std::unique_ptr<BatchStep> Engine::make_step(int64_t batch, int64_t shuffles, ThreadPool& pool) const {
  if (shuffles == kAllPairs) return std::make_unique<AllPairsStep>(network, *kernels, batch, loss_, alpha_, pool);
  return std::make_unique<Step>(network, *kernels, batch, shuffles, loss_, alpha_, pool);
}

void Engine::update(BatchStep& step, float scale, const TrainOptions& options, double rate) {
  float* gradient = step.gradient();
  double factor = scale;
  if (std::isfinite(options.max_grad_norm)) {
    const double norm = std::abs(factor) * std::sqrt(kernels->sum_of_squares(gradient, network.size));
    factor *= std::min(1.0, options.max_grad_norm / (norm + 1e-6));  // torch.nn.utils.clip_grad_norm_
  }
  const double t = static_cast<double>(++adam_step);
  AdamSettings settings{};
  settings.gradient_scale = static_cast<float>(factor);
  settings.rate = static_cast<float>(rate);
  settings.new1 = static_cast<float>(1 - options.beta1);
  settings.beta2 = static_cast<float>(options.beta2);
  settings.new2 = static_cast<float>(1 - options.beta2);
  settings.eps = static_cast<float>(options.eps);
  settings.weight_decay = static_cast<float>(options.weight_decay);
  settings.step_size = static_cast<float>(rate / (1 - std::pow(options.beta1, t)));
  settings.root_correction = static_cast<float>(std::sqrt(1 - std::pow(options.beta2, t)));
  settings.decoupled = options.decoupled;
  const bool averaged = !std::isnan(options.averaging);
  if (averaged)
    settings.averaging =
        static_cast<float>(std::max(1 - options.averaging, 1 / static_cast<double>(++average_updates)));
  kernels->adam(parameters.data(), gradient, first_moment.data(), second_moment.data(),
                averaged ? average.data() : nullptr, network.size, settings);
}

int64_t Engine::train(const Data& data, const TrainOptions& options, double* losses, const Progress& progress,
                      const Poll& poll) {
  const int64_t batch = std::min(options.batch_size, data.rows);
  ThreadPool pool(threads_of(options.threads, batch, options.shuffles));
  const std::unique_ptr<BatchStep> step = make_step(batch, options.shuffles, pool);
  for (int64_t s = 0; s < options.steps; ++s) {
    const StepState now = state(data.rows, batch);
    const BatchStep::Result result = step->compute(data, parameters.data(), now, poll);
    if (!std::isfinite(result.term.loss) || !std::isfinite(result.scale))
      throw Divergence("the loss became " + std::to_string(result.term.loss) + " in step " + std::to_string(s) +
                       " of this run (step " + std::to_string(offset) +
                       " of the engine); the state before that step is kept");
    update(*step, result.scale, options, options.learning_rates[s]);
    losses[s] = result.term.loss;
    log_ema = result.term.log_ema;
    ++offset;
    epoch = now.epoch;
    position = now.position + batch;
    if (!progress(s + 1)) return s + 1;
  }
  return options.steps;
}

DvTerm<double> Engine::gradient(const Data& data, int64_t batch_size, int64_t shuffles, int64_t threads, float* flat,
                                const Poll& poll) {
  const int64_t batch = std::min(batch_size, data.rows);
  ThreadPool pool(threads_of(threads, batch, shuffles));
  const std::unique_ptr<BatchStep> step = make_step(batch, shuffles, pool);
  const BatchStep::Result result = step->compute(data, parameters.data(), state(data.rows, batch), poll);
  kernels->scale(step->gradient(), network.size, result.scale);
  network.to_flat(step->gradient(), flat);
  return result.term;
}

void Engine::score(const Data& data, float* scores, const Poll& poll) {
  constexpr int64_t kRows = 128;
  const HiddenLayer& first = network.layers[0];
  const int64_t dx = network.x_width, dy = network.y_width;
  Tile tile(network, *kernels, kRows);
  Buffer<float> x_part(kRows * first.stride), y_part(kRows * first.stride), transposed(network.transposed),
      zeros(network.max_stride);
  for (size_t l = 1; l < network.layers.size(); ++l) {
    const HiddenLayer& layer = network.layers[l];
    kernels->transpose(parameters.data() + layer.parameters, layer.in_stride, layer.width, layer.in + 1,
                       transposed.data() + layer.transposed, layer.stride);
  }
  const StepWeights weights{parameters.data(), transposed.data(), nullptr};
  const float* bias = network.x_weights(parameters.data()) + dx * first.stride;
  std::vector<int32_t> same(kRows);
  for (int32_t r = 0; r < kRows; ++r) same[r] = r;
  for (int64_t begin = 0; begin < data.rows; begin += kRows) {
    poll();
    const int64_t rows = std::min(kRows, data.rows - begin);
    kernels->product({rows, first.width, dx, data.x + begin * dx, dx, 1, network.x_weights(parameters.data()),
                      first.stride, x_part.data(), first.stride, bias});
    kernels->product({rows, first.width, dy, data.y + begin * dy, dy, 1, network.y_weights(parameters.data()),
                      first.stride, y_part.data(), first.stride, zeros.data()});
    const float* tile_scores =
        tile.forward(weights, x_part.data(), y_part.data(), same.data(), same.data(), rows, nullptr, nullptr);
    std::copy_n(tile_scores, rows, scores + begin);
  }
}

}  // namespace mine_fast::engine
