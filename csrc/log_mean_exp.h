// The Donsker-Varadhan (DV) term in the log domain, shared by the CPU and CUDA kernels.
//
//   mine         loss = -mean(t_joint) + lme        backward through lme with the weights exp(t - log_ema') / M
//   mine_biased  loss = -mean(t_joint) + lme        backward with the softmax weights exp(t - lme) / M
//   fdiv         loss = -mean(t_joint) + exp(lme - 1), the f-divergence (NWJ) bound; weights exp(t - 1) / M
//
// with lme = log mean exp(t_marginal) over M scores and log_ema' the new moving average of exp(lme), kept as its
// logarithm. Every loss is (Belghazi et al. 2018, eq. 12 and appendix) one scalar "log_normaliser" away from its
// gradient: d loss / d t_marginal_i = exp(t_i - log_normaliser) / M, so nothing else is saved for the backward.
//
// A batch whose lme is not finite shows in its loss and gradient, and is left out of the moving average, which no later
// batch could bring back.
#pragma once

#include "math.h"

namespace mine_fast {

enum class Loss : int64_t { kMine = 0, kMineBiased = 1, kFdiv = 2 };  // ops.LOSSES lists them in this order

// log(exp(a) + exp(b)) for any a and b, -inf included.
template <typename T>
MINE_FAST_HD T log_add_exp(T a, T b) {
  const T high = a < b ? b : a;
  const T low = a < b ? a : b;
  return low == -static_cast<T>(INFINITY) ? high : high + ::log1p(::exp(low - high));
}

// sum exp(v) as exp(max) * sum, with every exponent <= 0: no finite score overflows it. With scores of +inf it is
// {inf, 1}, with a NaN the sum is NaN.
template <typename T>
struct LogSumExp {
  T max = -static_cast<T>(INFINITY);
  T sum = 0;

  MINE_FAST_HD void merge(LogSumExp other) {
    if (other.sum == T(0)) return;
    if (sum == T(0)) {
      *this = other;
      return;
    }
    // A NaN of either side must win, so compare for "not less".
    const bool grows = !(other.max <= max);
    const LogSumExp& high = grows ? other : *this;
    const LogSumExp& low = grows ? *this : other;
    const T ratio = low.max == high.max ? T(1) : exp_of(low.max - high.max);  // inf - inf would be NaN
    *this = {high.max, high.sum + low.sum * ratio};
  }

  MINE_FAST_HD T log_sum() const { return max + log_of(sum); }

  // What exp of a group of scores is taken relative to: their maximum, or 0 if that is infinite and a difference from
  // it could be NaN.
  MINE_FAST_HD static T origin(T max) { return is_finite(max) ? max : T(0); }

  // A group from its maximum and the sum of exp(v - origin(max)).
  MINE_FAST_HD static LogSumExp of_group(T max, T sum) {
    const bool infinite = sum == static_cast<T>(INFINITY);
    return {max, infinite ? T(1) : sum};
  }
};

template <typename T>
struct DvTerm {
  T loss;
  T joint_mean;
  T log_mean_exp;
  T log_ema;
  T log_normaliser;
};

// log_ema = -inf means "no batch seen yet": the first batch whose log-mean-exp is finite initialises it.
template <typename T>
MINE_FAST_HD DvTerm<T> dv_term(T joint_mean, T log_mean_exp, T log_ema, T alpha, Loss loss) {
  DvTerm<T> term{log_mean_exp - joint_mean, joint_mean, log_mean_exp, log_ema, log_mean_exp};
  if (loss == Loss::kMine && is_finite(log_mean_exp)) {
    const bool first = log_ema == -static_cast<T>(INFINITY) || alpha >= T(1);
    term.log_ema = first ? log_mean_exp : log_add_exp<T>(::log1p(-alpha) + log_ema, ::log(alpha) + log_mean_exp);
    term.log_normaliser = term.log_ema;
  } else if (loss == Loss::kFdiv) {
    term.loss = ::exp(log_mean_exp - T(1)) - joint_mean;
    term.log_normaliser = T(1);
  }
  return term;
}

}  // namespace mine_fast
