// The marginal shuffle: which row of y each row of x is paired with to sample the product of the marginals.
//
// A pseudo-random bijection pi of [0, n) is evaluated in registers: a Feistel network whose round keys are hashed
// from (seed, offset), cycle-walked from the next power of two into [0, n). No sort, no table, invertible
// (Mitchell et al., Bandwidth-Optimal Random Shuffling for GPUs, arXiv 2106.06161).
//
// Shuffle s pairs row i with partner(i, s) = pi^-1(pi(i) + k_s mod n), where k_0, k_1, ... are the shifts 1 .. n-1
// in a pseudo-random order. This buys four things at once:
//   * k_s != 0, so no row keeps its own partner: every shuffle is a derangement. With plain permutations about one
//     joint pair per batch leaks into the marginal term and caps the bound (f-DIME, Letizia et al., 2024);
//   * the inverse is the same formula with -k_s, so a backward pass gathers and needs no atomics;
//   * the shuffles of one key are disjoint: row i meets s different partners, and n-1 of them are all of its pairs;
//   * with the identity they form a group, so a permutation test over them is exact.
// The partner of a row is uniform over the other rows. What differs from a uniform derangement: all cycles of a shuffle
// have one length, a divisor of n, so two rows swap partners with probability 1/(n-1)^2 for even n and never for odd n.
// That moves the variance of a sum over pairs by O(1/n^2) where x and y are independent (O(1/n) at most);
// tests/test_shuffle_statistics.py measures what can be seen.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace mine_fast {

// What counters are multiplied with before they are hashed, odd; the first is 2^64 over the golden ratio.
constexpr uint64_t kGolden = 0x9e3779b97f4a7c15ull;
constexpr uint64_t kOffsetStep = 0xd1342543de82ef95ull;
constexpr uint64_t kStreamStep = 0xaf251af3b0f025b5ull;

// Streams of bijections of one (seed, offset): the order of a batch's rows, that of the shifts, and that of the rows of
// pass `offset` over the data.
constexpr uint64_t kRowStream = 0, kShiftStream = 1, kPassStream = 2;

// The 64-bit finaliser of SplitMix64 (Steele et al., 2014).
MINE_FAST_HD uint64_t mix64(uint64_t v) {
  v = (v ^ (v >> 30)) * 0xbf58476d1ce4e5b9ull;
  v = (v ^ (v >> 27)) * 0x94d049bb133111ebull;
  return v ^ (v >> 31);
}

// The 32-bit finaliser "lowbias32" (Wellons, 2018): every input bit flips every output bit with probability ~1/2.
MINE_FAST_HD uint32_t mix32(uint32_t v) {
  v = (v ^ (v >> 16)) * 0x7feb352du;
  v = (v ^ (v >> 15)) * 0x846ca68bu;
  return v ^ (v >> 16);
}

// A keyed bijection of [0, n), n >= 1.
class Bijection {
 public:
  Bijection() = default;  // uninitialised, so that a CUDA block can keep one in shared memory
  MINE_FAST_HD Bijection(uint64_t seed, uint64_t offset, uint64_t stream, int64_t n) : n_(static_cast<uint64_t>(n)) {
    int bits = kMinBits;
    while ((uint64_t{1} << bits) < n_) ++bits;
    low_bits_ = bits / 2;
    low_mask_ = static_cast<uint32_t>((uint64_t{1} << low_bits_) - 1);
    high_mask_ = static_cast<uint32_t>((uint64_t{1} << (bits - low_bits_)) - 1);
    uint64_t state = mix64(seed + kGolden);
    state = mix64(state ^ (offset * kOffsetStep + stream * kStreamStep + kGolden));
    for (int r = 0; r < kRounds; ++r) {
      state += kGolden;
      round_key_[r] = static_cast<uint32_t>(mix64(state) >> 32);
    }
  }

  // Cycle-walking terminates: the network permutes its domain, so the orbit of a point of [0, n) returns to [0, n).
  MINE_FAST_HD int64_t apply(int64_t i) const {
    if (n_ == 1) return 0;  // spares a walk through the whole domain
    uint64_t v = static_cast<uint64_t>(i);
    do v = encrypt(v);
    while (v >= n_);
    return static_cast<int64_t>(v);
  }

  MINE_FAST_HD int64_t invert(int64_t i) const {
    uint64_t v = static_cast<uint64_t>(i);
    do v = decrypt(v);
    while (v >= n_);
    return static_cast<int64_t>(v);
  }

  // One step of the walk, within the power of two [0, domain()). In 32 bits, which hold it for n <= 2^32, a loop over
  // it is vectorised.
  template <typename Word>
  MINE_FAST_HD Word encrypt(Word v) const {
    uint32_t low = static_cast<uint32_t>(v) & low_mask_;
    uint32_t high = static_cast<uint32_t>(v >> low_bits_);
    for (int r = 0; r < kRounds; r += 2) {
      high ^= mix32(low ^ round_key_[r]) & high_mask_;
      low ^= mix32(high ^ round_key_[r + 1]) & low_mask_;
    }
    return (static_cast<Word>(high) << low_bits_) | low;
  }

  MINE_FAST_HD int64_t domain() const { return (static_cast<int64_t>(high_mask_) + 1) << low_bits_; }

 private:
  // Below 2^kMinBits the halves are too narrow for the rounds to mix; a larger domain only costs a longer walk.
  static constexpr int kMinBits = 6;
  static constexpr int kRounds = 8;  // 4 fail a chi-square test of pairs of rows on small n, 6 pass; 8 for margin

  MINE_FAST_HD uint64_t decrypt(uint64_t v) const {
    uint32_t low = static_cast<uint32_t>(v) & low_mask_;
    uint32_t high = static_cast<uint32_t>(v >> low_bits_);
    for (int r = kRounds; r > 0; r -= 2) {
      low ^= mix32(high ^ round_key_[r - 1]) & low_mask_;
      high ^= mix32(low ^ round_key_[r - 2]) & high_mask_;
    }
    return (static_cast<uint64_t>(high) << low_bits_) | low;
  }

  uint64_t n_;
  int low_bits_;
  uint32_t low_mask_;
  uint32_t high_mask_;
  uint32_t round_key_[kRounds];
};

// The derangements of one (seed, offset) key over n >= 2 rows.
class MarginalShuffle {
 public:
  MarginalShuffle() = default;  // uninitialised, as above
  MINE_FAST_HD MarginalShuffle(uint64_t seed, uint64_t offset, int64_t n)
      : n_(n), order_(seed, offset, kRowStream, n), shifts_(seed, offset, kShiftStream, n - 1) {}

  // The shift of shuffle s, in [1, n). Past n-1 shuffles the pairs repeat, each equally often.
  MINE_FAST_HD int64_t shift(int64_t s) const { return 1 + shifts_.apply(s % (n_ - 1)); }

  // The random order that the shifts rotate, and a row's place in it.
  MINE_FAST_HD const Bijection& order() const { return order_; }
  MINE_FAST_HD int64_t rank(int64_t i) const { return order_.apply(i); }

  // The row of y that the row of x of this rank meets under this shift; by n - shift, the row of x that meets it.
  MINE_FAST_HD int64_t partner_of_rank(int64_t rank, int64_t shift) const {
    const int64_t p = rank + shift;
    return order_.invert(p >= n_ ? p - n_ : p);
  }

 private:
  int64_t n_;
  Bijection order_;
  Bijection shifts_;
};

}  // namespace mine_fast
