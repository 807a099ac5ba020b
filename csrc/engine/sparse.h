// The product C = start + A B given which elements of A are not zero: row i of C gets one multiple of a row of B for
// every set bit of mask row i. A row of C stays in registers for 64 bits, B's 64 rows in the first-level cache for all
// rows of C. One load for each multiply-add is what it costs over the dense product, so it wins while the share of set
// bits is below about 0.75.
#pragma once

#include <utility>

#include "elementwise.h"
#include "kernels.h"
#include "simd.h"

namespace mine_fast::engine {
namespace {

constexpr int kSparseVectors = 13;    // accumulators: 104 columns of AVX2, which is a hidden width of 100
constexpr int64_t kSparseRows = 256;  // rows of a transposed A that are turned at a time

// A [m, 64] and B [64, columns] of one mask word.
struct SparseBlock {
  int64_t m;
  const uint64_t* words;  // [m]
  const float* a;
  int64_t a_row;
  const float* b;
  int64_t b_row;
  const float* start;  // null: add to C
  float* c;
  int64_t c_row;
};

// Columns [0, vectors * kLanes), and 8 more if half.
template <int vectors, bool half>
void sparse_panel(const SparseBlock& p) {
  const float* a = p.a;
  float* c = p.c;
  for (int64_t i = 0; i < p.m; ++i, a += p.a_row, c += p.c_row) {
    uint64_t bits = p.words[i];
    if (bits == 0 && p.start == nullptr) continue;
    vec<kLanes> sums[vectors > 0 ? vectors : 1]{};
    vec<8> half_sum{};
    if (p.start != nullptr) {
      for (int v = 0; v < vectors; ++v) sums[v] = load<kLanes>(p.start + v * kLanes);
      if constexpr (half) half_sum = load<8>(p.start + vectors * kLanes);
    }
    const auto next_bit = [&]() MINE_FAST_INLINE_LAMBDA {
      const int64_t k = __builtin_ctzll(bits);
      bits &= bits - 1;
      const float element = a[k];
      const float* line = p.b + k * p.b_row;
      const vec<kLanes> factor = broadcast<kLanes>(element);
      for (int v = 0; v < vectors; ++v) sums[v] += factor * load<kLanes>(line + v * kLanes);
      if constexpr (half) half_sum += broadcast<8>(element) * load<8>(line + vectors * kLanes);
    };
    if (__builtin_popcountll(bits) % 2 != 0) next_bit();
    while (bits != 0) {
      next_bit();
      next_bit();
    }
    // Added at the end, as in dense.h.
    if (p.start == nullptr) {
      for (int v = 0; v < vectors; ++v) sums[v] += load<kLanes>(c + v * kLanes);
      if constexpr (half) half_sum += load<8>(c + vectors * kLanes);
    }
    for (int v = 0; v < vectors; ++v) store<kLanes>(c + v * kLanes, sums[v]);
    if constexpr (half) store<8>(c + vectors * kLanes, half_sum);
  }
}

using SparsePanel = void (*)(const SparseBlock&);

template <bool half, int... vectors>
SparsePanel sparse_panel_of(int64_t count, std::integer_sequence<int, vectors...>) {
  static constexpr SparsePanel table[] = {&sparse_panel<vectors, half>...};
  return table[count];
}

// All columns of one mask word; k <= 64 rows of B.
void sparse_panels(SparseBlock p, int64_t k, int64_t columns) {
  using Counts = std::make_integer_sequence<int, kSparseVectors + 1>;
  const int64_t vectors = columns / kLanes;
  const bool half = vectors * kLanes < columns;
  const int64_t panels = vectors > 0 ? (vectors + kSparseVectors - 1) / kSparseVectors : 1;
  alignas(64) float packed[64 * (kSparseVectors * kLanes + 8)];
  for (int64_t i = 0; i < panels; ++i) {
    const int64_t count = vectors * (i + 1) / panels - vectors * i / panels;
    const bool with_half = half && i + 1 == panels;
    const int64_t width = count * kLanes + (with_half ? 8 : 0);
    SparseBlock panel = p;
    if (panels > 1) {
      // Rows with gaps between them share out the cache's sets unevenly and push each other out.
      constexpr int kStep = kLanes < 8 ? kLanes : 8;  // divides every panel's width
      for (int64_t r = 0; r < k; ++r)
        for (int64_t c = 0; c < width; c += kStep)
          store<kStep>(packed + r * width + c, load<kStep>(p.b + r * p.b_row + c));
      panel.b = packed;
      panel.b_row = width;
    }
    (with_half ? sparse_panel_of<true>(count, Counts{}) : sparse_panel_of<false>(count, Counts{}))(panel);
    p.b += width;
    p.c += width;
    if (p.start != nullptr) p.start += width;
  }
}

void sparse_product(const Product& p, Masks masks) {
  const bool transposed = p.a_col != 1;
  const int64_t rows = transposed ? kSparseRows : p.m;
  alignas(64) float turned[kSparseRows * 64];
  for (int64_t w = 0; w < mask_words(p.k); ++w) {
    const int64_t k = p.k - w * 64 < 64 ? p.k - w * 64 : 64;
    for (int64_t i = 0; i < p.m; i += rows) {
      const int64_t m = p.m - i < rows ? p.m - i : rows;
      const float* a = p.a + i * p.a_row + w * 64 * p.a_col;
      // Down its columns, every element of A is a cache line of its own.
      if (transposed) transpose(a, p.a_col, k, m, turned, 64);
      sparse_panels({m, masks.words + w * masks.rows + i, transposed ? turned : a, transposed ? 64 : p.a_row,
                     p.b + w * 64 * p.b_row, p.b_row, w == 0 ? p.start : nullptr, p.c + i * p.c_row, p.c_row},
                    k, padded(p.n));
    }
  }
}

int64_t nonzero_masks(const float* values, int64_t stride, int64_t rows, int64_t columns, uint64_t* words) {
  int64_t set = 0;
  for (int64_t i = 0; i < rows; ++i) {
    const float* row = values + i * stride;
    for (int64_t w = 0; w < mask_words(columns); ++w) {
      const int64_t end = columns - w * 64 < 64 ? columns - w * 64 : 64;
      uint64_t bits = 0;
      int64_t c = 0;
      for (; c + 8 <= end; c += 8) bits |= nonzero_bits8(row + w * 64 + c) << c;
      for (; c < end; ++c) bits |= static_cast<uint64_t>(row[w * 64 + c] != 0.f) << c;
      words[w * rows + i] = bits;
      set += __builtin_popcountll(bits);
    }
  }
  return set;
}

}  // namespace
}  // namespace mine_fast::engine
