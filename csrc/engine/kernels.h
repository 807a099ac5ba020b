// The inner loops of the engine, as a table of functions: one table for each instruction set, chosen at run time.
//
// Memory contract. A matrix is row-major with a row stride; every row that a kernel reads or writes in vectors has room
// for its width rounded up to kPad floats. Pad columns of an output hold whatever the inputs' pads make of them; inputs
// keep theirs finite. Nothing is allocated, nothing is kept between calls, no output may overlap an input unless said.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "../activation.h"

namespace mine_fast::engine {

constexpr int64_t kPad = 8;  // floats

inline int64_t padded(int64_t width) { return (width + kPad - 1) / kPad * kPad; }
inline int64_t mask_words(int64_t width) { return (width + 63) / 64; }

// C [m, n] = start + A [m, k] B [k, n]; A by strides, so that a transposed matrix is no copy (one stride must be 1).
struct Product {
  int64_t m, n, k;
  const float* a;
  int64_t a_row, a_col;
  const float* b;  // [k, n]
  int64_t b_row;
  float* c;  // [m, n]
  int64_t c_row;
  const float* start;  // [n], the value that every row of C starts from; null: C itself (add)
};

// The masks of a matrix: bit j of word w of row i says that element (i, 64 w + j) is not zero. Word w of all rows comes
// before word w + 1, because that is how the kernels read them: one word each of many rows.
struct Masks {
  const uint64_t* words;  // [mask_words(columns), rows]
  int64_t rows;
};

struct AdamSettings {
  float gradient_scale, rate, beta2, eps, weight_decay;
  float new1, new2;       // 1 - beta1, 1 - beta2, rounded once
  float step_size;        // rate / (1 - beta1^t)
  float root_correction;  // sqrt(1 - beta2^t)
  bool decoupled;
  float averaging;  // weight of the new parameters in their moving average
};

// What noise of a step depends on besides its place.
struct NoiseKey {
  uint64_t seed, offset;
};

struct Kernels {
  const char* name;

  // Dense product.
  void (*product)(const Product&);

  // The same, given which elements of A are not zero.
  void (*sparse_product)(const Product&, Masks);

  // The product with the mask itself: row i of C [m, n] is the sum of the rows of scale[j] * B [k, n] whose bit j is
  // set in mask row i. With row_weight, C is set to row_weight[i] times that; without (null), it is added to C.
  // `tables` is scratch of kSubsetScratch floats.
  void (*subset_sums)(const float* b, int64_t b_row, const float* scale, Masks masks, int64_t m, int64_t k, int64_t n,
                      const float* row_weight, float* c, int64_t c_row, float* tables);
  // The same from tables made before, which pays where B is used often and they stay in the second-level cache.
  void (*subset_product)(const float* tables, Masks masks, int64_t m, int64_t k, int64_t n, const float* row_weight,
                         float* c, int64_t c_row);
  // For every 4 rows of scale[j] * B the 16 sums of their subsets, in panels of 16 columns: [n / 16][k / 4][16][16].
  void (*subset_tables)(const float* b, int64_t b_row, const float* scale, int64_t k, int64_t n, float* tables);

  // hidden[r] = activation(x_rows[i[r]] + y_rows[j[r]]), with derivative[r] (null for ReLU) and masks (ReLU only).
  void (*first_layer)(const float* x_rows, const float* y_rows, int64_t stride, const int32_t* i, const int32_t* j,
                      int64_t rows, int64_t width, Activation act, float slope, float* hidden, float* derivative,
                      uint64_t* masks);
  // In place: z [rows, width] becomes the activation, with derivative or masks as above.
  void (*activate)(float* z, int64_t stride, int64_t rows, int64_t width, Activation act, float slope,
                   float* derivative, uint64_t* masks);
  // grad *= derivative, or grad = 0 where hidden <= 0 (derivative null: ReLU). Pads become 0.
  void (*through_activation)(float* grad, const float* derivative, const float* hidden, int64_t stride, int64_t rows,
                             int64_t width);
  // grad[r] = row_weight[r] * output_weights through the activation, as above.
  void (*from_output)(const float* row_weight, const float* output_weights, const float* derivative,
                      const float* hidden, float* grad, int64_t stride, int64_t rows, int64_t width);
  // The same for the first layer, and the result goes to the rows of x and y that made it: x_grad[i[r]] and
  // y_grad[j[r]] get grad[r] (set) or have it added. Pads of grad become 0.
  void (*first_layer_backward)(float* grad, const float* derivative, const float* hidden, int64_t stride,
                               const int32_t* i, const int32_t* j, int64_t rows, int64_t width, bool set, float* x_grad,
                               float* y_grad);

  // row[c] += deviation * normal(c) for c < width: one row's noise. `layer` is a hidden layer or kNoiseOfX, kNoiseOfY;
  // `pair` numbers the pairs of a step: i for joint row i, (1 + s) * B + i for its pair of shuffle s.
  void (*add_noise)(float* row, int64_t width, float deviation, NoiseKey key, uint64_t layer, uint64_t pair);

  // scores[r] = hidden[r] . weights, over a width that counts the ones column (elementwise.h): its weight is the bias.
  void (*scores)(const float* hidden, int64_t stride, int64_t rows, int64_t width, const float* weights, float* scores);
  // weighted[c] += sum over r of row_weight[r] * hidden[r][c], for c < width rounded up.
  void (*weighted_sum)(const float* hidden, int64_t stride, int64_t rows, int64_t width, const float* row_weight,
                       float* weighted);
  // The largest of scores [rows], NaN left out; -infinity if there is none.
  float (*maximum)(const float* scores, int64_t rows);
  // weights[r] = exp(scores[r] - reference); returns their sum.
  double (*exponentials)(const float* scores, int64_t rows, float reference, float* weights);

  // The masks of a matrix; returns how many bits are set. NaN is not zero. The rows need no room behind their width.
  int64_t (*nonzero_masks)(const float* values, int64_t stride, int64_t rows, int64_t columns, uint64_t* words);
  // Bits of [rows, columns] to bits of [columns, rows], in the layout of Masks.
  void (*transpose_masks)(Masks in, int64_t columns, uint64_t* out);
  // out [columns, rows] = in [rows, columns] transposed.
  void (*transpose)(const float* in, int64_t in_row, int64_t rows, int64_t columns, float* out, int64_t out_row);

  void (*scale)(float* values, int64_t count, float factor);
  void (*add)(float* values, const float* more, int64_t count, float factor);  // values += factor * more
  double (*sum_of_squares)(const float* values, int64_t count);
  // One Adam or AdamW step (torch.optim's formulas) over flat arrays; the new parameters go into `average` (or null).
  void (*adam)(float* parameters, const float* gradient, float* first, float* second, float* average, int64_t count,
               const AdamSettings&);
};

// Floats of the tables of subset_tables for B [k, n].
inline int64_t subset_table_size(int64_t k, int64_t n) { return (n + 15) / 16 * ((k + 3) / 4) * 256; }
constexpr uint64_t kNoiseOfX = ~uint64_t{0}, kNoiseOfY = kNoiseOfX - 1;
constexpr int64_t kSubsetScratch = 16 * 256;  // of subset_sums

const Kernels& portable_kernels();
const Kernels* avx2_kernels();    // null where they were not compiled
const Kernels* avx512_kernels();  // null where they were not compiled

// Those that this processor runs, best first.
std::vector<const Kernels*> available_kernels();
// Throws std::invalid_argument for a name that is not available.
const Kernels& kernels_named(const std::string& name);

}  // namespace mine_fast::engine
