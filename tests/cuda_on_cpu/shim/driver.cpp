// The launchers of csrc/cuda as C functions: pointers to CPU memory in, null or the shim's error message out.
#include "cuda_shim.h"

// After the shim, whose macros they need.
#include "driver.h"
#include "dv_term.cuh"
#include "marginal_shuffle.cuh"
#include "pair.cuh"
#include "paired_first_layer.cuh"

using namespace mine_fast;

namespace {

// Calls body(Scalar{}) for the test's dtype code. Builds for sanitizers and planted bugs leave all but fp32 out.
template <typename Body>
void with_dtype(int dtype, Body&& body) {
  switch (dtype) {
    case 0: return body(float{});
#if !defined(SHIM_FLOAT_ONLY)
    case 1: return body(double{});
    case 2: return body(__half{});
    case 3: return body(__nv_bfloat16{});
#endif
  }
}

// The activations of a build.
template <typename Body>
void with_built_activation(int64_t kind, Body&& body) {
#if defined(SHIM_FLOAT_ONLY)
  if (kind == static_cast<int64_t>(Activation::kRelu)) body(ActivationTag<Activation::kRelu>{});
#else
  with_activation(kind, body);
#endif
}

}  // namespace

extern "C" {

void shim_configure(uint64_t seed) { shim::configure(seed); }

void shim_sum_layout(int64_t rows, int64_t packs, uint32_t* sizes) {
  const TileLayout layout = sum_layout(rows, packs);
  for (const dim3& d : {layout.grid, layout.block})
    for (unsigned size : {d.x, d.y, d.z}) *sizes++ = size;
}

// A kernel whose odd threads never reach its barrier: the shim must say so, and not hang.
const char* run_divergent_barrier() {
  shim::launch(dim3(1), dim3(64), [] {
    if (threadIdx.x % 2 == 0) __syncthreads();
  });
  return shim::last_error();
}

const char* run_advance_key(const int64_t* key, int64_t* current, int64_t* next) {
  launch_advance_key(key, current, next, nullptr);
  return shim::last_error();
}

const char* run_shuffle_index(const int64_t* key, int64_t rows, int64_t shuffles, int inverse, int64_t* index) {
  launch_shuffle_index(key, rows, shuffles, inverse != 0, index, nullptr);
  return shim::last_error();
}

const char* run_marginal_shuffle(const void* y, const int64_t* key, int64_t rows, int64_t row_bytes, int64_t shuffles,
                                 void* shuffled) {
  launch_marginal_shuffle(y, key, rows, row_bytes, shuffles, shuffled, nullptr);
  return shim::last_error();
}

const char* run_marginal_shuffle_backward(int dtype, const void* grad, const int64_t* key, int64_t rows, int64_t width,
                                          int64_t shuffles, void* grad_y) {
  with_dtype(dtype, [&](auto scalar) {
    using Scalar = decltype(scalar);
    launch_marginal_shuffle_backward(static_cast<const Scalar*>(grad), key, rows, width, shuffles,
                                     static_cast<Scalar*>(grad_y), nullptr);
  });
  return shim::last_error();
}

const char* run_pair(const void* x, const void* y, const int64_t* key, int64_t rows, int64_t x_bytes, int64_t y_bytes,
                     int64_t shuffles, void* paired) {
  launch_pair(x, y, key, rows, x_bytes, y_bytes, shuffles, paired, nullptr);
  return shim::last_error();
}

const char* run_pair_backward(int dtype, const void* grad, const int64_t* key, int64_t rows, int64_t x_width,
                              int64_t y_width, int64_t shuffles, void* grad_x, void* grad_y) {
  with_dtype(dtype, [&](auto scalar) {
    using Scalar = decltype(scalar);
    launch_pair_backward(static_cast<const Scalar*>(grad), key, rows, x_width, y_width, shuffles,
                         static_cast<Scalar*>(grad_x), static_cast<Scalar*>(grad_y), nullptr);
  });
  return shim::last_error();
}

const char* run_paired_first_layer(int dtype, int64_t activation, const void* x_part, const void* y_part,
                                   const void* bias, const int64_t* key, int64_t rows, int64_t width, int64_t shuffles,
                                   double slope, void* hidden) {
  with_dtype(dtype, [&](auto scalar) {
    using Scalar = decltype(scalar);
    with_built_activation(activation, [&](auto kind) {
      launch_paired_first_layer<decltype(kind)::value>(
          static_cast<const Scalar*>(x_part), static_cast<const Scalar*>(y_part), static_cast<const Scalar*>(bias), key,
          rows, width, shuffles, slope, static_cast<Scalar*>(hidden), nullptr);
    });
  });
  return shim::last_error();
}

const char* run_paired_first_layer_backward(int dtype, int64_t activation, const void* grad, const void* x_part,
                                            const void* y_part, const void* bias, const int64_t* key, int64_t rows,
                                            int64_t width, int64_t shuffles, double slope, void* grad_x, void* grad_y) {
  with_dtype(dtype, [&](auto scalar) {
    using Scalar = decltype(scalar);
    with_built_activation(activation, [&](auto kind) {
      launch_paired_first_layer_backward<decltype(kind)::value>(
          static_cast<const Scalar*>(grad), static_cast<const Scalar*>(x_part), static_cast<const Scalar*>(y_part),
          static_cast<const Scalar*>(bias), key, rows, width, shuffles, slope, static_cast<Scalar*>(grad_x),
          static_cast<Scalar*>(grad_y), nullptr);
    });
  });
  return shim::last_error();
}

int64_t scratch_of_dv_term(int64_t total) { return 3 * dv_term_blocks(total); }

const char* run_dv_term(int dtype, const void* scores, int64_t joint_rows, int64_t total, const void* log_ema,
                        double alpha, int64_t loss, double* partials, void* value, void* new_log_ema,
                        void* statistics) {
  const int64_t marginal_rows = total - joint_rows;
  const DvSettings settings{joint_rows, marginal_rows, std::log(static_cast<double>(marginal_rows)), alpha,
                            static_cast<Loss>(loss)};
  with_dtype(dtype, [&](auto scalar) {
    using Scalar = decltype(scalar);
    using T = accumulate_t<Scalar>;
    launch_dv_term<Scalar>(static_cast<const Scalar*>(scores), static_cast<const T*>(log_ema), settings, partials,
                           {static_cast<T*>(value), static_cast<T*>(new_log_ema), static_cast<T*>(statistics)},
                           nullptr);
  });
  return shim::last_error();
}

const char* run_dv_term_backward(int dtype, const void* upstream, const void* scores, const void* statistics,
                                 int64_t joint_rows, int64_t total, void* grad_scores) {
  with_dtype(dtype, [&](auto scalar) {
    using Scalar = decltype(scalar);
    using T = accumulate_t<Scalar>;
    launch_dv_term_backward<Scalar>(static_cast<const T*>(upstream), static_cast<const Scalar*>(scores),
                                    static_cast<const T*>(statistics), joint_rows, total - joint_rows,
                                    static_cast<Scalar*>(grad_scores), nullptr);
  });
  return shim::last_error();
}

}  // extern "C"
