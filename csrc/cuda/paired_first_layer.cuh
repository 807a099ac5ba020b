// CUDA kernels of the paired first layer. W [x; y] = Wx x + Wy y, so both products are made once per row outside, and
// these add them for the joint rows and for every shuffle, with bias and activation, in one pass. The backward
// recomputes the pre-activations from x_part and y_part: memory does not grow with the number of shuffles.
#pragma once

#include "../activation.h"
#include "block_shuffle.cuh"

namespace mine_fast {

template <Activation kind, typename Scalar, int count>
__global__ void __launch_bounds__(kThreads)
    paired_first_layer_kernel(const Pack<Scalar, count>* __restrict__ x_part,  // [B, packs]
                              const Pack<Scalar, count>* __restrict__ y_part,  // [B, packs]
                              const Pack<Scalar, count>* __restrict__ bias,    // [packs]
                              const int64_t* __restrict__ key,                 // [2]
                              int64_t rows, int64_t packs, int64_t shuffles, accumulate_t<Scalar> slope, int tile_rows,
                              Pack<Scalar, count>* __restrict__ hidden) {  // [(1 + S) * B, packs]
  for_each_pair(key, rows, shuffles, true, false, tile_rows, [&](int64_t pair, int64_t i, int64_t j) {
    for (int64_t c = threadIdx.x; c < packs; c += blockDim.x) {
      const Pack<Scalar, count> x = x_part[i * packs + c], y = y_part[j * packs + c], b = bias[c];
      Pack<Scalar, count> out;
      for (int e = 0; e < count; ++e)
        out.at[e] = narrow<Scalar>(activate<kind>(widen(x.at[e]) + widen(y.at[e]) + widen(b.at[e]), slope));
      hidden[pair * packs + c] = out;
    }
  });
}

// fp64, the type of gradient checks, calls one copy: inlined, the constants of its erf and exp are hoisted out of the
// loop over shuffles, into more registers than there are.
template <Activation kind>
MINE_FAST_OUT_OF_LINE double derivative(double v, double slope) {
  return activation_derivative<kind>(v, slope);
}
template <Activation kind>
__device__ __forceinline__ float derivative(float v, float slope) {
  return activation_derivative<kind>(v, slope);
}

// sum[e] += grad[e] * activation'(x[e] + y[e] + bias[e]). By value: through references the packs would be loaded
// scalar by scalar.
template <Activation kind, typename Scalar, int count>
__device__ __forceinline__ void add_pre_activation_grad(Pack<Scalar, count> grad, Pack<Scalar, count> x,
                                                        Pack<Scalar, count> y, Pack<Scalar, count> bias,
                                                        accumulate_t<Scalar> slope, accumulate_t<Scalar>* sum) {
  for (int e = 0; e < count; ++e)
    sum[e] += widen(grad.at[e]) * derivative<kind>(widen(x.at[e]) + widen(y.at[e]) + widen(bias.at[e]), slope);
}

template <Activation kind, typename Scalar, int count>
__global__ void __launch_bounds__(kThreads, 3)
    paired_first_layer_backward_kernel(const Pack<Scalar, count>* __restrict__ grad,    // [(1 + S) * B, packs]
                                       const Pack<Scalar, count>* __restrict__ x_part,  // [B, packs]
                                       const Pack<Scalar, count>* __restrict__ y_part,  // [B, packs]
                                       const Pack<Scalar, count>* __restrict__ bias,    // [packs]
                                       const int64_t* __restrict__ key,                 // [2]
                                       int64_t rows, int64_t packs, int64_t shuffles, accumulate_t<Scalar> slope,
                                       Pack<Scalar, count>* __restrict__ grad_x,    // [B, packs]
                                       Pack<Scalar, count>* __restrict__ grad_y) {  // [B, packs]
  using T = accumulate_t<Scalar>;
  __shared__ MarginalShuffle shuffle;
  if (block_thread() == 0) hash_keys(key, rows, shuffle);
  __syncthreads();
  const int64_t c = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (int64_t first = static_cast<int64_t>(blockIdx.y) * blockDim.y; first < rows;
       first += static_cast<int64_t>(gridDim.y) * blockDim.y) {
    const int64_t i = first + threadIdx.y;
    const bool active = i < rows && c < packs;
    T x_sum[count] = {}, y_sum[count] = {};
    Pack<Scalar, count> x = {}, y = {}, b = {};
    if (active) {
      x = x_part[i * packs + c];
      y = y_part[i * packs + c];
      b = bias[c];
      // Row i as x and row i as y share the joint pair and part in every shuffle.
      add_pre_activation_grad<kind>(grad[i * packs + c], x, y, b, slope, x_sum);
      for (int e = 0; e < count; ++e) y_sum[e] = x_sum[e];
    }
    for_each_shuffle<true>(shuffle, rows, shuffles, first, active, [&](int64_t s, int64_t partner, int64_t owner) {
      const Pack<Scalar, count>* plane = grad + (1 + s) * rows * packs;
      add_pre_activation_grad<kind>(plane[i * packs + c], x, y_part[partner * packs + c], b, slope, x_sum);
      add_pre_activation_grad<kind>(plane[owner * packs + c], x_part[owner * packs + c], y, b, slope, y_sum);
    });
    if (!active) continue;
    Pack<Scalar, count> out_x, out_y;
    for (int e = 0; e < count; ++e) {
      out_x.at[e] = narrow<Scalar>(x_sum[e]);
      out_y.at[e] = narrow<Scalar>(y_sum[e]);
    }
    grad_x[i * packs + c] = out_x;
    grad_y[i * packs + c] = out_y;
  }
}

template <Activation kind, typename Scalar, int count>
void launch_packed_first_layer(const Scalar* x_part, const Scalar* y_part, const Scalar* bias, const int64_t* key,
                               int64_t rows, int64_t width, int64_t shuffles, double slope, Scalar* hidden,
                               cudaStream_t stream) {
  using Item = Pack<Scalar, count>;
  const int64_t packs = width / count;
  const TileLayout layout = tile_layout(rows, 1 + shuffles, packs);
  const auto kernel = &paired_first_layer_kernel<kind, Scalar, count>;
  MINE_FAST_LAUNCH(kernel, layout.grid, layout.block, stream, reinterpret_cast<const Item*>(x_part),
                   reinterpret_cast<const Item*>(y_part), reinterpret_cast<const Item*>(bias), key, rows, packs,
                   shuffles, static_cast<accumulate_t<Scalar>>(slope), layout.tile_rows,
                   reinterpret_cast<Item*>(hidden));
}

template <Activation kind, typename Scalar>
void launch_paired_first_layer(const Scalar* x_part, const Scalar* y_part, const Scalar* bias, const int64_t* key,
                               int64_t rows, int64_t width, int64_t shuffles, double slope, Scalar* hidden,
                               cudaStream_t stream) {
  if (packs_fit<Scalar>(width, {x_part, y_part, bias, hidden})) {
    launch_packed_first_layer<kind, Scalar, kPack<Scalar>>(x_part, y_part, bias, key, rows, width, shuffles, slope,
                                                           hidden, stream);
  } else {
    launch_packed_first_layer<kind, Scalar, 1>(x_part, y_part, bias, key, rows, width, shuffles, slope, hidden, stream);
  }
}

template <Activation kind, typename Scalar, int count>
void launch_packed_first_layer_backward(const Scalar* grad, const Scalar* x_part, const Scalar* y_part,
                                        const Scalar* bias, const int64_t* key, int64_t rows, int64_t width,
                                        int64_t shuffles, double slope, Scalar* grad_x, Scalar* grad_y,
                                        cudaStream_t stream) {
  using Item = Pack<Scalar, count>;
  const int64_t packs = width / count;
  const TileLayout layout = sum_layout(rows, packs);
  const auto kernel = &paired_first_layer_backward_kernel<kind, Scalar, count>;
  MINE_FAST_LAUNCH(kernel, layout.grid, layout.block, stream, reinterpret_cast<const Item*>(grad),
                   reinterpret_cast<const Item*>(x_part), reinterpret_cast<const Item*>(y_part),
                   reinterpret_cast<const Item*>(bias), key, rows, packs, shuffles,
                   static_cast<accumulate_t<Scalar>>(slope), reinterpret_cast<Item*>(grad_x),
                   reinterpret_cast<Item*>(grad_y));
}

template <Activation kind, typename Scalar>
void launch_paired_first_layer_backward(const Scalar* grad, const Scalar* x_part, const Scalar* y_part,
                                        const Scalar* bias, const int64_t* key, int64_t rows, int64_t width,
                                        int64_t shuffles, double slope, Scalar* grad_x, Scalar* grad_y,
                                        cudaStream_t stream) {
  if (packs_fit<Scalar>(width, {grad, x_part, y_part, bias, grad_x, grad_y})) {
    launch_packed_first_layer_backward<kind, Scalar, kPack<Scalar>>(grad, x_part, y_part, bias, key, rows, width,
                                                                    shuffles, slope, grad_x, grad_y, stream);
  } else {
    launch_packed_first_layer_backward<kind, Scalar, 1>(grad, x_part, y_part, bias, key, rows, width, shuffles, slope,
                                                        grad_x, grad_y, stream);
  }
}

}  // namespace mine_fast
