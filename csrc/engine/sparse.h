// The product C = start + A B given which elements of A are not zero: row i of C gets one multiple of a row of B for
// every set bit of mask row i. A row of C stays in registers for 64 bits, B's 64 rows in the first-level cache for all
// rows of C. One load for each multiply-add is what it costs over the dense product, so it wins while the share of set
// bits is below about 0.7.
#pragma once

#include <utility>

#include "kernels.h"
#include "simd.h"

namespace mine_fast::engine {
namespace {

constexpr int kSparseVectors = 13;  // accumulators: 104 columns of AVX2, which is a hidden width of 100

// Columns [0, vectors * kLanes), and 8 more if half.
template <int vectors, bool half>
void sparse_panel(const Product& p, Masks masks) {
  const int64_t words = mask_words(p.k);
  for (int64_t w = 0; w < words; ++w) {
    const float* b = p.b + w * 64 * p.b_row;
    for (int64_t i = 0; i < p.m; ++i) {
      uint64_t bits = masks.words[i * masks.row + w];
      const bool first = w == 0 && p.start != nullptr;
      if (bits == 0 && !first) continue;
      float* c = p.c + i * p.c_row;
      const float* a = p.a + i * p.a_row + w * 64 * p.a_col;
      vec<kLanes> sums[vectors > 0 ? vectors : 1];
      vec<8> half_sum{};
      for (int v = 0; v < vectors; ++v) sums[v] = first ? load<kLanes>(p.start + v * kLanes) : vec<kLanes>{};
      if constexpr (half) {
        if (first) half_sum = load<8>(p.start + vectors * kLanes);
      }
      while (bits != 0) {
        const int64_t k = __builtin_ctzll(bits);
        bits &= bits - 1;
        const float element = a[k * p.a_col];
        const float* line = b + k * p.b_row;
        const vec<kLanes> factor = broadcast<kLanes>(element);
        for (int v = 0; v < vectors; ++v) sums[v] += factor * load<kLanes>(line + v * kLanes);
        if constexpr (half) half_sum += broadcast<8>(element) * load<8>(line + vectors * kLanes);
      }
      // Added at the end, as in dense.h.
      if (!first) {
        for (int v = 0; v < vectors; ++v) sums[v] += load<kLanes>(c + v * kLanes);
        if constexpr (half) half_sum += load<8>(c + vectors * kLanes);
      }
      for (int v = 0; v < vectors; ++v) store<kLanes>(c + v * kLanes, sums[v]);
      if constexpr (half) store<8>(c + vectors * kLanes, half_sum);
    }
  }
}

using SparsePanel = void (*)(const Product&, Masks);

template <bool half, int... vectors>
SparsePanel sparse_panel_of(int count, std::integer_sequence<int, vectors...>) {
  static constexpr SparsePanel table[] = {&sparse_panel<vectors, half>...};
  return table[count];
}

void sparse_product(const Product& whole, Masks masks) {
  using Counts = std::make_integer_sequence<int, kSparseVectors + 1>;
  const int64_t columns = padded(whole.n);
  const int64_t vectors = columns / kLanes;
  const bool half = vectors * kLanes < columns;
  const int64_t panels = vectors > 0 ? (vectors + kSparseVectors - 1) / kSparseVectors : 1;
  Product p = whole;
  for (int64_t i = 0; i < panels; ++i) {
    const int64_t first = vectors * i / panels, count = vectors * (i + 1) / panels - first;
    p.b = whole.b + first * kLanes;
    p.c = whole.c + first * kLanes;
    p.start = whole.start ? whole.start + first * kLanes : nullptr;
    if (half && i + 1 == panels) {
      sparse_panel_of<true>(static_cast<int>(count), Counts{})(p, masks);
    } else {
      sparse_panel_of<false>(static_cast<int>(count), Counts{})(p, masks);
    }
  }
}

}  // namespace
}  // namespace mine_fast::engine
