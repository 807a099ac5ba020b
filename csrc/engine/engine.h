// The native training engine: trains a critic on two arrays, on the CPU, without torch.
//
// Where to look:
//   engine            state, optimiser, loop; threads: the pool and its size
//   critic            what the engine asks of a critic, of which there are two
//   concat_critic     reads a pair at once: network (parameters in memory) -> prepared_weights (turned for a step) ->
//                     inputs (the rows of a batch in the first layer), noise -> tile (forward and backward of some
//                     pairs) -> step (shuffles of a batch) or all_pairs_step, all_pairs (all its pairs)
//   separable_critic  two towers, one product of their outputs; score_reference: what exp is taken relative to, in both
//   kernels           the inner loops, compiled once for each instruction set (kernels_*.cpp, kernel_table): simd,
//                     vector_math, activations, elementwise, flat, dense, sparse, subset_sums; on memory of buffer
//   bindings          Python, with all_pairs_bindings; arguments, require: what it may hand over
//
// What a run computes. Pass e over n rows visits row Bijection(seed, e, kPassStream, n)(p) at position p; a batch is B
// = min(batch size, n) positions, and the rest of a pass that fills none is dropped. Step t pairs the rows of its batch
// by MarginalShuffle(seed, t, B) (shuffle.h). The loss is csrc/log_mean_exp.h's, the update torch.optim's Adam or AdamW
// in fp32. A run is determined by its state (parameters, moments, their average, counts, log_ema, epoch, position), the
// kernels and the number of threads, to the bit.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <vector>

#include "../log_mean_exp.h"
#include "buffer.h"
#include "critic.h"
#include "kernels.h"

namespace mine_fast::engine {

// The loss became NaN or infinite; the engine keeps the state before the step that found it.
class Divergence : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct TrainOptions {
  int64_t steps;
  int64_t batch_size;
  int64_t shuffles;              // kAllPairs: all other rows as marginal partners
  const double* learning_rates;  // [steps]
  double beta1, beta2, eps, weight_decay;
  bool decoupled;        // AdamW's decay
  double max_grad_norm;  // infinity: no clipping
  int64_t threads;       // 0: by the work of a step
  double averaging;      // decay of the moving average of the weights; NaN: none is kept
};

class Engine {
 public:
  Engine(std::unique_ptr<const Critic> critic, Loss loss, double alpha, uint64_t seed);

  // Called between steps with the number of finished ones; false ends the run.
  using Progress = std::function<bool(int64_t)>;

  // `poll` is called at least every few milliseconds of work; its exception leaves the state of the last finished step.
  // losses [steps] receives each step's loss. Returns the number of steps made.
  int64_t train(const Data& data, const TrainOptions& options, double* losses, const Progress& progress,
                const Poll& poll);
  // Loss, new log-EMA and gradient (flat order) of the next step, which is not made.
  DvTerm<double> gradient(const Data& data, int64_t batch_size, int64_t shuffles, int64_t threads, float* flat,
                          const Poll& poll);
  // By the parameters, or by their moving average.
  void score(const Data& data, const Partners& partners, bool averaged, float* scores, const Poll& poll);

  const std::unique_ptr<const Critic> critic;
  Buffer<float> parameters, first_moment, second_moment;  // padded layout
  int64_t adam_step = 0;
  // Moving average of the parameters: until 1 / (1 - decay) updates have gone into it, all count alike.
  Buffer<float> average;
  int64_t average_updates = 0;
  double log_ema;
  uint64_t offset = 0, epoch = 0;
  int64_t position = 0;
  const Kernels* kernels;

 private:
  StepState state(int64_t rows, int64_t batch) const;
  int64_t threads_of(int64_t requested, int64_t batch, int64_t shuffles) const;
  void update(GradientStep& step, float scale, const TrainOptions& options, double rate);

  const Loss loss_;
  const double alpha_;
  const uint64_t seed_;
};

}  // namespace mine_fast::engine
