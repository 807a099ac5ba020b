// Products with a binary left side: row i of the result is the sum of the rows of B that mask row i selects. The rows
// of B are taken in fours, the 16 sums of their subsets go into a table, and each four then costs one table look-up and
// one addition instead of four multiply-adds (the "four Russians" of Arlazarov et al., 1970). The tables of 64 rows of
// B and 16 columns are 16 KB: half of a first-level cache.
//
// Where it applies: the gradient at a last hidden ReLU layer is (row weight) x (mask AND output weights).
#pragma once

#include "kernels.h"
#include "simd.h"

namespace mine_fast::engine {
namespace {

constexpr int kTableColumns = 16;
constexpr int kTableSize = 16 * kTableColumns;  // of 4 rows

// The sums of all subsets of up to 4 rows of scale * B; `columns` is 16 or 8 (then the rest stays unset and unread).
template <int columns>
MINE_FAST_INLINE void subset_table(const float* b, int64_t b_row, const float* scale, int64_t rows, float* table) {
  constexpr int lanes = columns < kLanes ? columns : kLanes;
  for (int c = 0; c < columns; c += lanes) {
    vec<lanes> sums[16];
    sums[0] = vec<lanes>{};
    for (int r = 0; r < 4; ++r) {
      const vec<lanes> line = r < rows ? load<lanes>(b + r * b_row + c) * broadcast<lanes>(scale[r]) : vec<lanes>{};
      for (int s = 0; s < 1 << r; ++s) sums[(1 << r) + s] = s == 0 ? line : sums[s] + line;
    }
    for (int s = 0; s < 16; ++s) store<lanes>(table + s * kTableColumns + c, sums[s]);
  }
}

template <int columns>
MINE_FAST_INLINE void subset_tables_of_word(const float* b, int64_t b_row, const float* scale, int64_t rows,
                                            float* tables) {
  for (int64_t r = 0; r < rows; r += 4, tables += kTableSize)
    subset_table<columns>(b + r * b_row, b_row, scale + r, rows - r, tables);
}

// The look-ups of one mask word. Two chains of additions, or their latency would show.
template <int columns>
struct SubsetSum {
  static constexpr int kWidth = columns < kLanes ? columns : kLanes;
  static constexpr int kVectors = columns / kWidth;
  vec<kWidth> even[kVectors]{}, odd[kVectors]{};

  MINE_FAST_INLINE void add(const float* tables, uint64_t bits, int groups) {
    if (groups == 16) {
#pragma GCC unroll 8
      for (int g = 0; g < 16; g += 2) look_up_two(tables + g * kTableSize, bits);
    } else {
      for (; groups > 1; groups -= 2, tables += 2 * kTableSize) look_up_two(tables, bits);
      if (groups == 1) look_up(even, tables, bits << 4);
    }
  }
  MINE_FAST_INLINE vec<kWidth> total(int v) const { return even[v] + odd[v]; }

