// The passes of a tower, all rows at once: each layer is one product.
#include "tower.h"

namespace mine_fast::engine {

Tower::Tower(const Layers& layers, const Kernels& kernels, int64_t rows, bool backward)
    : layers_(layers),
      kernels_(kernels),
      inputs_(kernels, rows, layers.layers[0].in + 1),
      buffers_(layers.layers.size()),
      transposed_(layers.transposed),
      zeros_(layers.max_stride),
      rows_(rows) {
  for (size_t l = 0; l < buffers_.size(); ++l) {
    const HiddenLayer& layer = layers.layers[l];
    buffers_[l].hidden.resize(rows * layer.stride);
    if (backward && l + 1 < buffers_.size()) buffers_[l].derivative.resize(rows * layer.stride);
  }
  for (int64_t r = 0; r < rows; ++r) inputs_.row(r)[layers.layers[0].in] = 1.f;
  if (!backward) return;
  grad_.resize(rows * layers.max_stride);
  grad_below_.resize(rows * layers.max_stride);
}

float* Tower::forward(const float* parameters, int64_t rows) {
  for (size_t l = 0; l < buffers_.size(); ++l) {
    const HiddenLayer& layer = layers_.layers[l];
    float* hidden = buffers_[l].hidden.data();
    if (l == 0) {
      inputs_.look_for_zeros();
      inputs_.forward(0, rows, parameters + layer.parameters, layer.width, layer.stride, hidden, zeros_.data());
    } else {
      float* matrix = transposed_.data() + layer.transposed;  // [in + 1, stride]
      kernels_.transpose(parameters + layer.parameters, layer.in_stride, layer.width, layer.in + 1, matrix,
                         layer.stride);
      kernels_.product({rows, layer.width, layer.in, buffers_[l - 1].hidden.data(), layer.in_stride, 1, matrix,
                        layer.stride, hidden, layer.stride, matrix + layer.in * layer.stride});
    }
    kernels_.activate(hidden, layer.stride, rows, layer.width, layer.activation, layer.slope,
                      buffers_[l].derivative.data(), nullptr);
  }
  return buffers_.back().hidden.data();
}

void Tower::backward(const float* parameters, const float* grad_output, float* gradient) {
  const float* grad = grad_output;
  for (size_t l = buffers_.size() - 1; l > 0; --l) {
    const HiddenLayer& layer = layers_.layers[l];
    const LayerBuffers& below = buffers_[l - 1];
    kernels_.product({layer.width, layer.in + 1, rows_, grad, 1, layer.stride, below.hidden.data(), layer.in_stride,
                      gradient + layer.parameters, layer.in_stride, zeros_.data()});
    kernels_.product({rows_, layer.in, layer.width, grad, layer.stride, 1, parameters + layer.parameters,
                      layer.in_stride, grad_below_.data(), layer.in_stride, zeros_.data()});
    kernels_.through_activation(grad_below_.data(), below.derivative.data(), below.hidden.data(), layer.in_stride,
                                rows_, layer.in);
    std::swap(grad_, grad_below_);
    grad = grad_.data();
  }
  const HiddenLayer& first = layers_.layers[0];
  inputs_.backward(0, first.in + 1, grad, first.width, first.stride, gradient + first.parameters, zeros_.data());
}

}  // namespace mine_fast::engine
