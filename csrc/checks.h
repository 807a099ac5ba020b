// What every op demands of its tensors, once for the CPU and the CUDA side: a user meets the clean errors of the Python
// wrappers first, these guard the raw ops.
#pragma once

#include "log_mean_exp.h"
#include "tensor.h"

namespace mine_fast {

inline void check_key(const Tensor& key) {
  STD_TORCH_CHECK(key.scalar_type() == ScalarType::Long && key.numel() == 2,
                  "key must be an int64 tensor (seed, offset)");
}

// The rows of a shuffle, and what they come to with all its shuffles: no product of the two may leave 64 bits.
inline void check_shuffle(int64_t rows, int64_t shuffles) {
  constexpr int64_t kMostPairs = int64_t{1} << 60;
  STD_TORCH_CHECK(rows != 1, "a batch of one row cannot be shuffled: it has no other row to meet");
  STD_TORCH_CHECK(rows >= 0 && shuffles >= 1, "rows must not be negative and shuffles at least 1, got ", rows, " and ",
                  shuffles);
  STD_TORCH_CHECK(rows <= kMostPairs && shuffles <= kMostPairs / (rows > 0 ? rows : 1), shuffles, " shuffles of ", rows,
                  " rows are more than 2^60 pairs");
}

inline void check_pair(const Tensor& x, const Tensor& y) {
  STD_TORCH_CHECK(x.dim() == 2 && y.dim() == 2 && y.size(0) == x.size(0) && y.scalar_type() == x.scalar_type(),
                  "x and y must be [B, dx] and [B, dy] of one dtype");
}

inline void check_pair_grad(const Tensor& grad, int64_t x_width, int64_t shuffles) {
  check_shuffle(0, shuffles);  // of any rows: they are counted by a division
  STD_TORCH_CHECK(grad.dim() == 2 && grad.size(0) % (1 + shuffles) == 0 && x_width >= 0 && x_width <= grad.size(1),
                  "grad must be [(1 + S) * B, dx + dy]");
}

// The operands of the paired first layer.
inline void check_parts(const Tensor& x_part, const Tensor& y_part, const Tensor& bias) {
  STD_TORCH_CHECK(x_part.dim() == 2 && y_part.dim() == 2 && x_part.size(0) == y_part.size(0) &&
                      x_part.size(1) == y_part.size(1) && bias.numel() == x_part.size(1),
                  "x_part and y_part must be [B, h] and bias [h]");
  STD_TORCH_CHECK(x_part.scalar_type() == y_part.scalar_type() && x_part.scalar_type() == bias.scalar_type(),
                  "x_part, y_part and bias must have one dtype");
}

inline void check_parts_grad(const Tensor& grad, const Tensor& x_part, int64_t shuffles) {
  check_shuffle(x_part.size(0), shuffles);
  STD_TORCH_CHECK(grad.dim() == 2 && grad.size(0) == (1 + shuffles) * x_part.size(0) &&
                      grad.size(1) == x_part.size(1) && grad.scalar_type() == x_part.scalar_type(),
                  "grad must be [(1 + S) * B, h] in the dtype of x_part");
}

inline void check_scores(const Tensor& scores, int64_t joint_rows) {
  STD_TORCH_CHECK(joint_rows > 0 && joint_rows < scores.numel(), "the DV term needs joint and marginal scores");
}

inline void check_dv_term(const Tensor& scores, int64_t joint_rows, const Tensor& log_ema, double alpha, int64_t loss) {
  check_scores(scores, joint_rows);
  STD_TORCH_CHECK(log_ema.scalar_type() == accumulate_dtype(scores) && log_ema.numel() == 1,
                  "log_ema must be a scalar tensor in the accumulation dtype of the scores");
  STD_TORCH_CHECK(loss >= 0 && loss <= static_cast<int64_t>(Loss::kFdiv), "unknown loss code ", loss);
  STD_TORCH_CHECK(alpha > 0 && alpha <= 1, "alpha must be in (0, 1], got ", alpha);
}

inline void check_dv_term_grad(const Tensor& grad, const Tensor& scores, int64_t joint_rows, const Tensor& statistics) {
  const ScalarType dtype = accumulate_dtype(scores);
  STD_TORCH_CHECK(grad.scalar_type() == dtype && grad.numel() == 1 && statistics.scalar_type() == dtype &&
                      statistics.numel() == 3 && statistics.is_contiguous(),
                  "grad [] and statistics [3] must have the accumulation dtype of the scores");
  check_scores(scores, joint_rows);
}

}  // namespace mine_fast
