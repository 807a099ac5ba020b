// Gaussian noise from a counter: the value of (seed, step, pair, layer, column) needs no state and no order of drawing.
#pragma once

#include <cmath>
#include <cstdint>

#include "../shuffle.h"

namespace mine_fast::engine {

struct NoiseKey {
  uint64_t seed, offset;
};

// row[c] += deviation * normal(c) for c < width, by Box and Muller's pairs. `pair` numbers the pairs of a step: i for
// joint row i, (1 + s) * B + i for its pair of shuffle s.
inline void add_noise(float* row, int64_t width, float deviation, NoiseKey key, int64_t layer, int64_t pair) {
  constexpr uint64_t kGolden = 0x9e3779b97f4a7c15ull;
  uint64_t state = mix64(key.seed + kGolden);
  state = mix64(state ^ (key.offset * 0xd1342543de82ef95ull + static_cast<uint64_t>(layer) * 0xaf251af3b0f025b5ull));
  state = mix64(state ^ (static_cast<uint64_t>(pair) * kGolden));
  for (int64_t c = 0; c < width; c += 2) {
    state += kGolden;
    const uint64_t bits = mix64(state);
    const double radius = std::sqrt(-2.0 * std::log((static_cast<double>(bits >> 32) + 0.5) * 0x1p-32));
    const double angle = 6.283185307179586 * 0x1p-32 * static_cast<double>(bits & 0xffffffffu);
    row[c] += deviation * static_cast<float>(radius * std::cos(angle));
    if (c + 1 < width) row[c + 1] += deviation * static_cast<float>(radius * std::sin(angle));
  }
}

}  // namespace mine_fast::engine
