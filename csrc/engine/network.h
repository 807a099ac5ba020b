// Linear layers with an activation after each hidden one, and how their parameters lie in memory.
//
// Outside, parameters are one flat array in torch's order: for each Linear its weights [out, in], then its bias [out].
// Inside, they are one array of padded matrices (rows on multiples of 8 floats, pads 0), so that Adam is one loop and
// the kernels need no tails:
//   first layer   [in + 1, stride]  transposed, the bias one of the rows (Network: between those of x and those of y)
//   later layers  [out, in_stride]  the bias is the column behind the last input, where hidden rows have a 1
//   output        [in_stride]       likewise
#pragma once

#include <cstdint>
#include <vector>

#include "../activation.h"

namespace mine_fast::engine {

struct HiddenLayer {
  int64_t in;         // inputs (first layer: dx + dy)
  int64_t width;      // outputs
  int64_t in_stride;  // floats of a row of inputs with its ones column (0 for the first layer)
  int64_t stride;     // floats of a row of outputs with its ones column
  Activation activation;
  float slope;
  float noise;         // standard deviation added after the activation while training
  int64_t parameters;  // where its padded matrix begins
  int64_t transposed;  // where its copy [in + 1, stride] begins in the forward weights (later layers)

  // Of such a layer the zeros are known exactly: its masks stand for its derivative, and make its outputs sparse.
  bool has_masks() const { return activation == Activation::kRelu && noise == 0.f; }
};

// Refuses widths of x and y that no network reads.
void check_columns(int64_t x_width, int64_t y_width);

// Beyond these, products of sizes would leave 64 bits.
constexpr int64_t kMostColumns = int64_t{1} << 30, kMostParameters = int64_t{1} << 40;

// Layers one after the other, and their parameters.
struct Layers {
  // bias_row: the row of the first layer's bias.
  Layers(int64_t in, int64_t bias_row, const std::vector<int64_t>& hidden, const std::vector<int64_t>& activations,
         const std::vector<float>& slopes, const std::vector<float>& noise);

  std::vector<HiddenLayer> layers;
  int64_t size;        // floats of the padded parameters
  int64_t flat_size;   // parameters
  int64_t transposed;  // floats of the forward weights
  int64_t max_stride;

  const HiddenLayer& last() const { return layers.back(); }
  int64_t multiply_adds() const;  // of the products of a row, forward and backward, without the first layer's

  // Calls body(flat index, padded index) for every parameter of the layers.
  template <typename Body>
  void for_each_parameter(Body&& body) const;
  void from_flat(const float* flat, float* padded) const;
  void to_flat(const float* padded, float* flat) const;

 private:
  int64_t bias_row_;
};

// Layers on the columns of x and of y, and an output of one number.
struct Network : Layers {
  Network(int64_t x_width, int64_t y_width, const std::vector<int64_t>& hidden, const std::vector<int64_t>& activations,
          const std::vector<float>& slopes, const std::vector<float>& noise, float input_noise);

  int64_t x_width, y_width;
  float input_noise;  // standard deviation added to the rows of x and y while training; see Step::gather
  int64_t output;     // where the output's weights begin

  const float* x_weights(const float* padded) const { return padded; }  // [dx + 1, stride], the bias last
  const float* y_weights(const float* padded) const { return padded + (x_width + 1) * layers[0].stride; }

  void from_flat(const float* flat, float* padded) const;
  void to_flat(const float* padded, float* flat) const;

  int64_t multiply_adds_per_pair() const { return multiply_adds() + 3 * (layers[0].width + last().width); }
};

}  // namespace mine_fast::engine
