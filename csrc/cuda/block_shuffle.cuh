// The marginal shuffle as a block of threads evaluates it: the round keys are hashed once per block from the key in
// device memory (so that a captured graph replays with an advanced counter), the partners of a tile of rows are found
// by one thread each and handed to the threads along the row through shared memory.
#pragma once

#include "../shuffle.h"
#include "rows.cuh"

namespace mine_fast {

__device__ __forceinline__ int block_thread() { return static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x); }
__device__ __forceinline__ int block_threads() { return static_cast<int>(blockDim.x * blockDim.y); }

// Out of line: the network's rounds are most of a kernel's code, and one copy serves every dtype and activation.
inline MINE_FAST_OUT_OF_LINE void hash_keys(const int64_t* __restrict__ key,  // [2] (seed, offset)
                                            int64_t rows, MarginalShuffle& shuffle) {
  shuffle = MarginalShuffle(static_cast<uint64_t>(key[0]), static_cast<uint64_t>(key[1]), rows);
}
inline MINE_FAST_OUT_OF_LINE int64_t shift_of(const MarginalShuffle& shuffle, int64_t s) { return shuffle.shift(s); }
inline MINE_FAST_OUT_OF_LINE int64_t rank_of(const MarginalShuffle& shuffle, int64_t i) { return shuffle.rank(i); }
// The partner under `shift`; under rows - shift, the owner.
inline MINE_FAST_OUT_OF_LINE int64_t row_met(const MarginalShuffle& shuffle, int64_t rank, int64_t shift) {
  return shuffle.partner_of_rank(rank, shift);
}

// Calls body(pair, i, j) for the pairs of this block's tiles, from all threads along a row: row i of x meets row j of
// y in row `pair` of the output. Plane 0 holds the joint pairs if with_joint; every other plane is one shuffle. With
// inverse, j is the owner of i in place of its partner.
template <typename Body>
__device__ __forceinline__ void for_each_pair(const int64_t* __restrict__ key, int64_t rows, int64_t shuffles,
                                              bool with_joint, bool inverse, int tile_rows, const Body& body) {
  __shared__ MarginalShuffle shuffle;
  __shared__ int64_t shift;
  __shared__ int64_t met[kMaxTile];
  const int64_t planes = shuffles + (with_joint ? 1 : 0);
  bool hashed = false;
  for (int64_t plane = blockIdx.y; plane < planes; plane += gridDim.y) {
    const int64_t s = with_joint ? plane - 1 : plane;  // -1: the joint plane
    if (block_thread() == 0 && s >= 0) {
      if (!hashed) hash_keys(key, rows, shuffle);
      hashed = true;
      const int64_t forward = shift_of(shuffle, s);
      shift = inverse ? rows - forward : forward;
    }
    __syncthreads();
    for (int64_t first = static_cast<int64_t>(blockIdx.x) * tile_rows; first < rows;
         first += static_cast<int64_t>(gridDim.x) * tile_rows) {
      const int count = rows - first < tile_rows ? static_cast<int>(rows - first) : tile_rows;
      for (int r = block_thread(); r < count; r += block_threads())
        met[r] = s < 0 ? first + r : row_met(shuffle, rank_of(shuffle, first + r), shift);
      __syncthreads();
      for (int r = static_cast<int>(threadIdx.y); r < count; r += static_cast<int>(blockDim.y))
        body(plane * rows + first + r, first + r, met[r]);
      __syncthreads();  // `met` and `shift` are free again
    }
  }
}

// Shuffles looked up at a time by a block of up to kThreads rows: its tables have kSlots entries.
constexpr int kSlots = 1024;
constexpr int kMaxShifts = 32;

// Calls body(s, partner, owner) for every shuffle s in order, for the thread's row first + threadIdx.y: the row of y
// that it meets as x, and the row of x that it meets as y. Every thread of the block must call this; `active` says
// whether body is called for it. Without kPartners, partner is -1.
template <bool kPartners, typename Body>
__device__ __forceinline__ void for_each_shuffle(const MarginalShuffle& shuffle, int64_t rows, int64_t shuffles,
                                                 int64_t first, bool active, const Body& body) {
  __shared__ int64_t rank[kThreads];
  __shared__ int64_t shift[kMaxShifts];
  __shared__ int64_t owner[kSlots];
  __shared__ int64_t partner[kPartners ? kSlots : 1];
  const int tile = static_cast<int>(blockDim.y);
  const int count = rows - first < tile ? static_cast<int>(rows - first) : tile;
  const int at_once = kSlots / tile < kMaxShifts ? kSlots / tile : kMaxShifts;
  for (int r = block_thread(); r < count; r += block_threads()) rank[r] = rank_of(shuffle, first + r);
  for (int64_t start = 0; start < shuffles; start += at_once) {
    const int chunk = shuffles - start < at_once ? static_cast<int>(shuffles - start) : at_once;
    for (int k = block_thread(); k < chunk; k += block_threads()) shift[k] = shift_of(shuffle, start + k);
    __syncthreads();  // now no thread reads the tables of the last round either
    for (int slot = block_thread(); slot < chunk * count; slot += block_threads()) {
      const int k = slot / count, r = slot % count;
      owner[k * tile + r] = row_met(shuffle, rank[r], rows - shift[k]);
      if (kPartners) partner[k * tile + r] = row_met(shuffle, rank[r], shift[k]);
    }
    __syncthreads();
    if (active) {
#pragma unroll 1  // a body has loads enough in flight; unrolled, it outgrows the registers
      for (int k = 0; k < chunk; ++k) {
        const int slot = k * tile + static_cast<int>(threadIdx.y);
        body(start + k, kPartners ? partner[slot] : int64_t{-1}, owner[slot]);
      }
    }
  }
}

}  // namespace mine_fast
