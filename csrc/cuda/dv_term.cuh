// CUDA kernels of the Donsker-Varadhan term.
//
// Forward: one block reduces up to kScoresPerBlock scores to (joint sum, marginal maximum, marginal sum of exp). A
// batch that fits one block is finished by it, in one launch; a larger one leaves one partial per block, which a
// second launch merges in a fixed order. No atomics, no last-block-done counter: the same scores give the same bits.
// Backward: one elementwise kernel.
#pragma once

#include "../log_mean_exp.h"
#include "rows.cuh"

namespace mine_fast {

constexpr int kReduceThreads = 512;
constexpr int kScoresPerThread = 16;  // held in registers between the maximum and the sum
constexpr int64_t kScoresPerBlock = int64_t{kReduceThreads} * kScoresPerThread;

// What a part of the scores contributes. The joint sum in fp64 as on the CPU: scores of one sign and size lose digits,
// or leave fp32, in a sum of fp32. The marginal sum, of terms in [0, 1], within a block in the accumulation type and
// between blocks in fp64.
template <typename T>
struct DvPartial {
  double joint;
  LogSumExp<T> marginal;

  MINE_FAST_HD void merge(const DvPartial& other) {
    joint += other.joint;
    marginal.merge(other.marginal);
  }
};

template <typename T>
__device__ __forceinline__ DvPartial<T> from_lane_below(const DvPartial<T>& own, int distance) {
  constexpr unsigned kWarp = 0xffffffffu;
  return {__shfl_down_sync(kWarp, own.joint, distance),
          {__shfl_down_sync(kWarp, own.marginal.max, distance), __shfl_down_sync(kWarp, own.marginal.sum, distance)}};
}

// The merge of the whole block's partials, for thread 0, by a tree whose shape depends on nothing.
template <typename T>
__device__ __forceinline__ DvPartial<T> merge_block(DvPartial<T> own) {
  constexpr int kWarps = kReduceThreads / 32;
  __shared__ double joint[kWarps];
  __shared__ T top[kWarps], sum[kWarps];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  for (int distance = 16; distance > 0; distance /= 2) own.merge(from_lane_below(own, distance));
  if (lane == 0) {
    joint[warp] = own.joint;
    top[warp] = own.marginal.max;
    sum[warp] = own.marginal.sum;
  }
  __syncthreads();
  if (warp == 0) {
    own = lane < kWarps ? DvPartial<T>{joint[lane], {top[lane], sum[lane]}} : DvPartial<T>{0.0, {}};
    for (int distance = kWarps / 2; distance > 0; distance /= 2) own.merge(from_lane_below(own, distance));
  }
  return own;
}

// This thread's share of the block's scores. They are read with a stride of the block, all before the first use.
template <typename Scalar>
__device__ __forceinline__ DvPartial<accumulate_t<Scalar>> reduce_scores(const Scalar* __restrict__ scores,
                                                                         int64_t joint_rows, int64_t total) {
  using T = accumulate_t<Scalar>;
  const T nothing = -static_cast<T>(INFINITY);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kScoresPerBlock + threadIdx.x;
  T value[kScoresPerThread];
#pragma unroll
  for (int k = 0; k < kScoresPerThread; ++k) {
    const int64_t i = first + k * kReduceThreads;
    value[k] = i < total ? widen(scores[i]) : nothing;  // -inf adds nothing to the marginal sum
  }
  DvPartial<T> own{0.0, {}};
  T top = nothing;  // a NaN passed over here still reaches the sum
#pragma unroll
  for (int k = 0; k < kScoresPerThread; ++k) {
    if (first + k * kReduceThreads < joint_rows) {
      own.joint += static_cast<double>(value[k]);
      value[k] = nothing;
    }
    top = top < value[k] ? value[k] : top;
  }
  const T origin = LogSumExp<T>::origin(top);
  T sum = 0;
#pragma unroll
  for (int k = 0; k < kScoresPerThread; ++k) sum += exp_of(value[k] - origin);
  own.marginal = LogSumExp<T>::of_group(top, sum);
  return own;
}

template <typename T>
struct DvOutputs {
  T* loss;        // []
  T* log_ema;     // []
  T* statistics;  // [3]: joint mean, log-mean-exp, log normaliser
};

struct DvSettings {
  int64_t joint_rows;
  int64_t marginal_rows;
  double log_marginal_rows;  // from the host, which takes this logarithm faster than one GPU thread
  double alpha;
  Loss loss;
};

template <typename T>
__device__ __forceinline__ void finish(double joint, LogSumExp<double> marginal, const T* __restrict__ log_ema,
                                       const DvSettings& settings, const DvOutputs<T>& out) {
  const DvTerm<double> term =
      dv_term<double>(joint / static_cast<double>(settings.joint_rows), marginal.log_sum() - settings.log_marginal_rows,
                      static_cast<double>(*log_ema), settings.alpha, settings.loss);
  *out.loss = static_cast<T>(term.loss);
  *out.log_ema = static_cast<T>(term.log_ema);
  out.statistics[0] = static_cast<T>(term.joint_mean);
  out.statistics[1] = static_cast<T>(term.log_mean_exp);
  out.statistics[2] = static_cast<T>(term.log_normaliser);
}

template <typename Scalar>
__global__ void __launch_bounds__(kReduceThreads)
    dv_term_one_block_kernel(const Scalar* __restrict__ scores,                 // [N + M]
                             const accumulate_t<Scalar>* __restrict__ log_ema,  // []
                             DvSettings settings, DvOutputs<accumulate_t<Scalar>> out) {
  const auto all =
      merge_block(reduce_scores(scores, settings.joint_rows, settings.joint_rows + settings.marginal_rows));
  if (threadIdx.x == 0)
    finish(all.joint, {static_cast<double>(all.marginal.max), static_cast<double>(all.marginal.sum)}, log_ema, settings,
           out);
}

template <typename Scalar>
__global__ void __launch_bounds__(kReduceThreads)
    dv_term_partial_kernel(const Scalar* __restrict__ scores,  // [N + M]
                           int64_t joint_rows, int64_t total,
                           double* __restrict__ partials) {  // [3, blocks]
  const auto all = merge_block(reduce_scores(scores, joint_rows, total));
  if (threadIdx.x == 0) {
    partials[blockIdx.x] = all.joint;
    partials[int64_t{gridDim.x} + blockIdx.x] = static_cast<double>(all.marginal.max);
    partials[2 * int64_t{gridDim.x} + blockIdx.x] = static_cast<double>(all.marginal.sum);
  }
}

template <typename T>
__global__ void __launch_bounds__(kReduceThreads)
    dv_term_finish_kernel(const double* __restrict__ partials,  // [3, blocks]
                          int64_t blocks,
                          const T* __restrict__ log_ema,  // []
                          DvSettings settings, DvOutputs<T> out) {
  DvPartial<double> own{0.0, {}};
  for (int64_t b = threadIdx.x; b < blocks; b += kReduceThreads)
    own.merge({partials[b], {partials[blocks + b], partials[2 * blocks + b]}});
  own = merge_block(own);
  if (threadIdx.x == 0) finish(own.joint, own.marginal, log_ema, settings, out);
}

// d loss / d t_joint = -1/N, d loss / d t_marginal = exp(t - log_normaliser) / M, times the upstream gradient.
template <typename Scalar, int count>
__global__ void __launch_bounds__(kThreads)
    dv_term_backward_kernel(const accumulate_t<Scalar>* __restrict__ upstream,    // []
                            const Pack<Scalar, count>* __restrict__ scores,       // [(N + M) / count]
                            const accumulate_t<Scalar>* __restrict__ statistics,  // [3]
                            int64_t joint_rows, int64_t marginal_rows,
                            Pack<Scalar, count>* __restrict__ grad_scores) {  // [(N + M) / count]
  using T = accumulate_t<Scalar>;
  const int64_t packs = (joint_rows + marginal_rows) / count;
  const T log_normaliser = statistics[2];
  const T joint_grad = -*upstream / static_cast<T>(joint_rows);
  const T scale = *upstream / static_cast<T>(marginal_rows);
  for (int64_t p = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; p < packs;
       p += static_cast<int64_t>(gridDim.x) * kThreads) {
    const Pack<Scalar, count> t = scores[p];
    Pack<Scalar, count> out;
#pragma unroll
    for (int e = 0; e < count; ++e) {
      const T marginal_grad = scale * exp_of(widen(t.at[e]) - log_normaliser);
      out.at[e] = narrow<Scalar>(p * count + e < joint_rows ? joint_grad : marginal_grad);
    }
    grad_scores[p] = out;
  }
}

// Blocks of the first stage; with one, no partials are needed.
inline int64_t dv_term_blocks(int64_t total) { return divide_up(total, kScoresPerBlock); }

template <typename Scalar>
void launch_dv_term(const Scalar* scores, const accumulate_t<Scalar>* log_ema, const DvSettings& settings,
                    double* partials, const DvOutputs<accumulate_t<Scalar>>& out, cudaStream_t stream) {
  const int64_t total = settings.joint_rows + settings.marginal_rows, blocks = dv_term_blocks(total);
  if (blocks == 1) {
    MINE_FAST_LAUNCH(dv_term_one_block_kernel<Scalar>, dim3(1), dim3(kReduceThreads), stream, scores, log_ema, settings,
                     out);
  } else {
    MINE_FAST_LAUNCH(dv_term_partial_kernel<Scalar>, dim3(static_cast<unsigned>(blocks)), dim3(kReduceThreads), stream,
                     scores, settings.joint_rows, total, partials);
    MINE_FAST_LAUNCH(dv_term_finish_kernel<accumulate_t<Scalar>>, dim3(1), dim3(kReduceThreads), stream, partials,
                     blocks, log_ema, settings, out);
  }
}

template <typename Scalar, int count>
void launch_packed_dv_term_backward(const accumulate_t<Scalar>* upstream, const Scalar* scores,
                                    const accumulate_t<Scalar>* statistics, int64_t joint_rows, int64_t marginal_rows,
                                    Scalar* grad_scores, cudaStream_t stream) {
  using Item = Pack<Scalar, count>;
  const int64_t blocks = std::min(divide_up((joint_rows + marginal_rows) / count, kThreads), kMaxBlocks);
  const auto kernel = &dv_term_backward_kernel<Scalar, count>;
  MINE_FAST_LAUNCH(kernel, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), stream, upstream,
                   reinterpret_cast<const Item*>(scores), statistics, joint_rows, marginal_rows,
                   reinterpret_cast<Item*>(grad_scores));
}

template <typename Scalar>
void launch_dv_term_backward(const accumulate_t<Scalar>* upstream, const Scalar* scores,
                             const accumulate_t<Scalar>* statistics, int64_t joint_rows, int64_t marginal_rows,
                             Scalar* grad_scores, cudaStream_t stream) {
  if (packs_fit<Scalar>(joint_rows + marginal_rows, {scores, grad_scores})) {
    launch_packed_dv_term_backward<Scalar, kPack<Scalar>>(upstream, scores, statistics, joint_rows, marginal_rows,
                                                          grad_scores, stream);
  } else {
    launch_packed_dv_term_backward<Scalar, 1>(upstream, scores, statistics, joint_rows, marginal_rows, grad_scores,
                                              stream);
  }
}

}  // namespace mine_fast
