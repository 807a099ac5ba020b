// The Donsker-Varadhan loss of B joint pairs (i, i) and all B (B - 1) pairs (i, j), j != i, and its gradient, in one
// pass over tiles of pairs.
//
// A tile is a few rows of x times a few rows of y. Its forward is followed at once by its backward, with the weights
// exp(T - reference), because the gradient is linear in them: what they lack, exp(reference - log normaliser) / M, is
// known at the end and is one factor for all. The first layer's products W x and W y are the caller's, one per row.
//
// Sums have two levels: those of a tile (of its rows) and of a few tiles (of the parameters) are fp32, and what they
// come to is added up in fp64, also the joint pairs, which cancel most of the rest.
//
// Memory: O(B x first hidden width), and a tile and a gradient for each thread; nothing is kept of a pair.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "../log_mean_exp.h"
#include "buffer.h"
#include "critic.h"
#include "kernels.h"
#include "network.h"
#include "prepared_weights.h"
#include "threads.h"
#include "tile.h"

namespace mine_fast::engine {

class AllPairs {
 public:
  AllPairs(const Network& network, const Kernels& kernels, int64_t batch, Loss loss, double alpha, bool with_gradient,
           ThreadPool& pool);

  // x_part (with the bias) and y_part [B, stride] are the first layer's products; `parameters` has the padded layout,
  // and the first layer's are not read. Noise of hidden layers is added if a key is given, pair (i, j) being number
  // B (j - i mod B) + i. `poll` is called now and then on the calling thread and may throw.
  DvTerm<double> compute(const float* parameters, const float* x_part, const float* y_part, double log_ema,
                         const NoiseKey* noise, const Poll& poll);

  // The gradient of the last loss: of the later layers in the padded layout (the first layer's share is not there), of
  // x_part and of y_part [B, stride].
  const double* gradient() const { return workers_[0]->gradient.data(); }
  const double* x_rows() const { return x_sums_.data(); }
  const double* y_rows() const { return workers_[0]->y_sums.data(); }

  // Where the later layers begin in the padded layout.
  static int64_t later_parameters(const Network& network) {
    return network.layers.size() > 1 ? network.layers[1].parameters : network.output;
  }

 private:
  // A thread's share: the pairs of the rows [begin, end) of x.
  struct Worker {
    Worker(const Network& network, const Kernels& kernels, int64_t tile_rows, int64_t batch, bool with_gradient);
    Tile tile;
    Buffer<float> recent;              // of the parameters, over the tiles since the last flush
    Buffer<float> x_recent, y_recent;  // [tile rows, stride], of one tile's rows
    Buffer<double> gradient, y_sums;   // of all tiles before: padded layout; [B, stride]
    Buffer<int32_t> i, j;              // the tile's pairs, as rows of the tile
    Buffer<int64_t> pair;
    int64_t begin = 0, end = 0;
    int64_t tiles = 0;    // since the last flush
    float reference = 0;  // of the weights in `recent`; -inf before the first finite score
    double base = 0;      // of the weights in the fp64 sums
    LogSumExp<double> marginal;
    double joint_sum = 0;
  };
  // Rows [x, x + x_rows) of x with rows [y, y + y_rows) of y.
  struct Block {
    int64_t x, x_rows, y, y_rows;
  };

  int64_t list_marginal(Worker& worker, const Block& block) const;
  int64_t list_joint(Worker& worker, const Block& block) const;
  const float* forward(Worker& worker, const Block& block, int64_t pairs);
  void backward(Worker& worker, const Block& block, double factor);
  void marginal_pass(Worker& worker);
  void marginal_tile(Worker& worker, const Block& block);
  void joint_pass(Worker& worker);
  void start(Worker& worker);
  void set_reference(Worker& worker, float reference);
  void flush(Worker& worker);
  void scale_sums(Worker& worker, double factor);
  void merge(const float* parameters, double weights);
  bool poll_on(const Worker& worker);

  const Network& network_;
  const Kernels& kernels_;
  const int64_t batch_;
  const Loss loss_;
  const double alpha_;
  const bool with_gradient_;
  ThreadPool& pool_;
  int64_t tile_rows_;
  std::vector<std::unique_ptr<Worker>> workers_;
  Buffer<double> x_sums_;  // [B, stride], each worker's rows its own
  PreparedWeights prepared_;
  StepWeights weights_{};
  const float* x_part_ = nullptr;
  const float* y_part_ = nullptr;
  const NoiseKey* noise_ = nullptr;
  const Poll* poll_ = nullptr;
  std::atomic<bool> cancelled_{false};  // poll threw: the other threads need not finish
};

}  // namespace mine_fast::engine
