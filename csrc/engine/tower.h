// One side of a separable critic: layers from the rows of x, or of y, to what is multiplied with the other side's.
//
// The last layer is linear, and its rows end in the 1 that every hidden row has behind its width.
#pragma once

#include <cstdint>
#include <vector>

#include "buffer.h"
#include "inputs.h"
#include "kernels.h"
#include "network.h"

namespace mine_fast::engine {

class Tower {
 public:
  // `rows` is the largest number of rows of a pass; without `backward` there is forward alone.
  Tower(const Layers& layers, const Kernels& kernels, int64_t rows, bool backward);

  // Row r of the inputs, [in] floats to be written before `forward`.
  float* input(int64_t r) { return inputs_.row(r); }

  // The outputs of the first `rows` rows, [rows, stride] of the last layer.
  float* forward(const float* parameters, int64_t rows);
  // Sets `gradient` (padded layout) to the sum over the rows of the last forward, which must have been all of them, of
  // grad_output [rows, stride] times the derivative of the outputs.
  void backward(const float* parameters, const float* grad_output, float* gradient);

 private:
  struct LayerBuffers {
    Buffer<float> hidden;      // [rows, stride]
    Buffer<float> derivative;  // [rows, stride], for `backward`; none for the last layer
  };

  const Layers& layers_;
  const Kernels& kernels_;
  InputRows inputs_;  // with a column of ones
  std::vector<LayerBuffers> buffers_;
  Buffer<float> transposed_, zeros_;
  Buffer<float> grad_, grad_below_;  // [rows, max stride]
  const int64_t rows_;
};

}  // namespace mine_fast::engine
