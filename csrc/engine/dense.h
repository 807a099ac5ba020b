// The dense product C = start + A B in register tiles: `rows` x `vectors` accumulators, A broadcast element by element,
// B read in vectors. Blocked so that a panel of B stays in the first-level cache and a block of A in the second.
#pragma once

#include "elementwise.h"
#include "kernels.h"
#include "simd.h"

namespace mine_fast::engine {
namespace {

// One register tile. start null: add to C. transposed: A is read down its columns (a_row = 1), else along its rows.
template <int lanes, int rows, int vectors, bool transposed>
MINE_FAST_INLINE void register_tile(int64_t k, const float* a, int64_t a_stride, const float* b, int64_t b_row,
                                    float* c, int64_t c_row, const float* start) {
  vec<lanes> sums[rows][vectors];
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < vectors; ++v) sums[r][v] = start ? load<lanes>(start + v * lanes) : vec<lanes>{};
  // What is added to at the end, and the rows of the next tile, are on their way while this one is computed.
  if (!start)
    for (int r = 0; r < rows; ++r) {
      __builtin_prefetch(c + r * c_row, 1);
      __builtin_prefetch(c + r * c_row + vectors * lanes - 1, 1);
    }
  if constexpr (!transposed)
    for (int r = 0; r < rows; ++r) {
      __builtin_prefetch(a + (rows + r) * a_stride);
      __builtin_prefetch(a + (rows + r) * a_stride + 16);
    }
  for (int64_t p = 0; p < k; ++p) {
    vec<lanes> line[vectors];
    for (int v = 0; v < vectors; ++v) line[v] = load<lanes>(b + v * lanes);
    for (int r = 0; r < rows; ++r) {
      const vec<lanes> element = broadcast<lanes>(transposed ? a[r] : a[r * a_stride]);
      for (int v = 0; v < vectors; ++v) sums[r][v] += element * line[v];
    }
    a += transposed ? a_stride : 1;
    b += b_row;
  }
  // Added to C at the end and not begun from it: the joint rows cancel most of what the marginal rows have left there,
  // and every addition to the large value would round at its scale.
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < vectors; ++v) {
      float* out = c + r * c_row + v * lanes;
      store<lanes>(out, start ? sums[r][v] : sums[r][v] + load<lanes>(out));
    }
}

// All rows of a panel of columns, in tiles of `rows` and then of fewer.
template <int lanes, int rows, int vectors, bool transposed>
void panel(int64_t m, int64_t k, const float* a, int64_t a_stride, const float* b, int64_t b_row, float* c,
           int64_t c_row, const float* start) {
  for (; m >= rows; m -= rows) {
    register_tile<lanes, rows, vectors, transposed>(k, a, a_stride, b, b_row, c, c_row, start);
    a += transposed ? rows : rows * a_stride;
    c += rows * c_row;
  }
  if constexpr (rows > 1) {
    if (m > 0) panel<lanes, rows / 2, vectors, transposed>(m, k, a, a_stride, b, b_row, c, c_row, start);
  }
}

// Accumulators per tile: 12 of 16 registers, 24 of 32. More rows where the panel is narrow, so that there are always
// enough independent sums to hide the latency of a multiply-add.
#if MINE_FAST_ISA == 512
constexpr int kMaxVectors = 4;
constexpr int tile_rows(int vectors) { return vectors == 4 ? 6 : vectors == 3 ? 8 : 12; }
#else
constexpr int kMaxVectors = 3;
constexpr int tile_rows(int vectors) { return vectors == 3 ? 4 : vectors == 2 ? 6 : 12; }
#endif

constexpr int64_t kDepthBlock = 224;  // of k: 224 x 24 floats of B are two thirds of a 32 KB cache
constexpr int64_t kRowBlock = 192;    // of m
// A panel of B is packed for at least this many rows of A, which costs about 1/m of the product: with the gaps between
// its rows it takes half as much again of the cache. Not measured with 16 lanes, whose panels are larger than the
// cache.
constexpr int64_t kPackFor = MINE_FAST_ISA == 512 ? INT64_MAX : 64;

