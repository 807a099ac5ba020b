// What the CUDA launchers need of torch: its device, its stream, its 16-bit types as CUDA's.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include <initializer_list>

#include "../checks.h"

namespace mine_fast {

template <typename Scalar>
struct DeviceScalar {
  using type = Scalar;
};
template <>
struct DeviceScalar<Half> {
  using type = __half;
};
template <>
struct DeviceScalar<BFloat16> {
  using type = __nv_bfloat16;
};

// with_floating_dtype with the types that the kernels take.
template <typename Body>
void with_device_dtype(const Tensor& t, const char* name, Body&& body) {
  with_floating_dtype(t, name,
                      [&](auto tag) { body(ScalarTag<typename DeviceScalar<typename decltype(tag)::type>::type>{}); });
}

template <typename Scalar>
const Scalar* data(const Tensor& t) {
  return static_cast<const Scalar*>(t.const_data_ptr());
}

template <typename Scalar>
Scalar* mutable_data(const Tensor& t) {
  return static_cast<Scalar*>(t.mutable_data_ptr());
}

// The key as the kernels read it; checks that it is one.
inline Tensor packed_key(const Tensor& key) {
  check_key(key);
  return as_contiguous(key);
}

// A kernel reads every argument through a device pointer, the key and the moving average included: one left on the
// CPU would be an illegal access, not an error message.
inline void check_one_device(const Tensor& first, std::initializer_list<const Tensor*> others) {
  for (const Tensor* t : others)
    STD_TORCH_CHECK(t->is_cuda() && t->get_device_index() == first.get_device_index(),
                    "all tensors, key and log_ema included, must be on one CUDA device");
}

// Makes the tensor's device current while it lives, and finds the stream that torch is queueing on there.
class OnDeviceOf {
 public:
  explicit OnDeviceOf(const Tensor& t) : guard_(t.get_device_index()) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }

  cudaStream_t stream() const { return stream_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_ = nullptr;
};

}  // namespace mine_fast
