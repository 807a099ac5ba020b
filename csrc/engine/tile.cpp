// One tile forward and backward; which product each layer takes is decided here, by the tile's own masks, so that a run
// can be continued bit for bit with no state but its parameters.
#include "tile.h"

#include <algorithm>

namespace mine_fast::engine {

namespace {
// Share of set bits at which a sparse product costs as much as a dense one.
constexpr double kSparseMasksBelow = 0.75;
}  // namespace

int64_t equal_parts(int64_t rows, int64_t most) {
  const int64_t parts = std::max<int64_t>(1, (rows + most - 1) / most);
  return std::max<int64_t>(1, (rows + parts - 1) / parts);
}

int64_t rows_of_tile(const Network& network) {
  int64_t floats = network.max_stride;
  for (const HiddenLayer& layer : network.layers) floats += layer.stride * (layer.has_masks() ? 1 : 2);
  return std::clamp<int64_t>((int64_t{1} << 16) / floats / 64 * 64, 128, 256);
}

Tile::Tile(const Network& network, const Kernels& kernels, int64_t rows, bool backward)
    : network_(network), kernels_(kernels), buffers_(network.layers.size()) {
  int64_t max_width = 0;
  for (size_t l = 0; l < buffers_.size(); ++l) {
    const HiddenLayer& layer = network.layers[l];
    buffers_[l].hidden.resize(rows * layer.stride);
    if (layer.has_masks()) {
      buffers_[l].masks.resize(rows * mask_words(layer.width));
    } else if (backward) {
      buffers_[l].derivative.resize(rows * layer.stride);
    }
    // A width that is a multiple of the padding has its ones column in vectors that no product writes.
    for (int64_t r = 0; r < rows; ++r) buffers_[l].hidden[r * layer.stride + layer.width] = 1.f;
    max_width = std::max(max_width, layer.width);
  }
  scores_.resize(rows);
  row_weight_.resize(rows);
  if (!backward) return;
  grad_.resize(rows * network.max_stride);
  grad_below_.resize(rows * network.max_stride);
  transposed_masks_.resize(max_width * mask_words(rows));
  scratch_.resize(kSubsetScratch);
  zeros_.resize(network.max_stride);
}

bool Tile::is_sparse(size_t l) const {
  const HiddenLayer& layer = network_.layers[l];
  return layer.has_masks() && static_cast<double>(buffers_[l].set_bits) <
                                  kSparseMasksBelow * static_cast<double>(rows_) * static_cast<double>(layer.width);
}

void Tile::finish_layer(size_t l, const NoiseKey* key, const int64_t* pair) {
  const HiddenLayer& layer = network_.layers[l];
  LayerBuffers& buffers = buffers_[l];
  if (layer.noise > 0.f && key != nullptr) {
    for (int64_t r = 0; r < rows_; ++r)
      kernels_.add_noise(buffers.hidden.data() + r * layer.stride, layer.width, layer.noise, *key, l,
                         static_cast<uint64_t>(pair[r]));
  }
  if (layer.has_masks()) {
    buffers.set_bits = 0;
    for (int64_t w = 0; w < rows_ * mask_words(layer.width); ++w)
      buffers.set_bits += __builtin_popcountll(buffers.masks[w]);
  }
}

const float* Tile::forward(const StepWeights& weights, const float* x_part, const float* y_part, const int32_t* i,
                           const int32_t* j, int64_t rows, const NoiseKey* key, const int64_t* pair) {
  rows_ = rows;
  i_ = i;
  j_ = j;
  const HiddenLayer& first = network_.layers[0];
  kernels_.first_layer(x_part, y_part, first.stride, i, j, rows, first.width, first.activation, first.slope,
                       buffers_[0].hidden.data(), buffers_[0].derivative.data(),
                       first.has_masks() ? buffers_[0].masks.data() : nullptr);
  finish_layer(0, key, pair);
  for (size_t l = 1; l < buffers_.size(); ++l) {
    const HiddenLayer& layer = network_.layers[l];
    float* hidden = buffers_[l].hidden.data();
    const float* matrix = weights.transposed + layer.transposed;
    const Product product{
        rows,         layer.width, layer.in,     buffers_[l - 1].hidden.data(),   layer.in_stride, 1, matrix,
        layer.stride, hidden,      layer.stride, matrix + layer.in * layer.stride};
    if (is_sparse(l - 1)) {
      kernels_.sparse_product(product, masks_of(l - 1));
    } else {
      kernels_.product(product);
    }
    kernels_.activate(hidden, layer.stride, rows, layer.width, layer.activation, layer.slope,
                      buffers_[l].derivative.data(), layer.has_masks() ? buffers_[l].masks.data() : nullptr);
    finish_layer(l, key, pair);
  }
  const HiddenLayer& last = network_.last();
  kernels_.scores(buffers_.back().hidden.data(), last.stride, rows, last.width + 1,
                  weights.parameters + network_.output, scores_.data());
  return scores_.data();
}

Masks Tile::transposed_masks(size_t l) {
  const int64_t width = network_.layers[l].width;
  kernels_.transpose_masks(masks_of(l), width, transposed_masks_.data());
  return {transposed_masks_.data(), width};
}

void Tile::backward(const StepWeights& weights, const float* row_weight, bool set, const Accumulators& sums) {
  const HiddenLayer& last = network_.last();
  const float* output = weights.parameters + network_.output;
  const int64_t rows = rows_;
  kernels_.weighted_sum(buffers_.back().hidden.data(), last.stride, rows, last.width + 1, row_weight,
                        sums.gradient + network_.output);
  if (buffers_.size() == 1) {
    kernels_.product(
        {rows, last.width, 1, row_weight, 1, 1, output, last.stride, grad_.data(), last.stride, zeros_.data()});
  }
  for (size_t l = buffers_.size() - 1; l > 0; --l) {
    const HiddenLayer& layer = network_.layers[l];
    const float* below = buffers_[l - 1].hidden.data();
    float* matrix_sums = sums.gradient + layer.parameters;
    const bool is_last = l + 1 == buffers_.size();
    if (is_last && layer.has_masks()) {
      kernels_.subset_sums(below, layer.in_stride, row_weight, transposed_masks(l), layer.width, rows, layer.in + 1,
                           nullptr, matrix_sums, layer.in_stride, scratch_.data());
      if (weights.tables != nullptr) {
        kernels_.subset_product(weights.tables, masks_of(l), rows, layer.width, layer.in, row_weight,
                                grad_below_.data(), layer.in_stride);
      } else {
        kernels_.subset_sums(weights.parameters + layer.parameters, layer.in_stride, output, masks_of(l), rows,
                             layer.width, layer.in, row_weight, grad_below_.data(), layer.in_stride, scratch_.data());
      }
    } else {
      if (is_last) {
        kernels_.from_output(row_weight, output, derivative_of(l), buffers_[l].hidden.data(), grad_.data(),
                             layer.stride, rows, layer.width);
      } else {
        kernels_.through_activation(grad_.data(), derivative_of(l), buffers_[l].hidden.data(), layer.stride, rows,
                                    layer.width);
      }
      const Product to_matrix{layer.width, layer.in + 1,    rows,        grad_.data(),    1,      layer.stride,
                              below,       layer.in_stride, matrix_sums, layer.in_stride, nullptr};
      const Product to_rows{rows,
                            layer.in,
                            layer.width,
                            grad_.data(),
                            layer.stride,
                            1,
                            weights.parameters + layer.parameters,
                            layer.in_stride,
                            grad_below_.data(),
                            layer.in_stride,
                            zeros_.data()};
      if (is_sparse(l)) {
        kernels_.sparse_product(to_matrix, transposed_masks(l));
        kernels_.sparse_product(to_rows, masks_of(l));
      } else {
        kernels_.product(to_matrix);
        kernels_.product(to_rows);
      }
    }
    std::swap(grad_, grad_below_);
  }
  const HiddenLayer& first = network_.layers[0];
  kernels_.first_layer_backward(grad_.data(), derivative_of(0), buffers_[0].hidden.data(), first.stride, i_, j_, rows,
                                first.width, set, sums.x_rows, sums.y_rows);
}

}  // namespace mine_fast::engine
