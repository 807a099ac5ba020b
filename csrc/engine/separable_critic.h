// The separable critic T(x, y) = phi(x) . psi(y) + a(x) + b(y), two towers, trained on all pairs of a batch.
//
// With f = [phi, a, 1] and g = [psi, 1, b] the scores of all pairs are one product, T = F G^T. The weights of the
// marginal pairs (i != j), W = exp(T - m), are made and used up tile by tile: sums W G and W^T F, each [B, outputs].
// The reference m is a good guess of the log normaliser (the last log-EMA) and moves when scores exceed it by much.
// Then the gradients are c W G - G / B and c W^T F - F / B, c = exp(m - log normaliser) / (B (B - 1)), and go down the
// towers.
//
// Memory: O(B x widths) and one tile of W. One thread: steps of this size are shared out over critics and folds.
#pragma once

#include <vector>

#include "critic.h"
#include "network.h"

namespace mine_fast::engine {

class SeparableCritic : public Critic {
 public:
  // Layers of the towers, the last one linear with as many outputs in both: those of phi and a, and of psi and b.
  SeparableCritic(Layers x_layers, Layers y_layers);

  int64_t size() const override { return x_layers.size + y_layers.size; }
  int64_t flat_size() const override { return x_layers.flat_size + y_layers.flat_size; }
  void from_flat(const float* flat, float* padded) const override;
  void to_flat(const float* padded, float* flat) const override;
  double multiply_adds(int64_t batch, int64_t shuffles) const override;
  std::unique_ptr<GradientStep> step(const Kernels& kernels, int64_t batch, int64_t shuffles, Loss loss, double alpha,
                                     ThreadPool& pool) const override;
  void score(const Kernels& kernels, const float* parameters, const Data& data, const Partners& partners, float* scores,
             const Poll& poll) const override;

  int64_t outputs() const { return x_layers.last().width; }
  int64_t stride() const { return x_layers.last().stride; }

  // Parameters of the tower of x, then of y, in the padded layout and in torch's.
  const Layers x_layers, y_layers;
};

// Scores [shuffles, n] of f_i . g_partner, f and g [n, stride] with zeros behind their width.
void score_factors(const Kernels& kernels, const float* f, const float* g, int64_t stride, int64_t width, int64_t n,
                   const Partners& partners, float* scores, const Poll& poll);

}  // namespace mine_fast::engine
