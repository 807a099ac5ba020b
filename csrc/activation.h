// Activations of the paired first layer: value and derivative at a pre-activation, for host and device.
#pragma once

#include "math.h"

namespace mine_fast {

// ops.ACTIVATIONS lists them in this order.
enum class Activation : int64_t { kIdentity = 0, kRelu, kLeakyRelu, kElu, kGelu, kGeluTanh, kSilu, kTanh };

// `slope` is LeakyReLU's negative slope or ELU's alpha; the others ignore it.
template <Activation kind, typename T>
MINE_FAST_HD T activate(T v, T slope) {
  if constexpr (kind == Activation::kRelu) return v < T(0) ? T(0) : v;
  if constexpr (kind == Activation::kLeakyRelu) return v < T(0) ? slope * v : v;
  if constexpr (kind == Activation::kElu) {
    // exp(v) - 1 cancels near 0; with the tanh half-angle form it does not: expm1(v) = 2 t / (1 - t), t = tanh(v/2).
    const T t = tanh_of(T(0.5) * (v < T(0) ? v : T(0)));
    return v < T(0) ? slope * (T(2) * t / (T(1) - t)) : v;
  }
  if constexpr (kind == Activation::kGelu) return v * normal_cdf_of(v);
  if constexpr (kind == Activation::kGeluTanh) {
    const T inner = T(0.7978845608028654) * (v + T(0.044715) * v * v * v);
    return T(0.5) * v * (T(1) + tanh_of(inner));
  }
  if constexpr (kind == Activation::kSilu) return v / (T(1) + exp_of(-v));
  if constexpr (kind == Activation::kTanh) return tanh_of(v);
  return v;
}

template <Activation kind, typename T>
MINE_FAST_HD T activation_derivative(T v, T slope) {
  if constexpr (kind == Activation::kRelu) return v > T(0) ? T(1) : T(0);
  if constexpr (kind == Activation::kLeakyRelu) return v > T(0) ? T(1) : slope;
  if constexpr (kind == Activation::kElu) return v > T(0) ? T(1) : slope * exp_of(v < T(0) ? v : T(0));
  if constexpr (kind == Activation::kGelu) {
    return normal_cdf_of(v) + v * T(0.3989422804014327) * exp_of(T(-0.5) * v * v);
  }
  if constexpr (kind == Activation::kGeluTanh) {
    const T c = v > T(20) ? T(20) : (v < T(-20) ? T(-20) : v);  // flat beyond; 0 * inf where the cube overflows
    const T t = tanh_of(T(0.7978845608028654) * (c + T(0.044715) * c * c * c));
    const T inner_slope = T(0.7978845608028654) * (T(1) + T(0.134145) * c * c);
    return T(0.5) * (T(1) + t) + T(0.5) * c * (T(1) - t * t) * inner_slope;
  }
  if constexpr (kind == Activation::kSilu) {
    const T s = T(1) / (T(1) + exp_of(-v));
    return s * (T(1) + v * (T(1) - s));
  }
  if constexpr (kind == Activation::kTanh) {
    const T t = tanh_of(v);
    return T(1) - t * t;
  }
  return T(1);
}

template <Activation kind>
struct ActivationTag {
  static constexpr Activation value = kind;
};

// Calls body(ActivationTag<kind>{}) for a kind known at run time; false if there is no such kind.
template <typename Body>
bool with_activation(int64_t kind, Body&& body) {
  switch (static_cast<Activation>(kind)) {
    case Activation::kIdentity: body(ActivationTag<Activation::kIdentity>{}); return true;
    case Activation::kRelu: body(ActivationTag<Activation::kRelu>{}); return true;
    case Activation::kLeakyRelu: body(ActivationTag<Activation::kLeakyRelu>{}); return true;
    case Activation::kElu: body(ActivationTag<Activation::kElu>{}); return true;
    case Activation::kGelu: body(ActivationTag<Activation::kGelu>{}); return true;
    case Activation::kGeluTanh: body(ActivationTag<Activation::kGeluTanh>{}); return true;
    case Activation::kSilu: body(ActivationTag<Activation::kSilu>{}); return true;
    case Activation::kTanh: body(ActivationTag<Activation::kTanh>{}); return true;
  }
  return false;
}

}  // namespace mine_fast
