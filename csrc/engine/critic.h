// What the engine trains: parameters in one padded array, the gradient of a step, and scores. Two kinds:
// concat_critic.h reads a pair at once, separable_critic.h reads x and y apart and scores all pairs of a batch by one
// product.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "../log_mean_exp.h"
#include "kernels.h"
#include "threads.h"

namespace mine_fast::engine {

constexpr int64_t kAllPairs = 0;  // in the place of a number of shuffles

struct Data {
  const float* x;  // [n, dx]
  const float* y;  // [n, dy]
  int64_t rows;    // n
};

// Which row of y every row of x is paired with, [shuffles, n]; null: its own, in the place of one shuffle.
struct Partners {
  const int64_t* rows = nullptr;
  int64_t shuffles = 1;

  int64_t of(int64_t shuffle, int64_t row, int64_t n) const { return rows ? rows[shuffle * n + row] : row; }
};

// What decides a step's loss besides the parameters and the data.
struct StepState {
  uint64_t seed;
  uint64_t offset;   // of the marginal shuffle and the noise: the global step counter
  uint64_t epoch;    // of the order of the rows
  int64_t position;  // in that order, where the batch begins
  double log_ema;
};

// Called now and then on the calling thread; may throw.
using Poll = std::function<void()>;

class GradientStep {
 public:
  struct Result {
    DvTerm<double> term;
    float scale;  // the gradient is scale * gradient()
  };

  virtual ~GradientStep() = default;
  virtual Result compute(const Data& data, const float* parameters, const StepState& state, const Poll& poll) = 0;
  virtual float* gradient() = 0;  // padded layout, times 1 / scale
};

class Critic {
 public:
  Critic(int64_t columns_of_x, int64_t columns_of_y) : x_width(columns_of_x), y_width(columns_of_y) {}
  virtual ~Critic() = default;
  Critic(const Critic&) = delete;
  Critic& operator=(const Critic&) = delete;

  virtual int64_t size() const = 0;       // floats of the padded parameters
  virtual int64_t flat_size() const = 0;  // parameters
  virtual void from_flat(const float* flat, float* padded) const = 0;
  virtual void to_flat(const float* padded, float* flat) const = 0;

  virtual double multiply_adds(int64_t batch, int64_t shuffles) const = 0;
  virtual std::unique_ptr<GradientStep> step(const Kernels& kernels, int64_t batch, int64_t shuffles, Loss loss,
                                             double alpha, ThreadPool& pool) const = 0;
  // Scores [shuffles, n] of the pairs. What is the same in all pairs of a row is computed once for it.
  virtual void score(const Kernels& kernels, const float* parameters, const Data& data, const Partners& partners,
                     float* scores, const Poll& poll) const = 0;

  const int64_t x_width, y_width;
};

}  // namespace mine_fast::engine
