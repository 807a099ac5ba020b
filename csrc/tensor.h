// Helpers on stable-ABI tensors that the CPU and CUDA sides share: dtype dispatch, allocation, checks.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <optional>
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

// An uninitialised contiguous tensor of this shape on the device of `like`, in its dtype unless another is given.
// By the C shim: torch::stable::new_empty looks its operator up by name at every call, which costs 5 us.
inline Tensor empty_tensor(const Tensor& like, const std::vector<int64_t>& shape,
                           std::optional<ScalarType> dtype = std::nullopt) {
  std::vector<int64_t> strides(shape.size());
  int64_t stride = 1;
  for (size_t d = shape.size(); d-- > 0;) {
    strides[d] = stride;
    STD_TORCH_CHECK(!__builtin_mul_overflow(stride, shape[d] > 0 ? shape[d] : 1, &stride),
                    "the result would have more elements than 64 bits count");
  }
  int32_t code, device_type, device_index;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &code));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  if (dtype) code = *dtype == ScalarType::Double ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32();
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(shape.size()), shape.data(), strides.data(),
                                                  code, device_type, device_index, &handle));
  return Tensor(handle);
}

}  // namespace mine_fast
