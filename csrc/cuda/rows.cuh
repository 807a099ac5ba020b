// How the kernels over rows are laid out, and the packs of scalars that they move.
//
// A block covers whole rows where it can: threadIdx.x runs along a row's packs and threadIdx.y along rows, so that a
// warp reads consecutive addresses for narrow rows too.
#pragma once

#include <algorithm>

#include "launch.cuh"

namespace mine_fast {

constexpr int kThreads = 256;
constexpr int kMaxTile = kThreads;       // rows of a tile: each thread finds one partner
constexpr int64_t kMaxBlocks = 8192;     // beyond, a block takes several tiles and hashes its keys once
constexpr int64_t kBlocksWanted = 1024;  // below, tiles shrink: a small batch must still fill the GPU
constexpr int64_t kMaxGridY = 65535;

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// `count` scalars, at most 16 bytes: moved by one instruction.
template <typename Scalar, int count>
struct alignas(sizeof(Scalar) * count) Pack {
  Scalar at[count];
};

// Scalars per thread in arithmetic kernels, where width and pointers allow.
template <typename Scalar>
constexpr int kPack = sizeof(Scalar) == 8 ? 2 : 4;

template <typename Scalar>
bool packs_fit(int64_t width, std::initializer_list<const void*> pointers) {
  bool fits = width % kPack<Scalar> == 0;
  for (const void* p : pointers)
    fits = fits && reinterpret_cast<uintptr_t>(p) % alignof(Pack<Scalar, kPack<Scalar>>) == 0;
  return fits;
}

// Rows copied as bytes: calls body(Pack<...>{}) with the widest pack that divides every width and pointer.
template <typename Body>
void with_copy_pack(std::initializer_list<int64_t> byte_widths, std::initializer_list<const void*> pointers,
                    Body&& body) {
  uint64_t bits = 16;
  for (int64_t w : byte_widths) bits |= static_cast<uint64_t>(w);
  for (const void* p : pointers) bits |= reinterpret_cast<uintptr_t>(p);
  switch (bits & -bits) {
    case 16: return body(Pack<uint32_t, 4>{});
    case 8: return body(Pack<uint32_t, 2>{});
    case 4: return body(Pack<uint32_t, 1>{});
    case 2: return body(Pack<uint16_t, 1>{});
    default: return body(Pack<uint8_t, 1>{});
  }
}

// Threads for rows of `packs` packs: all of a row where it fits, else an equal share per pass over it.
inline dim3 row_block(int64_t packs) {
  const int64_t passes = divide_up(packs, kThreads);
  const int64_t along = divide_up(packs, passes);
  return dim3(static_cast<unsigned>(along), static_cast<unsigned>(kThreads / along));
}

struct TileLayout {
  dim3 grid;  // of tile_layout: x over tiles of rows, y over planes (the joint one and one per shuffle)
  dim3 block;
  int tile_rows;
};

inline TileLayout tile_layout(int64_t rows, int64_t planes, int64_t packs) {
  const dim3 block = row_block(packs);
  const int64_t even = rows * planes / kBlocksWanted;
  const int64_t tile = std::min<int64_t>(kMaxTile, std::max<int64_t>(block.y, even));
  const int64_t y = std::min(planes, kMaxGridY);
  const int64_t x = std::min(divide_up(rows, tile), std::max<int64_t>(1, kMaxBlocks / y));
  return {dim3(static_cast<unsigned>(x), static_cast<unsigned>(y)), block, static_cast<int>(tile)};
}

// For the kernels that sum over shuffles: a thread owns one pack of one row at a time. The grid's x goes over packs, as
// its y has an end that wide rows reach.
inline TileLayout sum_layout(int64_t rows, int64_t packs) {
  const dim3 block = row_block(packs);
  const int64_t x = divide_up(packs, block.x);
  const int64_t y = std::min(divide_up(rows, block.y), std::max<int64_t>(1, kMaxBlocks / x));
  return {dim3(static_cast<unsigned>(x), static_cast<unsigned>(y)), block, static_cast<int>(block.y)};
}

}  // namespace mine_fast
