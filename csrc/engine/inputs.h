// One side of a batch, x or y: its rows and their two products in the first layer. Rows that are mostly zeros (pixels,
// one-hot codes, word counts) go through the sparse product.
#pragma once

#include <cstdint>

#include "buffer.h"
#include "critic.h"
#include "kernels.h"
#include "network.h"

namespace mine_fast::engine {

// Row `row` of the data as a pair that a network reads: x with a 1 behind it, y, and the noise of pair i of the step.
void copy_pair(const Network& network, const Kernels& kernels, const Data& data, int64_t row, NoiseKey noise, int64_t i,
               float* x, float* y);

class InputRows {
 public:
  InputRows(const Kernels& kernels, int64_t batch, int64_t columns);

  float* row(int64_t slot) { return rows_.data() + slot * columns_; }
  int64_t columns() const { return columns_; }

  // Call when the rows are written, before the products.
  void look_for_zeros();

  // out [end - begin, width] = rows [begin, end) times weights [columns, width], row stride `stride` on both; zeros
  // [width].
  void forward(int64_t begin, int64_t end, const float* weights, int64_t width, int64_t stride, float* out,
               const float* zeros) const;
  // Rows [begin, end) of out [columns, width] = the rows transposed times grad [batch, width].
  void backward(int64_t begin, int64_t end, const float* grad, int64_t width, int64_t stride, float* out,
                const float* zeros) const;

 private:
  const Kernels& kernels_;
  const int64_t batch_, columns_;
  Buffer<float> rows_;                         // [batch, columns]
  Buffer<uint64_t> masks_, transposed_masks_;  // as Masks of rows_ and of its transpose; none for few columns
  bool sparse_ = false;
};

}  // namespace mine_fast::engine
