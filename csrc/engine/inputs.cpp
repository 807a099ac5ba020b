// The choice between the dense and the sparse product is made for each batch by its own zeros.
#include "inputs.h"

#include <algorithm>

namespace mine_fast::engine {

namespace {
constexpr int64_t kLeastColumns = 32;  // below, the first layer's products are a small part of a step
// Share of elements that are not 0; break-even is at 0.6 to 0.7. It is lower than that of hidden layers
// (kSparseMasksBelow), whose masks fall out of the activation, while these are looked for and turned in every batch.
constexpr double kSparseInputsBelow = 0.5;
}  // namespace

void copy_pair(const Network& network, const Kernels& kernels, const Data& data, int64_t row, NoiseKey noise, int64_t i,
               float* x, float* y) {
  const int64_t dx = network.x_width, dy = network.y_width;
  std::copy_n(data.x + row * dx, dx, x);
  x[dx] = 1.f;
  std::copy_n(data.y + row * dy, dy, y);
  if (network.input_noise > 0.f) {
    kernels.add_noise(x, dx, network.input_noise, noise, kNoiseOfX, static_cast<uint64_t>(i));
    kernels.add_noise(y, dy, network.input_noise, noise, kNoiseOfY, static_cast<uint64_t>(i));
  }
}

InputRows::InputRows(const Kernels& kernels, int64_t batch, int64_t columns)
    : kernels_(kernels), batch_(batch), columns_(columns), rows_(batch * columns) {
  if (columns < kLeastColumns) return;
  masks_.resize(mask_words(columns) * batch);
  transposed_masks_.resize(mask_words(batch) * columns);
}

void InputRows::look_for_zeros() {
  if (masks_.size() == 0) return;
  const int64_t set = kernels_.nonzero_masks(rows_.data(), columns_, batch_, columns_, masks_.data());
  sparse_ = static_cast<double>(set) < kSparseInputsBelow * static_cast<double>(batch_ * columns_);
  if (sparse_) kernels_.transpose_masks({masks_.data(), batch_}, columns_, transposed_masks_.data());
}

void InputRows::forward(int64_t begin, int64_t end, const float* weights, int64_t width, int64_t stride, float* out,
                        const float* zeros) const {
  const Product product{end - begin, width,  columns_, rows_.data() + begin * columns_, columns_, 1, weights, stride,
                        out,         stride, zeros};
  if (sparse_) {
    kernels_.sparse_product(product, {masks_.data() + begin, batch_});
  } else {
    kernels_.product(product);
  }
}

void InputRows::backward(int64_t begin, int64_t end, const float* grad, int64_t width, int64_t stride, float* out,
                         const float* zeros) const {
  if (begin == end) return;
  const Product product{end - begin,          width,  batch_, rows_.data() + begin, 1, columns_, grad, stride,
                        out + begin * stride, stride, zeros};
  if (sparse_) {
    kernels_.sparse_product(product, {transposed_masks_.data() + begin, columns_});
  } else {
    kernels_.product(product);
  }
}

}  // namespace mine_fast::engine
