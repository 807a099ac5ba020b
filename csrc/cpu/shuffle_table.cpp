// Fills the tables of a key.
#include "shuffle_table.h"

#include "parallel.h"

namespace mine_fast {
namespace {

// next[v] = the step of the walk from v, for the whole domain.
MINE_FAST_CLONES void every_step(const Bijection& order, int64_t domain, uint32_t* next) {
  const Bijection local = order;  // which `next` cannot alias
  for (int64_t v = 0; v < domain; ++v) next[v] = local.encrypt(static_cast<uint32_t>(v));
}

// rank[i] = order.apply(i). The walks of all rows together visit most of the domain, which is below 2 n (or 64), so its
// steps are made first, by a vectorised loop, and the walks look them up.
void fill_ranks(const Bijection& order, int64_t rows, int64_t* rank) {
  const int64_t domain = order.domain();
  if (domain > int64_t{1} << 32) {
    for (int64_t i = 0; i < rows; ++i) rank[i] = order.apply(i);
    return;
  }
  const std::unique_ptr<uint32_t[]> next(new uint32_t[domain]);
  every_step(order, domain, next.get());
  for (int64_t i = 0; i < rows; ++i) {
    int64_t v = next[i];
    while (v >= rows) v = next[v];
    rank[i] = v;
  }
}

}  // namespace

ShuffleTable::ShuffleTable(const Tensor& key, int64_t rows, int64_t shuffles) : rows_(rows) {
  check_key(key);
  check_shuffle(rows, shuffles);
  if (rows == 0) return;
  const Tensor packed = as_contiguous(key);
  const int64_t* state = static_cast<const int64_t*>(packed.const_data_ptr());
  const MarginalShuffle shuffle(static_cast<uint64_t>(state[0]), static_cast<uint64_t>(state[1]), rows);
  storage_.reset(new int64_t[2 * rows + shuffles]);
  rank_ = storage_.get();
  row_of_rank_ = rank_ + rows;
  shift_ = row_of_rank_ + rows;
  fill_ranks(shuffle.order(), rows, rank_);
  for (int64_t i = 0; i < rows; ++i) row_of_rank_[rank_[i]] = i;
  for (int64_t s = 0; s < shuffles; ++s) shift_[s] = shuffle.shift(s);
}

}  // namespace mine_fast
