// Gaussian noise from a counter: the value of (seed, step, pair, layer, column) needs no state and no order of drawing.
#pragma once

#include "../shuffle.h"
#include "kernels.h"
#include "vector_math.h"

namespace mine_fast::engine {
namespace {

typedef uint32_t Words __attribute__((vector_size(32)));

// A bijection of 32 bits that leaves no pattern (C. Wellons, "Prospecting for hash functions", with later constants).
MINE_FAST_INLINE Words scrambled(const Words& word) {
  Words h = (word ^ (word >> 16)) * 0x21f0aaadu;
  h = (h ^ (h >> 15)) * 0x735a2d97u;
  return h ^ (h >> 15);
}

// Columns 16 g + l and 16 g + 8 + l, l < 8, are one draw of Box and Muller's: radius and angle from two words, the
// second scrambled from the first under another key. 23 bits of radius: no value is beyond 5.8.
void add_noise(float* row, int64_t width, float deviation, NoiseKey key, uint64_t layer, uint64_t pair) {
  uint64_t state = mix64(key.seed + kGolden);
  state = mix64(state ^ (key.offset * kOffsetStep + layer * kStreamStep));
  state = mix64(state ^ (pair * kGolden));
  const uint32_t first_key = static_cast<uint32_t>(state), second_key = static_cast<uint32_t>(state >> 32);
  const auto add = [&](const vec<8>& normal, int64_t c) MINE_FAST_INLINE_LAMBDA {
    if (c + 8 <= width) return store<8>(row + c, load<8>(row + c) + normal * deviation);
    for (int64_t l = 0; c + l < width; ++l) row[c + l] += normal[l] * deviation;
  };
  Words draw = {0, 1, 2, 3, 4, 5, 6, 7};
  for (int64_t c = 0; c < width; c += 16, draw += 8) {
    const Words one = scrambled(draw * 0x9e3779b9u + first_key), two = scrambled(one ^ second_key);
    const vec<8> uniform =
        (__builtin_convertvector(reinterpret_cast<Vector<8>::mask>(one >> 9), vec<8>) + 0.5f) * 0x1p-23f;
    const vec<8> quarters = __builtin_convertvector(reinterpret_cast<Vector<8>::mask>(two), vec<8>) * 0x1p-30f;
    const vec<8> radius = square_root<8>(-2.f * logarithm<8>(uniform));
    vec<8> sine, cosine;
    sine_and_cosine<8>(quarters, sine, cosine);
    add(radius * cosine, c);
    add(radius * sine, c + 8);
  }
}

}  // namespace
}  // namespace mine_fast::engine
