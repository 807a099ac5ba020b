// The gradient of one training step: the loss of B joint pairs and S x B marginal pairs, in one pass over tiles.
//
// The marginal tiles come first, weighted exp(T - m) by a reference m that is a good guess of the log normaliser (the
// last log-EMA). They give the normaliser, hence the factor exp(m - log normaliser) / M that these weights still need;
// it is left out of the sums, and the joint tiles go into the same sums with -1 / (B factor). So nothing is stored
// between the passes, and the optimiser applies the factor.
//
// Memory: O(B x first hidden width) and one tile and one gradient for each thread, whatever S is.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "../shuffle.h"
#include "buffer.h"
#include "critic.h"
#include "inputs.h"
#include "kernels.h"
#include "network.h"
#include "prepared_weights.h"
#include "threads.h"
#include "tile.h"

namespace mine_fast::engine {

class Step : public GradientStep {
 public:
  Step(const Network& network, const Kernels& kernels, int64_t batch, int64_t shuffles, Loss loss, double alpha,
       ThreadPool& pool);

  Result compute(const Data& data, const float* parameters, const StepState& state, const Poll& poll) override;

  float* gradient() override { return workers_[0]->gradient.data(); }

 private:
  // A thread's share: pairs of the slots [begin, end) of x.
  struct Worker {
    Worker(const Network& network, const Kernels& kernels, int64_t tile_rows, int64_t batch);
    Tile tile;
    Buffer<float> gradient;
    Buffer<float> flushed;  // second level of `gradient`, made when first needed
    Buffer<float> y_rows;   // [B, stride]
    Buffer<int32_t> i, j;   // the tile's pairs
    Buffer<int64_t> pair;
    int64_t begin = 0, end = 0;
    int64_t tiles = 0;  // since the last flush
    float reference = 0;
    bool has_reference = false;
    double sum = 0;              // of the marginal weights
    double joint_sum = 0;        // of the joint scores
    double factor = 0;           // of the gradient's sums: what their weights still lack
    double marginal_weight = 0;  // sum * factor
  };

  void gather(const Data& data, const StepState& state);
  void poll();
  template <typename Body>
  void for_each_tile(Worker& worker, int64_t shift, int64_t first_pair, Body&& body);
  void marginal_tile(Worker& worker, const float* scores, int64_t rows, bool set, float guess);
  void rescale(Worker& worker, float factor);
  void flush(Worker& worker);
  void marginal_pass(Worker& worker, const MarginalShuffle& shuffle, float guess);
  void joint_pass(Worker& worker);
  void merge(const float* parameters);
  void first_layer_products();

  const Network& network_;
  const Kernels& kernels_;
  const int64_t batch_, shuffles_;
  const Loss loss_;
  const double alpha_;
  ThreadPool& pool_;
  std::vector<std::unique_ptr<Worker>> workers_;
  InputRows x_, y_;                // x with a column of ones; by slot, not by row: see gather
  Buffer<int64_t> row_of_slot_;    // [B]
  Buffer<float> x_part_, y_part_;  // [B, stride], bias in x_part
  Buffer<float> x_rows_;           // [B, stride], gradient of x_part
  Buffer<float> zeros_;
  PreparedWeights prepared_;
  StepWeights weights_{};
  NoiseKey noise_{};
  bool has_noise_ = false;
  int64_t tile_rows_;
  const Poll* poll_ = nullptr;
  std::atomic<bool> cancelled_{false};  // poll threw: the other threads need not finish
};

}  // namespace mine_fast::engine
