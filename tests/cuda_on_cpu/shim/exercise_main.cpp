// Every launcher, over odd sizes, on heap blocks of exactly its size. Prints a checksum of all results: what the
// sanitizer builds run, and what tells a planted bug from a clean build.
//
//   exercise SEED          all sizes, threads and blocks in the order of SEED
//   exercise SEED brief    few sizes, for the thread backend, which is slow
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <memory>

#include "driver.h"

namespace {

uint64_t checksum = 14695981039346656037ull;  // FNV-1a

// An allocation of its own per array, so that AddressSanitizer sees one element too far.
template <typename T>
class Array {
 public:
  explicit Array(int64_t count) : count_(count), data_(new T[count]) {
    for (int64_t i = 0; i < count; ++i) data_[i] = static_cast<T>((i * 37 % 101 - 50) / T(8));
  }
  T* get() { return data_.get(); }
  void add_to_checksum() {
    const auto* bytes = reinterpret_cast<const unsigned char*>(data_.get());
    for (size_t i = 0; i < static_cast<size_t>(count_) * sizeof(T); ++i)
      checksum = (checksum ^ bytes[i]) * 1099511628211ull;
  }

 private:
  int64_t count_;
  std::unique_ptr<T[]> data_;
};

void must(const char* error) {
  if (error == nullptr) return;
  std::fprintf(stderr, "shim: %s\n", error);
  std::exit(1);
}

void run_rows_with_key(int64_t seed, int64_t rows, int64_t x_width, int64_t y_width, int64_t shuffles) {
  const int64_t key[2] = {seed, rows};
  const int64_t width = x_width + y_width, pairs = (1 + shuffles) * rows, item = sizeof(float);
  Array<float> x(rows * x_width), y(rows * y_width), x_part(rows * width), y_part(rows * width), bias(width);
  Array<int64_t> index(shuffles * rows), inverse(shuffles * rows);
  Array<float> shuffled(shuffles * rows * y_width), shuffled_grad(rows * y_width);
  Array<float> paired(pairs * width), hidden(pairs * width), hidden_grad_x(rows * width), hidden_grad_y(rows * width);
  Array<float> grad_x(rows * x_width), grad_y(rows * y_width);
  must(run_shuffle_index(key, rows, shuffles, 0, index.get()));
  must(run_shuffle_index(key, rows, shuffles, 1, inverse.get()));
  must(run_marginal_shuffle(y.get(), key, rows, y_width * item, shuffles, shuffled.get()));
  must(run_marginal_shuffle_backward(0, shuffled.get(), key, rows, y_width, shuffles, shuffled_grad.get()));
  must(run_pair(x.get(), y.get(), key, rows, x_width * item, y_width * item, shuffles, paired.get()));
  must(run_pair_backward(0, paired.get(), key, rows, x_width, y_width, shuffles, grad_x.get(), grad_y.get()));
  must(run_paired_first_layer(0, 1, x_part.get(), y_part.get(), bias.get(), key, rows, width, shuffles, 0.0,
                              hidden.get()));
  must(run_paired_first_layer_backward(0, 1, paired.get(), x_part.get(), y_part.get(), bias.get(), key, rows, width,
                                       shuffles, 0.0, hidden_grad_x.get(), hidden_grad_y.get()));
  index.add_to_checksum();
  inverse.add_to_checksum();
  for (Array<float>* result :
       {&shuffled, &shuffled_grad, &paired, &grad_x, &grad_y, &hidden, &hidden_grad_x, &hidden_grad_y})
    result->add_to_checksum();
}

void run_rows(uint64_t order, int64_t rows, int64_t x_width, int64_t y_width, int64_t shuffles) {
  // First in sequence and with another key: shared memory then holds valid but wrong values, and a thread that reads
  // it too early shows in the checksum.
  const uint64_t before = checksum;
  shim_configure(0);
  run_rows_with_key(1, rows, x_width, y_width, shuffles);
  checksum = before;
  shim_configure(order);
  run_rows_with_key(2, rows, x_width, y_width, shuffles);
}

void run_scores(int64_t joint_rows, int64_t marginal_rows, int64_t losses) {
  const int64_t total = joint_rows + marginal_rows;
  Array<float> scores(total), grad(total), statistics(3), value(1), new_log_ema(1);
  Array<double> partials(scratch_of_dv_term(total));
  const float log_ema = 0.5f, upstream = 2.f;
  for (int64_t loss = 0; loss < losses; ++loss) {
    must(run_dv_term(0, scores.get(), joint_rows, total, &log_ema, 0.1, loss, partials.get(), value.get(),
                     new_log_ema.get(), statistics.get()));
    for (Array<float>* result : {&value, &new_log_ema, &statistics}) result->add_to_checksum();
  }
  must(run_dv_term_backward(0, &upstream, scores.get(), statistics.get(), joint_rows, total, grad.get()));
  grad.add_to_checksum();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  const uint64_t order = std::strtoull(argv[1], nullptr, 10);
  shim_configure(order);
  if (argc == 2) {
    run_rows(order, 2, 1, 1, 1);
    run_rows(order, 3, 259, 261, 2);
    run_rows(order, 70, 4, 8, 2);
    run_rows(order, 401, 20, 20, 3);
    run_rows(order, 70, 1, 1, 40);  // more shuffles than the tables hold at a time
    run_scores(1, 1, 3);
    run_scores(41, 401, 3);
    run_scores(9000, 18000, 3);
  } else {
    run_rows_with_key(1, 41, 20, 44, 2);
    run_scores(100, 2500, 1);
  }
  std::printf("checksum %016llx\n", static_cast<unsigned long long>(checksum));
}
