// The launchers of csrc/cuda as C functions on CPU memory. Each returns null, or the shim's error message.
#pragma once

#include <cstdint>

extern "C" {

void shim_configure(uint64_t seed);
const char* run_divergent_barrier();
void shim_sum_layout(int64_t rows, int64_t packs, uint32_t* sizes);  // [6]: the grid, then the block

const char* run_advance_key(const int64_t* key, int64_t* current, int64_t* next);
const char* run_shuffle_index(const int64_t* key, int64_t rows, int64_t shuffles, int inverse, int64_t* index);
const char* run_marginal_shuffle(const void* y, const int64_t* key, int64_t rows, int64_t row_bytes, int64_t shuffles,
                                 void* shuffled);
const char* run_marginal_shuffle_backward(int dtype, const void* grad, const int64_t* key, int64_t rows, int64_t width,
                                          int64_t shuffles, void* grad_y);

const char* run_pair(const void* x, const void* y, const int64_t* key, int64_t rows, int64_t x_bytes, int64_t y_bytes,
                     int64_t shuffles, void* paired);
const char* run_pair_backward(int dtype, const void* grad, const int64_t* key, int64_t rows, int64_t x_width,
                              int64_t y_width, int64_t shuffles, void* grad_x, void* grad_y);

const char* run_paired_first_layer(int dtype, int64_t activation, const void* x_part, const void* y_part,
                                   const void* bias, const int64_t* key, int64_t rows, int64_t width, int64_t shuffles,
                                   double slope, void* hidden);
const char* run_paired_first_layer_backward(int dtype, int64_t activation, const void* grad, const void* x_part,
                                            const void* y_part, const void* bias, const int64_t* key, int64_t rows,
                                            int64_t width, int64_t shuffles, double slope, void* grad_x, void* grad_y);

int64_t scratch_of_dv_term(int64_t total);  // doubles that run_dv_term needs as `partials`
const char* run_dv_term(int dtype, const void* scores, int64_t joint_rows, int64_t total, const void* log_ema,
                        double alpha, int64_t loss, double* partials, void* value, void* new_log_ema, void* statistics);
const char* run_dv_term_backward(int dtype, const void* upstream, const void* scores, const void* statistics,
                                 int64_t joint_rows, int64_t total, void* grad_scores);

}  // extern "C"
