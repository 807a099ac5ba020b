// A training step on all pairs of a batch: AllPairs between the first layer's products and their backward.
#pragma once

#include "all_pairs.h"
#include "critic.h"
#include "inputs.h"
#include "network.h"

namespace mine_fast::engine {

class AllPairsStep : public GradientStep {
 public:
  AllPairsStep(const Network& network, const Kernels& kernels, int64_t batch, Loss loss, double alpha,
               ThreadPool& pool);

  Result compute(const Data& data, const float* parameters, const StepState& state, const Poll& poll) override;
  float* gradient() override { return gradient_.data(); }

 private:
  void gather(const Data& data, const StepState& state);

  const Network& network_;
  const Kernels& kernels_;
  const int64_t batch_;
  ThreadPool& pool_;
  AllPairs all_pairs_;
  InputRows x_, y_;                // x with a column of ones
  Buffer<float> x_part_, y_part_;  // [B, stride], bias in x_part
  Buffer<float> x_rows_, y_rows_;  // [B, stride], their gradients
  Buffer<float> gradient_, zeros_;
};

}  // namespace mine_fast::engine