// One panel of columns, its part of B packed if that pays.
template <int lanes, int rows, int vectors, bool transposed>
void packed_panel(int64_t m, int64_t k, const float* a, int64_t a_stride, const float* b, int64_t b_row, float* c,
                  int64_t c_row, const float* start) {
  constexpr int64_t columns = vectors * lanes;
  if (m < kPackFor || b_row == columns) {
    panel<lanes, rows, vectors, transposed>(m, k, a, a_stride, b, b_row, c, c_row, start);
    return;
  }
  alignas(64) float packed[kDepthBlock * columns];
  for (int64_t p = 0; p < k; ++p)
    for (int v = 0; v < vectors; ++v)
      store<lanes>(packed + p * columns + v * lanes, load<lanes>(b + p * b_row + v * lanes));
  panel<lanes, rows, vectors, transposed>(m, k, a, a_stride, packed, columns, c, c_row, start);
}

template <bool transposed>
void block(int64_t m, int64_t n, int64_t k, const float* a, int64_t a_stride, const float* b, int64_t b_row, float* c,
           int64_t c_row, const float* start) {
  const auto advance = [&](int64_t columns) {
    n -= columns;
    b += columns;
    c += columns;
    if (start) start += columns;
  };
  n = padded(n);
  while (n >= kLanes) {
    int64_t vectors = n / kLanes;
    if (vectors > 3) vectors = vectors == 4 ? (kMaxVectors == 4 ? 4 : 2) : 3;
    if (vectors == 1) packed_panel<kLanes, tile_rows(1), 1, transposed>(m, k, a, a_stride, b, b_row, c, c_row, start);
    if (vectors == 2) packed_panel<kLanes, tile_rows(2), 2, transposed>(m, k, a, a_stride, b, b_row, c, c_row, start);
    if (vectors == 3) packed_panel<kLanes, tile_rows(3), 3, transposed>(m, k, a, a_stride, b, b_row, c, c_row, start);
    if constexpr (kMaxVectors == 4)
      if (vectors == 4) packed_panel<kLanes, tile_rows(4), 4, transposed>(m, k, a, a_stride, b, b_row, c, c_row, start);
    advance(vectors * kLanes);
  }
  if constexpr (kLanes > 8)
    if (n > 0) panel<8, 12, 1, transposed>(m, k, a, a_stride, b, b_row, c, c_row, start);
}

void product(const Product& p) {
  const bool transposed = p.a_col != 1;
  const int64_t stride = transposed ? p.a_col : p.a_row;
  const int64_t blocks = p.k > kDepthBlock ? (p.k + kDepthBlock - 1) / kDepthBlock : 1;
  const int64_t depth = (p.k + blocks - 1) / blocks;
  for (int64_t k0 = 0; k0 < p.k || k0 == 0; k0 += depth) {
    const int64_t k = p.k - k0 < depth ? p.k - k0 : depth;
    const float* start = k0 == 0 ? p.start : nullptr;
    for (int64_t m0 = 0; m0 < p.m; m0 += kRowBlock) {
      const int64_t m = p.m - m0 < kRowBlock ? p.m - m0 : kRowBlock;
      const float* a = p.a + m0 * p.a_row + k0 * p.a_col;
      float* c = p.c + m0 * p.c_row;
      if (transposed && p.a_col > kRowBlock && p.n > 64) {
        // Down its columns, A is a page for each element: more of them than a processor has addresses at hand.
        alignas(64) float turned[kRowBlock * kDepthBlock];
        transpose(a, p.a_col, k, m, turned, k);
        block<false>(m, p.n, k, turned, k, p.b + k0 * p.b_row, p.b_row, c, p.c_row, start);
      } else if (transposed) {
        block<true>(m, p.n, k, a, stride, p.b + k0 * p.b_row, p.b_row, c, p.c_row, start);
      } else {
        block<false>(m, p.n, k, a, stride, p.b + k0 * p.b_row, p.b_row, c, p.c_row, start);
      }
    }
    if (p.k == 0) break;
  }
}

}  // namespace
}  // namespace mine_fast::engine
