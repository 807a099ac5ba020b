// One tile of pairs: forward through all layers to the scores, and right away backward, while everything is in cache.
//
// Memory: rows x (sum of the hidden widths) floats twice (for ReLU once), allocated once. The gradient goes into the
// caller's accumulators: the later layers' and the output's in the layout of the padded parameters, the first layer's
// by row of x and row of y, [B, stride] each.
#pragma once

#include <cstdint>
#include <vector>

#include "buffer.h"
#include "kernels.h"
#include "network.h"

namespace mine_fast::engine {

// What a step's tiles read, shared by all threads.
struct StepWeights {
  const float* parameters;  // padded
  const float* transposed;  // [in + 1, stride] of each later layer
  const float* tables;      // of the last layer times the output weights, by subset_tables, or null
};

struct Accumulators {
  float* gradient;  // padded layout; see Tile::last_rows_unscaled for the last hidden layer
  float* x_rows;    // [B, stride]
  float* y_rows;    // [B, stride]
};

// Tiles whose sums may stay in fp32; those of more go through a second level.
constexpr int64_t kFlushTiles = 32;

// The size of the parts of at most `most` that divide `rows` about equally.
int64_t equal_parts(int64_t rows, int64_t most);

// The rows that make a good tile: 128 to 256, as many as leave half of a 512 KB cache to the weights.
int64_t rows_of_tile(const Network& network);

class Tile {
 public:
  // Without `backward` there is forward alone.
  Tile(const Network& network, const Kernels& kernels, int64_t rows, bool backward);

  // Scores of pairs (i[r], j[r]) of x_part and y_part [B, stride]. Noise is added if key is given; pair[r] numbers it.
  const float* forward(const StepWeights& weights, const float* x_part, const float* y_part, const int32_t* i,
                       const int32_t* j, int64_t rows, const NoiseKey* key, const int64_t* pair);

  // Adds row_weight[r] * d score[r] / d parameters of the tile of the last forward. `set`: the first layer's rows are
  // set instead (the tile's i and j are touched for the first time in the step).
  void backward(const StepWeights& weights, const float* row_weight, bool set, const Accumulators& sums);

  // Whether the last hidden layer's gradient comes without the factor of its row's output weight.
  static bool last_rows_unscaled(const Network& network) {
    return network.layers.size() > 1 && network.last().has_masks();
  }

  float* row_weight() { return row_weight_.data(); }

 private:
  struct LayerBuffers {
    Buffer<float> hidden;      // [rows, stride]
    Buffer<float> derivative;  // [rows, stride], for `backward`, unless the layer has masks
    Buffer<uint64_t> masks;    // [mask_words(width), rows of the last forward]
    int64_t set_bits = 0;      // of masks
  };

  // Sparse products pay below this share of set bits.
  bool is_sparse(size_t layer) const;
  Masks masks_of(size_t layer) const { return {buffers_[layer].masks.data(), rows_}; }
  const float* derivative_of(size_t layer) const { return buffers_[layer].derivative.data(); }
  void finish_layer(size_t layer, const NoiseKey* key, const int64_t* pair);
  Masks transposed_masks(size_t layer);

  const Network& network_;
  const Kernels& kernels_;
  std::vector<LayerBuffers> buffers_;
  Buffer<float> grad_, grad_below_;    // [rows, max stride]
  Buffer<uint64_t> transposed_masks_;  // [mask_words(rows), width]
  Buffer<float> scratch_;              // of subset_sums
  Buffer<float> zeros_;                // [max stride]
  Buffer<float> scores_, row_weight_;  // [rows]
  int64_t rows_ = 0;                   // of the last forward
  const int32_t* i_ = nullptr;
  const int32_t* j_ = nullptr;
};

}  // namespace mine_fast::engine
