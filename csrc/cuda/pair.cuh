// CUDA kernels that pair x with y and with its shuffles into one batch for a critic that reads concatenated rows.
#pragma once

#include "block_shuffle.cuh"

namespace mine_fast {

template <typename Item>
__global__ void __launch_bounds__(kThreads)
    pair_kernel(const Item* __restrict__ x,       // [B, x_packs]
                const Item* __restrict__ y,       // [B, y_packs]
                const int64_t* __restrict__ key,  // [2]
                int64_t rows, int64_t x_packs, int64_t y_packs, int64_t shuffles, int tile_rows,
                Item* __restrict__ paired) {  // [(1 + S) * B, x_packs + y_packs]
  const int64_t packs = x_packs + y_packs;
  for_each_pair(key, rows, shuffles, true, false, tile_rows, [&](int64_t pair, int64_t i, int64_t j) {
    const Item* x_row = x + i * x_packs;
    const Item* y_row = y + j * y_packs;
    Item* to = paired + pair * packs;
    for (int64_t c = threadIdx.x; c < packs; c += blockDim.x) to[c] = c < x_packs ? x_row[c] : y_row[c - x_packs];
  });
}

// Row i as x sits in row i of every plane, row i as y in row owner(i, s) of plane 1 + s.
template <typename Scalar, int count>
__global__ void __launch_bounds__(kThreads)
    pair_backward_kernel(const Pack<Scalar, count>* __restrict__ grad,  // [(1 + S) * B, x_packs + y_packs]
                         const int64_t* __restrict__ key,               // [2]
                         int64_t rows, int64_t x_packs, int64_t y_packs, int64_t shuffles,
                         Pack<Scalar, count>* __restrict__ grad_x,    // [B, x_packs]
                         Pack<Scalar, count>* __restrict__ grad_y) {  // [B, y_packs]
  __shared__ MarginalShuffle shuffle;
  if (block_thread() == 0) hash_keys(key, rows, shuffle);
  __syncthreads();
  const int64_t packs = x_packs + y_packs;
  const int64_t c = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const bool of_x = c < x_packs;
  for (int64_t first = static_cast<int64_t>(blockIdx.y) * blockDim.y; first < rows;
       first += static_cast<int64_t>(gridDim.y) * blockDim.y) {
    const int64_t i = first + threadIdx.y;
    const bool active = i < rows && c < packs;
    accumulate_t<Scalar> sum[count] = {};
    if (active) {
      const Pack<Scalar, count> joint = grad[i * packs + c];
      for (int e = 0; e < count; ++e) sum[e] = widen(joint.at[e]);
    }
    for_each_shuffle<false>(shuffle, rows, shuffles, first, active, [&](int64_t s, int64_t, int64_t owner) {
      const Pack<Scalar, count> g = grad[((1 + s) * rows + (of_x ? i : owner)) * packs + c];
      for (int e = 0; e < count; ++e) sum[e] += widen(g.at[e]);
    });
    if (!active) continue;
    Pack<Scalar, count> out;
    for (int e = 0; e < count; ++e) out.at[e] = narrow<Scalar>(sum[e]);
    if (of_x) {
      grad_x[i * x_packs + c] = out;
    } else {
      grad_y[i * y_packs + c - x_packs] = out;
    }
  }
}

inline void launch_pair(const void* x, const void* y, const int64_t* key, int64_t rows, int64_t x_bytes,
                        int64_t y_bytes, int64_t shuffles, void* paired, cudaStream_t stream) {
  with_copy_pack({x_bytes, y_bytes}, {x, y, paired}, [&](auto pack) {
    using Item = decltype(pack);
    constexpr int64_t kBytes = sizeof(Item);
    const TileLayout layout = tile_layout(rows, 1 + shuffles, (x_bytes + y_bytes) / kBytes);
    MINE_FAST_LAUNCH(pair_kernel<Item>, layout.grid, layout.block, stream, static_cast<const Item*>(x),
                     static_cast<const Item*>(y), key, rows, x_bytes / kBytes, y_bytes / kBytes, shuffles,
                     layout.tile_rows, static_cast<Item*>(paired));
  });
}

template <typename Scalar, int count>
void launch_packed_pair_backward(const Scalar* grad, const int64_t* key, int64_t rows, int64_t x_width, int64_t y_width,
                                 int64_t shuffles, Scalar* grad_x, Scalar* grad_y, cudaStream_t stream) {
  using Item = Pack<Scalar, count>;
  const TileLayout layout = sum_layout(rows, (x_width + y_width) / count);
  const auto kernel = &pair_backward_kernel<Scalar, count>;
  MINE_FAST_LAUNCH(kernel, layout.grid, layout.block, stream, reinterpret_cast<const Item*>(grad), key, rows,
                   x_width / count, y_width / count, shuffles, reinterpret_cast<Item*>(grad_x),
                   reinterpret_cast<Item*>(grad_y));
}

template <typename Scalar>
void launch_pair_backward(const Scalar* grad, const int64_t* key, int64_t rows, int64_t x_width, int64_t y_width,
                          int64_t shuffles, Scalar* grad_x, Scalar* grad_y, cudaStream_t stream) {
  if (x_width % kPack<Scalar> == 0 && packs_fit<Scalar>(y_width, {grad, grad_x, grad_y})) {
    launch_packed_pair_backward<Scalar, kPack<Scalar>>(grad, key, rows, x_width, y_width, shuffles, grad_x, grad_y,
                                                       stream);
  } else {
    launch_packed_pair_backward<Scalar, 1>(grad, key, rows, x_width, y_width, shuffles, grad_x, grad_y, stream);
  }
}

}  // namespace mine_fast
