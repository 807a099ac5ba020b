// The derangements of one key as tables, for the CPU kernels: each row's rank under the bijection and the row of each
// rank are computed once and shared by all shuffles, forward and inverse.
#pragma once

#include <memory>

#include "../checks.h"
#include "../shuffle.h"

namespace mine_fast {

class ShuffleTable {
 public:
  ShuffleTable(const Tensor& key, int64_t rows, int64_t shuffles);

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
  std::unique_ptr<int64_t[]> storage_;  // of the three below, in one allocation
  int64_t* rank_ = nullptr;             // [B]
  int64_t* row_of_rank_ = nullptr;      // [B]
  int64_t* shift_ = nullptr;            // [S]
};

}  // namespace mine_fast