 private:
  // The table's line of the 4 bits from bit 4 on: a table is 16 lines of 16 floats, so masking is enough.
  MINE_FAST_INLINE void look_up(vec<kWidth>* sums, const float* table, uint64_t bits) {
    static_assert(kTableColumns == 16, "16 floats to a line");
    const float* line = table + (bits & 0xf0);
    for (int v = 0; v < kVectors; ++v) sums[v] += load<kWidth>(line + v * kWidth);
  }
  MINE_FAST_INLINE void look_up_two(const float* table, uint64_t& bits) {
    look_up(even, table, bits << 4);
    look_up(odd, table + kTableSize, bits);
    bits >>= 8;
    // Keeps the order of the source; else the compiler adds up one column after the other, and the 16 shifted bits
    // wait in memory.
    for (int v = 0; v < kVectors; ++v) {
      pin(even[v]);
      pin(odd[v]);
    }
  }
};

// C [rows, columns] gets the look-ups of one mask word for every row: set or added, and then times a weight if given.
template <int columns>
MINE_FAST_INLINE void subset_look_up(const float* tables, Masks masks, int64_t rows, int groups, bool set,
                                     const float* row_weight, float* c, int64_t c_row) {
  using Sum = SubsetSum<columns>;
  for (int64_t i = 0; i < rows; ++i) {
    Sum sum;
    sum.add(tables, masks.words[i], groups);
    float* out = c + i * c_row;
    for (int v = 0; v < Sum::kVectors; ++v) {
      vec<Sum::kWidth> value = sum.total(v);
      if (!set) value += load<Sum::kWidth>(out + v * Sum::kWidth);
      if (row_weight) value *= broadcast<Sum::kWidth>(row_weight[i]);
      store<Sum::kWidth>(out + v * Sum::kWidth, value);
    }
  }
}

template <int columns>
void subset_product_panel(const float* tables, Masks masks, int64_t rows, int64_t k, const float* row_weight, float* c,
                          int64_t c_row) {
  const int64_t words = mask_words(k);
  for (int64_t w = 0; w < words; ++w, tables += 16 * kTableSize) {
    const int groups = static_cast<int>(w + 1 < words ? 16 : (k - w * 64 + 3) / 4);
    subset_look_up<columns>(tables, {masks.words + w * masks.rows, masks.rows}, rows, groups, w == 0,
                            w + 1 == words ? row_weight : nullptr, c, c_row);
  }
}

void subset_product(const float* tables, Masks masks, int64_t rows, int64_t k, int64_t n, const float* row_weight,
                    float* c, int64_t c_row) {
  const int64_t panel_size = (k + 3) / 4 * kTableSize;
  n = padded(n);
  for (; n > 0; n -= 16, tables += panel_size, c += 16) {
    if (n >= 16) {
      subset_product_panel<16>(tables, masks, rows, k, row_weight, c, c_row);
    } else {
      subset_product_panel<8>(tables, masks, rows, k, row_weight, c, c_row);
    }
  }
}

void subset_tables(const float* b, int64_t b_row, const float* scale, int64_t k, int64_t n, float* tables) {
  const int64_t panel_size = (k + 3) / 4 * kTableSize;
  n = padded(n);
  for (; n > 0; n -= 16, tables += panel_size, b += 16) {
    if (n >= 16) {
      subset_tables_of_word<16>(b, b_row, scale, k, tables);
    } else {
      subset_tables_of_word<8>(b, b_row, scale, k, tables);
    }
  }
}

template <int columns>
void subset_sums_panel(const float* b, int64_t b_row, const float* scale, Masks masks, int64_t m, int64_t k,
                       const float* row_weight, float* c, int64_t c_row, float* tables) {
  const int64_t words = mask_words(k);
  for (int64_t w = 0; w < words; ++w) {
    const int64_t rows = w + 1 < words ? 64 : k - w * 64;
    subset_tables_of_word<columns>(b + w * 64 * b_row, b_row, scale + w * 64, rows, tables);
    subset_look_up<columns>(tables, {masks.words + w * masks.rows, masks.rows}, m, static_cast<int>((rows + 3) / 4),
                            row_weight != nullptr && w == 0, w + 1 == words ? row_weight : nullptr, c, c_row);
  }
}

void subset_sums(const float* b, int64_t b_row, const float* scale, Masks masks, int64_t m, int64_t k, int64_t n,
                 const float* row_weight, float* c, int64_t c_row, float* tables) {
  n = padded(n);
  for (; n > 0; n -= 16, b += 16, c += 16) {
    if (n >= 16) {
      subset_sums_panel<16>(b, b_row, scale, masks, m, k, row_weight, c, c_row, tables);
    } else {
      subset_sums_panel<8>(b, b_row, scale, masks, m, k, row_weight, c, c_row, tables);
    }
  }
}

// Bits of a 64 x 64 block transposed in place, by swapping ever smaller halves (Warren, Hacker's Delight, 7-3).
MINE_FAST_INLINE void transpose_bits64(uint64_t* block) {
  uint64_t mask = 0x00000000ffffffffull;
  for (int j = 32; j != 0; j >>= 1, mask ^= mask << j) {
    for (int k = 0; k < 64; k = (k + j + 1) & ~j) {
      const uint64_t swap = ((block[k] >> j) ^ block[k + j]) & mask;
      block[k] ^= swap << j;
      block[k + j] ^= swap;
    }
  }
}

void transpose_masks(Masks in, int64_t columns, uint64_t* out) {
  for (int64_t w = 0; w < mask_words(columns); ++w) {
    for (int64_t r0 = 0; r0 < in.rows; r0 += 64) {
      const int64_t here = in.rows - r0 < 64 ? in.rows - r0 : 64;
      uint64_t block[64];
      for (int64_t r = 0; r < 64; ++r) block[r] = r < here ? in.words[w * in.rows + r0 + r] : 0;
      transpose_bits64(block);
      for (int64_t c = 0; c < 64 && w * 64 + c < columns; ++c) out[r0 / 64 * columns + w * 64 + c] = block[c];
    }
  }
}

}  // namespace
}  // namespace mine_fast::engine
