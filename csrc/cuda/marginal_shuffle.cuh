// CUDA kernels of the marginal shuffle: its key, its index, the shuffled copies of y, and their backward, a gather by
// owner.
#pragma once

#include "block_shuffle.cuh"

namespace mine_fast {

// Launched with one thread: it is an op of its own so that the key never leaves the device.
__global__ void advance_key_kernel(const int64_t* __restrict__ key,  // [2] (seed, offset)
                                   int64_t* __restrict__ current,    // [2]
                                   int64_t* __restrict__ next) {     // [2]
  const int64_t seed = key[0], offset = key[1];
  current[0] = next[0] = seed;
  current[1] = offset;
  next[1] = static_cast<int64_t>(static_cast<uint64_t>(offset) + 1);  // wraps
}

__global__ void __launch_bounds__(kThreads)
    shuffle_index_kernel(const int64_t* __restrict__ key,  // [2]
                         int64_t rows, int64_t shuffles, bool inverse, int tile_rows,
                         int64_t* __restrict__ index) {  // [S, B]
  for_each_pair(key, rows, shuffles, false, inverse, tile_rows,
                [&](int64_t pair, int64_t, int64_t met) { index[pair] = met; });
}

template <typename Item>
__global__ void __launch_bounds__(kThreads)
    shuffle_rows_kernel(const Item* __restrict__ y,       // [B, packs]
                        const int64_t* __restrict__ key,  // [2]
                        int64_t rows, int64_t packs, int64_t shuffles, int tile_rows,
                        Item* __restrict__ shuffled) {  // [S, B, packs]
  for_each_pair(key, rows, shuffles, false, false, tile_rows, [&](int64_t pair, int64_t, int64_t met) {
    const Item* from = y + met * packs;
    Item* to = shuffled + pair * packs;
    for (int64_t c = threadIdx.x; c < packs; c += blockDim.x) to[c] = from[c];
  });
}

// grad_y[j] = sum over s of grad[s, owner(j, s)], in the order of s: no atomics, so the same bits every time.
template <typename Scalar, int count>
__global__ void __launch_bounds__(kThreads)
    shuffle_rows_backward_kernel(const Pack<Scalar, count>* __restrict__ grad,  // [S, B, packs]
                                 const int64_t* __restrict__ key,               // [2]
                                 int64_t rows, int64_t packs, int64_t shuffles,
                                 Pack<Scalar, count>* __restrict__ grad_y) {  // [B, packs]
  __shared__ MarginalShuffle shuffle;
  if (block_thread() == 0) hash_keys(key, rows, shuffle);
  __syncthreads();
  const int64_t c = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (int64_t first = static_cast<int64_t>(blockIdx.y) * blockDim.y; first < rows;
       first += static_cast<int64_t>(gridDim.y) * blockDim.y) {
    const int64_t j = first + threadIdx.y;
    const bool active = j < rows && c < packs;
    accumulate_t<Scalar> sum[count] = {};
    for_each_shuffle<false>(shuffle, rows, shuffles, first, active, [&](int64_t s, int64_t, int64_t owner) {
      const Pack<Scalar, count> g = grad[(s * rows + owner) * packs + c];
      for (int e = 0; e < count; ++e) sum[e] += widen(g.at[e]);
    });
    if (!active) continue;
    Pack<Scalar, count> out;
    for (int e = 0; e < count; ++e) out.at[e] = narrow<Scalar>(sum[e]);
    grad_y[j * packs + c] = out;
  }
}

inline void launch_advance_key(const int64_t* key, int64_t* current, int64_t* next, cudaStream_t stream) {
  MINE_FAST_LAUNCH(advance_key_kernel, dim3(1), dim3(1), stream, key, current, next);
}

inline void launch_shuffle_index(const int64_t* key, int64_t rows, int64_t shuffles, bool inverse, int64_t* index,
                                 cudaStream_t stream) {
  const TileLayout layout = tile_layout(rows, shuffles, 1);
  MINE_FAST_LAUNCH(shuffle_index_kernel, layout.grid, layout.block, stream, key, rows, shuffles, inverse,
                   layout.tile_rows, index);
}

// Rows are copied as bytes, so any dtype shuffles.
inline void launch_marginal_shuffle(const void* y, const int64_t* key, int64_t rows, int64_t row_bytes,
                                    int64_t shuffles, void* shuffled, cudaStream_t stream) {
  with_copy_pack({row_bytes}, {y, shuffled}, [&](auto pack) {
    using Item = decltype(pack);
    const int64_t packs = row_bytes / static_cast<int64_t>(sizeof(Item));
    const TileLayout layout = tile_layout(rows, shuffles, packs);
    MINE_FAST_LAUNCH(shuffle_rows_kernel<Item>, layout.grid, layout.block, stream, static_cast<const Item*>(y), key,
                     rows, packs, shuffles, layout.tile_rows, static_cast<Item*>(shuffled));
  });
}

template <typename Scalar, int count>
void launch_packed_shuffle_backward(const Scalar* grad, const int64_t* key, int64_t rows, int64_t width,
                                    int64_t shuffles, Scalar* grad_y, cudaStream_t stream) {
  using Item = Pack<Scalar, count>;
  const TileLayout layout = sum_layout(rows, width / count);
  const auto kernel = &shuffle_rows_backward_kernel<Scalar, count>;
  MINE_FAST_LAUNCH(kernel, layout.grid, layout.block, stream, reinterpret_cast<const Item*>(grad), key, rows,
                   width / count, shuffles, reinterpret_cast<Item*>(grad_y));
}

template <typename Scalar>
void launch_marginal_shuffle_backward(const Scalar* grad, const int64_t* key, int64_t rows, int64_t width,
                                      int64_t shuffles, Scalar* grad_y, cudaStream_t stream) {
  if (packs_fit<Scalar>(width, {grad, grad_y})) {
    launch_packed_shuffle_backward<Scalar, kPack<Scalar>>(grad, key, rows, width, shuffles, grad_y, stream);
  } else {
    launch_packed_shuffle_backward<Scalar, 1>(grad, key, rows, width, shuffles, grad_y, stream);
  }
}

}  // namespace mine_fast
