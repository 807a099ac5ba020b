// The derangements of one key as tables, for the CPU kernels: each row's rank under the bijection and the row of each
// rank are computed once and shared by all shuffles, forward and inverse.
#pragma once

#include <vector>

#include "../checks.h"
#include "../shuffle.h"

namespace mine_fast {

class ShuffleTable {
 public:
  ShuffleTable(const Tensor& key, int64_t rows, int64_t shuffles) : rows_(rows) {
    check_key(key);
    check_rows(rows);
    if (rows == 0) return;
    const int64_t* state = static_cast<const int64_t*>(key.const_data_ptr());
    const MarginalShuffle shuffle(static_cast<uint64_t>(state[0]), static_cast<uint64_t>(state[1]), rows);
    rank_.resize(rows);
    row_of_rank_.resize(rows);
    for (int64_t i = 0; i < rows; ++i) {
      rank_[i] = shuffle.rank(i);
      row_of_rank_[rank_[i]] = i;
    }
    shift_.resize(shuffles);
    for (int64_t s = 0; s < shuffles; ++s) shift_[s] = shuffle.shift(s);
  }

  int64_t partner(int64_t i, int64_t s) const {
    const int64_t p = rank_[i] + shift_[s];
    return row_of_rank_[p >= rows_ ? p - rows_ : p];
  }

  int64_t owner(int64_t j, int64_t s) const {
    const int64_t p = rank_[j] - shift_[s];
    return row_of_rank_[p < 0 ? p + rows_ : p];
  }

 private:
  int64_t rows_;
  std::vector<int64_t> rank_;
  std::vector<int64_t> row_of_rank_;
  std::vector<int64_t> shift_;
};

}  // namespace mine_fast
