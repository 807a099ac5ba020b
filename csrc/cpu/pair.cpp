// CPU kernels that pair x with y and with its shuffles into one batch for a critic that reads concatenated rows.
#include <torch/csrc/stable/library.h>

#include <tuple>
#include <vector>

#include "parallel.h"
#include "shuffle_table.h"

namespace mine_fast {
namespace {

Tensor pair(const Tensor& x,    // [B, dx]
            const Tensor& y,    // [B, dy]
            const Tensor& key,  // [2] int64
            int64_t shuffles) {
  const Tensor x_rows = as_contiguous(x), y_rows = as_contiguous(y);
  check_pair(x_rows, y_rows);
  const int64_t rows = x_rows.size(0), x_width = x_rows.size(1), y_width = y_rows.size(1);
  const ShuffleTable table(key, rows, shuffles);
  Tensor paired = empty_tensor(x_rows, {(1 + shuffles) * rows, x_width + y_width});
  const int64_t item = static_cast<int64_t>(x_rows.element_size());
  const int64_t x_bytes = x_width * item, y_bytes = y_width * item;
  const char* x_data = static_cast<const char*>(x_rows.const_data_ptr());
  const char* y_data = static_cast<const char*>(y_rows.const_data_ptr());
  char* out = static_cast<char*>(paired.mutable_data_ptr());
  parallel_rows((1 + shuffles) * rows, x_width + y_width, [&](int64_t begin, int64_t end) {
    for_each_row(begin, end, rows, [&](int64_t r, int64_t i, int64_t block) {
      const int64_t j = block == 0 ? i : table.partner(i, block - 1);
      char* row = out + r * (x_bytes + y_bytes);
      copy_row(row, x_data + i * x_bytes, x_bytes);
      copy_row(row + x_bytes, y_data + j * y_bytes, y_bytes);
    });
  });
  return paired;
}

std::tuple<Tensor, Tensor> pair_backward(const Tensor& grad,  // [(1 + S) * B, dx + dy]
                                         const Tensor& key,   // [2] int64
                                         int64_t x_width, int64_t shuffles) {
  const Tensor source = as_contiguous(grad);
  check_pair_grad(source, x_width, shuffles);
  const int64_t rows = source.size(0) / (1 + shuffles), width = source.size(1), y_width = width - x_width;
  const ShuffleTable table(key, rows, shuffles);
  Tensor grad_x = empty_tensor(source, {rows, x_width});
  Tensor grad_y = empty_tensor(source, {rows, y_width});
  with_floating_dtype(source, "grad", [&](auto tag) {
    using Scalar = typename decltype(tag)::type;
    using Sum = accumulate_t<Scalar>;
    const Scalar* g = static_cast<const Scalar*>(source.const_data_ptr());
    Scalar* gx = static_cast<Scalar*>(grad_x.mutable_data_ptr());
    Scalar* gy = static_cast<Scalar*>(grad_y.mutable_data_ptr());
    parallel_rows(rows, width * (1 + shuffles), [&](int64_t begin, int64_t end) {
      std::vector<Sum> sum(width);
      for (int64_t i = begin; i < end; ++i) {
        const Scalar* joint = g + i * width;
        for (int64_t c = 0; c < width; ++c) sum[c] = static_cast<Sum>(joint[c]);
        for (int64_t s = 0; s < shuffles; ++s) {
          const Scalar* as_x = g + ((1 + s) * rows + i) * width;                  // the row where x_i sits
          const Scalar* as_y = g + ((1 + s) * rows + table.owner(i, s)) * width;  // the row where y_i sits
          for (int64_t c = 0; c < x_width; ++c) sum[c] += static_cast<Sum>(as_x[c]);
          for (int64_t c = x_width; c < width; ++c) sum[c] += static_cast<Sum>(as_y[c]);
        }
        for (int64_t c = 0; c < x_width; ++c) gx[i * x_width + c] = static_cast<Scalar>(sum[c]);
        for (int64_t c = 0; c < y_width; ++c) gy[i * y_width + c] = static_cast<Scalar>(sum[x_width + c]);
      }
    });
  });
  return {grad_x, grad_y};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mine_fast, CPU, m) {
  m.impl("pair", TORCH_BOX(&pair));
  m.impl("pair_backward", TORCH_BOX(&pair_backward));
}

}  // namespace mine_fast
