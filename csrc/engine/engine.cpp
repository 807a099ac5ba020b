// The step loop: where the next batch is, the optimiser's settings, and what is left behind when a run ends early.
#include "engine.h"

#include <algorithm>
#include <cmath>
#include <string>

namespace mine_fast::engine {

Engine::Engine(std::unique_ptr<const Critic> trained, Loss loss, double alpha, uint64_t seed)
    : critic(std::move(trained)),
      parameters(critic->size()),
      first_moment(critic->size()),
      second_moment(critic->size()),
      average(critic->size()),
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
  return threads_for(critic->multiply_adds(batch, shuffles), batch);
}

void Engine::update(GradientStep& step, float scale, const TrainOptions& options, double rate) {
  float* gradient = step.gradient();
  double factor = scale;
  if (std::isfinite(options.max_grad_norm)) {
    const double norm = std::abs(factor) * std::sqrt(kernels->sum_of_squares(gradient, critic->size()));
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
                averaged ? average.data() : nullptr, critic->size(), settings);
}

int64_t Engine::train(const Data& data, const TrainOptions& options, double* losses, const Progress& progress,
                      const Poll& poll) {
  const int64_t batch = std::min(options.batch_size, data.rows);
  ThreadPool pool(threads_of(options.threads, batch, options.shuffles));
  const auto step = critic->step(*kernels, batch, options.shuffles, loss_, alpha_, pool);
  for (int64_t s = 0; s < options.steps; ++s) {
    const StepState now = state(data.rows, batch);
    const GradientStep::Result result = step->compute(data, parameters.data(), now, poll);
    // As a float: beyond, that of "fdiv" has a gradient that no float holds.
    if (!std::isfinite(static_cast<float>(result.term.loss)) || !std::isfinite(result.scale))
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
  const auto step = critic->step(*kernels, batch, shuffles, loss_, alpha_, pool);
  const GradientStep::Result result = step->compute(data, parameters.data(), state(data.rows, batch), poll);
  kernels->scale(step->gradient(), critic->size(), result.scale);
  critic->to_flat(step->gradient(), flat);
  return result.term;
}

void Engine::score(const Data& data, const Partners& partners, bool averaged, float* scores, const Poll& poll) {
  critic->score(*kernels, (averaged ? average : parameters).data(), data, partners, scores, poll);
}

}  // namespace mine_fast::engine
