// The layout of the critic's parameters, and the way between torch's order and the padded one.
#include "network.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "kernels.h"
#include "require.h"

namespace mine_fast::engine {

namespace {

int64_t columns_of(int64_t x, int64_t y) {
  check_columns(x, y);
  return x + y;
}

}  // namespace

void check_columns(int64_t x, int64_t y) {
  const std::string got = ", got " + std::to_string(x) + " and " + std::to_string(y);
  require(x >= 1 && y >= 1, "x_width and y_width must be at least 1" + got);
  require(x <= kMostColumns && y <= kMostColumns,
          "x_width and y_width must be at most " + std::to_string(kMostColumns) + got);
}

Layers::Layers(int64_t in, int64_t bias_row, const std::vector<int64_t>& hidden,
               const std::vector<int64_t>& activations, const std::vector<float>& slopes,
               const std::vector<float>& noise)
    : size(0), flat_size(0), transposed(0), max_stride(0), bias_row_(bias_row) {
  require(!hidden.empty(), "hidden must name at least one hidden layer");
  require(activations.size() == hidden.size() && slopes.size() == hidden.size() && noise.size() == hidden.size(),
          "activations, slopes and noise must have one entry for each of the " + std::to_string(hidden.size()) +
              " hidden layers, got " + std::to_string(activations.size()) + ", " + std::to_string(slopes.size()) +
              " and " + std::to_string(noise.size()));
  int64_t in_stride = 0;
  for (size_t l = 0; l < hidden.size(); ++l) {
    require(hidden[l] >= 1, "hidden widths must be at least 1, got " + std::to_string(hidden[l]));
    require(hidden[l] <= kMostColumns,
            "hidden widths must be at most " + std::to_string(kMostColumns) + ", got " + std::to_string(hidden[l]));
    require(with_activation(activations[l], [](auto) {}), "unknown activation code " + std::to_string(activations[l]));
    require(std::isfinite(slopes[l]), "slopes must be finite, got " + std::to_string(slopes[l]));
    require(noise[l] >= 0.f && std::isfinite(noise[l]),
            "noise must not be negative, and finite, got " + std::to_string(noise[l]));
    HiddenLayer layer{
        in,       hidden[l], in_stride, padded(hidden[l] + 1), static_cast<Activation>(activations[l]), slopes[l],
        noise[l], size,      transposed};
    size += l == 0 ? (in + 1) * layer.stride : layer.width * in_stride;
    if (l > 0) transposed += (in + 1) * layer.stride;
    flat_size += layer.width * (in + 1);
    require(flat_size <= kMostParameters,
            "the layers have more than " + std::to_string(kMostParameters) + " parameters, which no memory holds");
    max_stride = std::max(max_stride, layer.stride);
    in = layer.width;
    in_stride = layer.stride;
    layers.push_back(layer);
  }
}

template <typename Body>
void Layers::for_each_parameter(Body&& body) const {
  int64_t flat = 0;
  for (const HiddenLayer& layer : layers) {
    const bool first = &layer == &layers.front();
    const auto place = [&](int64_t o, int64_t i) {  // i == in: the bias
      if (!first) return layer.parameters + o * layer.in_stride + i;
      const int64_t row = i == layer.in ? bias_row_ : i < bias_row_ ? i : i + 1;
      return layer.parameters + row * layer.stride + o;
    };
    for (int64_t o = 0; o < layer.width; ++o)
      for (int64_t i = 0; i < layer.in; ++i) body(flat++, place(o, i));
    for (int64_t o = 0; o < layer.width; ++o) body(flat++, place(o, layer.in));
  }
}

void Layers::from_flat(const float* flat, float* padded) const {
  std::fill(padded, padded + size, 0.f);
  for_each_parameter([&](int64_t from, int64_t to) { padded[to] = flat[from]; });
}

void Layers::to_flat(const float* padded, float* flat) const {
  for_each_parameter([&](int64_t to, int64_t from) { flat[to] = padded[from]; });
}

int64_t Layers::multiply_adds() const {
  int64_t total = 0;
  for (size_t l = 1; l < layers.size(); ++l) total += 3 * layers[l].in * layers[l].width;
  return total;
}

Network::Network(int64_t x_columns, int64_t y_columns, const std::vector<int64_t>& hidden,
                 const std::vector<int64_t>& activations, const std::vector<float>& slopes,
                 const std::vector<float>& noise, float noise_of_inputs)
    : Layers(columns_of(x_columns, y_columns), x_columns, hidden, activations, slopes, noise),
      x_width(x_columns),
      y_width(y_columns),
      input_noise(noise_of_inputs),
      output(size) {
  require(input_noise >= 0.f && std::isfinite(input_noise),
          "input_noise must not be negative, and finite, got " + std::to_string(input_noise));
  size += last().stride;
  flat_size += last().width + 1;
}

void Network::from_flat(const float* flat, float* padded) const {
  Layers::from_flat(flat, padded);
  std::copy_n(flat + flat_size - last().width - 1, last().width + 1, padded + output);
}

void Network::to_flat(const float* padded, float* flat) const {
  Layers::to_flat(padded, flat);
  std::copy_n(padded + output, last().width + 1, flat + flat_size - last().width - 1);
}

}  // namespace mine_fast::engine
