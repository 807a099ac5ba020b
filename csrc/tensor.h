// Helpers on stable-ABI tensors that the CPU and CUDA sides share: dtype dispatch, allocation, checks.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <vector>

#include "accumulate.h"

namespace mine_fast {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline ScalarType accumulate_dtype(const Tensor& t) {
  return t.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

template <typename Scalar>
struct ScalarTag {
  using type = Scalar;
};

// Calls body(ScalarTag<Scalar>{}) for the tensor's floating-point type.
template <typename Body>
void with_floating_dtype(const Tensor& t, const char* name, Body&& body) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return body(ScalarTag<float>{});
    case ScalarType::Double: return body(ScalarTag<double>{});
    case ScalarType::Half: return body(ScalarTag<Half>{});
    case ScalarType::BFloat16: return body(ScalarTag<BFloat16>{});
    default: STD_TORCH_CHECK(false, name, " must be float16, bfloat16, float32 or float64");
  }
}

// contiguous() costs a dispatch even when there is nothing to do.
inline Tensor as_contiguous(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

inline Tensor empty_like_shape(const Tensor& like, std::vector<int64_t> shape) {
  return torch::stable::new_empty(like, shape);
}

inline void check_key(const Tensor& key) {
  STD_TORCH_CHECK(key.scalar_type() == ScalarType::Long && key.numel() == 2 && key.is_contiguous(),
                  "key must be a contiguous int64 tensor (seed, offset)");
}

inline void check_rows(int64_t rows) {
  STD_TORCH_CHECK(rows != 1, "a batch of one row cannot be shuffled: it has no other row to meet");
}

}  // namespace mine_fast
