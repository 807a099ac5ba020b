// CPU kernels of the marginal shuffle: its index, the shuffled copies of y, and their backward by the inverse index.
#include <torch/csrc/stable/library.h>

#include <tuple>
#include <vector>

#include "parallel.h"
#include "shuffle_table.h"

namespace mine_fast {
namespace {

std::tuple<Tensor, Tensor> advance_key(const Tensor& key) {
  check_key(key);
  const Tensor packed = as_contiguous(key);
  Tensor current = empty_tensor(key, {2}), next = empty_tensor(key, {2});
  const int64_t* from = static_cast<const int64_t*>(packed.const_data_ptr());
  int64_t* kept = static_cast<int64_t*>(current.mutable_data_ptr());
  int64_t* moved = static_cast<int64_t*>(next.mutable_data_ptr());
  kept[0] = moved[0] = from[0];
  kept[1] = from[1];
  moved[1] = static_cast<int64_t>(static_cast<uint64_t>(from[1]) + 1);  // wraps
  return {current, next};
}

Tensor shuffle_index(const Tensor& key,  // [2] int64
                     int64_t rows, int64_t shuffles, bool inverse) {
  const ShuffleTable table(key, rows, shuffles);
  Tensor index = empty_tensor(key, {shuffles, rows});  // [S, B]
  if (rows == 0) return index;                         // of any number of shuffles
  int64_t* out = static_cast<int64_t*>(index.mutable_data_ptr());
  for (int64_t s = 0; s < shuffles; ++s)
    for (int64_t i = 0; i < rows; ++i) *out++ = inverse ? table.owner(i, s) : table.partner(i, s);
  return index;
}

// Rows are copied as bytes, so any dtype shuffles.
Tensor marginal_shuffle(const Tensor& y,    // [B, ...]
                        const Tensor& key,  // [2] int64
                        int64_t shuffles) {
  const Tensor source = as_contiguous(y);
  const int64_t rows = source.size(0);
  const ShuffleTable table(key, rows, shuffles);
  std::vector<int64_t> shape{shuffles};
  for (int64_t d = 0; d < source.dim(); ++d) shape.push_back(source.size(d));
  Tensor shuffled = empty_tensor(source, shape);  // [S, B, ...]
  if (shuffled.numel() == 0) return shuffled;
  const int64_t bytes = source.numel() / rows * static_cast<int64_t>(source.element_size());
  const char* from = static_cast<const char*>(source.const_data_ptr());
  char* to = static_cast<char*>(shuffled.mutable_data_ptr());
  parallel_rows(shuffles * rows, bytes / 4, [&](int64_t begin, int64_t end) {
    for_each_row(begin, end, rows, [&](int64_t r, int64_t i, int64_t s) {
      copy_row(to + r * bytes, from + table.partner(i, s) * bytes, bytes);
    });
  });
  return shuffled;
}

template <typename Scalar>
void sum_over_shuffles(const Scalar* grad, const ShuffleTable& table, int64_t rows, int64_t width, int64_t shuffles,
                       Scalar* grad_y) {
  using Sum = accumulate_t<Scalar>;
  parallel_rows(rows, width * shuffles, [&](int64_t begin, int64_t end) {
    std::vector<Sum> sum(width);
    for (int64_t j = begin; j < end; ++j) {
      std::fill(sum.begin(), sum.end(), Sum(0));
      for (int64_t s = 0; s < shuffles; ++s) {
        const Scalar* row = grad + (s * rows + table.owner(j, s)) * width;
        for (int64_t c = 0; c < width; ++c) sum[c] += static_cast<Sum>(row[c]);
      }
      for (int64_t c = 0; c < width; ++c) grad_y[j * width + c] = static_cast<Scalar>(sum[c]);
    }
  });
}

Tensor marginal_shuffle_backward(const Tensor& grad,  // [S, B, ...]
                                 const Tensor& key) {
  const Tensor source = as_contiguous(grad);
  const int64_t shuffles = source.size(0), rows = source.size(1);
  const ShuffleTable table(key, rows, shuffles);
  std::vector<int64_t> shape;
  for (int64_t d = 1; d < source.dim(); ++d) shape.push_back(source.size(d));
  Tensor grad_y = empty_tensor(source, shape);  // [B, ...]
  if (grad_y.numel() == 0) return grad_y;
  with_floating_dtype(source, "grad", [&](auto tag) {
    using Scalar = typename decltype(tag)::type;
    sum_over_shuffles(static_cast<const Scalar*>(source.const_data_ptr()), table, rows, grad_y.numel() / rows, shuffles,
                      static_cast<Scalar*>(grad_y.mutable_data_ptr()));
  });
  return grad_y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mine_fast, CPU, m) {
  m.impl("advance_key", TORCH_BOX(&advance_key));
  m.impl("shuffle_index", TORCH_BOX(&shuffle_index));
  m.impl("marginal_shuffle", TORCH_BOX(&marginal_shuffle));
  m.impl("marginal_shuffle_backward", TORCH_BOX(&marginal_shuffle_backward));
}

}  // namespace mine_fast
