// The critic on concatenated rows (network.h), trained with shuffles of the batch (step.h) or all its pairs
// (all_pairs_step.h).
#pragma once

#include "critic.h"
#include "network.h"

namespace mine_fast::engine {

class ConcatCritic : public Critic {
 public:
  explicit ConcatCritic(Network network) : Critic(network.x_width, network.y_width), network_(std::move(network)) {}

  int64_t size() const override { return network_.size; }
  int64_t flat_size() const override { return network_.flat_size; }
  void from_flat(const float* flat, float* padded) const override { network_.from_flat(flat, padded); }
  void to_flat(const float* padded, float* flat) const override { network_.to_flat(padded, flat); }
  double multiply_adds(int64_t batch, int64_t shuffles) const override;
  std::unique_ptr<GradientStep> step(const Kernels& kernels, int64_t batch, int64_t shuffles, Loss loss, double alpha,
                                     ThreadPool& pool) const override;
  void score(const Kernels& kernels, const float* parameters, const Data& data, const Partners& partners, float* scores,
             const Poll& poll) const override;

 private:
  const Network network_;
};

}  // namespace mine_fast::engine
