// What the functions of `_engine` do with their arguments and with Python's lock.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <chrono>
#include <new>
#include <string>

#include "../log_mean_exp.h"
#include "require.h"

namespace mine_fast::engine {
namespace {

namespace py = pybind11;

using FloatArray = py::array_t<float, py::array::c_style>;

std::string described(const py::array& a) {
  std::string shape;
  for (py::ssize_t d = 0; d < a.ndim(); ++d) shape += (d ? ", " : "") + std::to_string(a.shape(d));
  return "an array of " + std::string(py::str(a.dtype())) + " [" + shape + "]";
}

FloatArray checked_array(const py::object& object, const std::string& name) {
  if (!py::isinstance<py::array>(object))
    throw py::type_error(name + " must be a numpy array of float32, got " +
                         std::string(py::str(py::type::of(object).attr("__name__"))));
  const auto array = py::reinterpret_borrow<py::array>(object);
  if (!array.dtype().is(py::dtype::of<float>()) && !array.dtype().equal(py::dtype::of<float>()))
    throw py::type_error(name + " must be float32, got " + described(array));
  constexpr int kAligned = py::detail::npy_api::NPY_ARRAY_ALIGNED_;
  const auto packed = py::array_t<float, py::array::c_style | py::array::forcecast | kAligned>::ensure(array);
  if (!packed) throw std::bad_alloc();  // a view that repeats few numbers may be larger than the memory
  return packed;
}

void check_threads(int64_t threads) {
  constexpr int64_t kMost = 1024;
  require(threads >= 0 && threads <= kMost, "threads must be at least 1 and at most " + std::to_string(kMost) +
                                                ", or 0 for as many as are worth it, got " + std::to_string(threads));
}

Loss checked_loss(int64_t loss, double alpha) {
  require(loss >= 0 && loss <= static_cast<int64_t>(Loss::kFdiv),
          "loss must be 0 (mine), 1 (mine_biased) or 2 (fdiv), got " + std::to_string(loss));
  require(alpha > 0 && alpha <= 1, "alpha must be in (0, 1], got " + std::to_string(alpha));
  return static_cast<Loss>(loss);
}

// Rows [count, width] into rows of `stride` floats.
void pad_rows(const float* rows, int64_t count, int64_t width, int64_t stride, float* padded) {
  for (int64_t r = 0; r < count; ++r) std::copy_n(rows + r * width, width, padded + r * stride);
}

// Runs body(poll) without the GIL. Signals are looked at every 50 ms, so that Ctrl-C ends it; only the main thread of
// Python gets them, elsewhere the look is in vain and harmless.
template <typename Body>
void without_gil(Body&& body) {
  const py::gil_scoped_release released;
  auto last = std::chrono::steady_clock::now();
  body([&last] {
    const auto now = std::chrono::steady_clock::now();
    if (now - last < std::chrono::milliseconds(50)) return;
    const py::gil_scoped_acquire held;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    last = std::chrono::steady_clock::now();
  });
}

}  // namespace
}  // namespace mine_fast::engine
