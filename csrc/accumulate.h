// The type in which the kernels of both sides accumulate.
#pragma once

namespace mine_fast {

// Scores and activations may be stored in 16 bits; sums, exponentials and statistics are kept in at least fp32.
template <typename Scalar>
struct Accumulate {
  using type = float;
};
template <>
struct Accumulate<double> {
  using type = double;
};
template <typename Scalar>
using accumulate_t = typename Accumulate<Scalar>::type;

}  // namespace mine_fast
