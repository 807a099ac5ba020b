// Between torch's layout (rows of x_part and y_part, then each later Linear's weights and bias) and the padded one.
#include "all_pairs_bindings.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "all_pairs.h"
#include "arguments.h"

namespace mine_fast::engine {
namespace {

void unpad_rows(const double* padded, int64_t count, int64_t width, int64_t stride, float* rows) {
  for (int64_t r = 0; r < count; ++r) std::copy_n(padded + r * stride, width, rows + r * width);
}

py::tuple all_pairs(const py::object& x_part, const py::object& y_part, const py::object& later,
                    const std::vector<int64_t>& hidden, const std::vector<int64_t>& activations,
                    const std::vector<float>& slopes, double log_ema, double alpha, int64_t loss, bool with_gradient,
                    int64_t threads, const std::string& kernel) {
  const FloatArray x = checked_array(x_part, "x_part"), y = checked_array(y_part, "y_part");
  const FloatArray weights = checked_array(later, "later");
  const Loss of_code = checked_loss(loss, alpha);
  // One column on each side, whose weights nobody reads: the first layer's products are made.
  const Network network(1, 1, hidden, activations, slopes, std::vector<float>(hidden.size(), 0.f), 0.f);
  const HiddenLayer& first = network.layers[0];
  const int64_t first_size = 3 * first.width, later_size = network.flat_size - first_size;
  for (const auto& [array, name] : {std::pair(&x, "x_part"), std::pair(&y, "y_part")})
    require(array->ndim() == 2 && array->shape(1) == first.width,
            std::string(name) + " must be [n, " + std::to_string(first.width) + "], got " + described(*array));
  const int64_t rows = x.shape(0);
  require(y.shape(0) == rows, "x_part and y_part must have as many rows, got " + std::to_string(rows) + " and " +
                                  std::to_string(y.shape(0)));
  require(rows >= 2, "x_part and y_part need at least 2 rows, got " + std::to_string(rows));
  require(weights.ndim() == 1 && weights.size() == later_size,
          "later must be [" + std::to_string(later_size) + "], got " + described(weights));
  check_threads(threads);
  const Kernels& kernels = kernel.empty() ? *available_kernels().front() : kernels_named(kernel);

  FloatArray gradient(with_gradient ? 2 * rows * first.width + later_size : 0);
  float* out = gradient.mutable_data();
  DvTerm<double> term{};
  without_gil([&](const std::function<void()>& poll) {
    Buffer<float> flat(network.flat_size), parameters(network.size);
    std::copy_n(weights.data(), later_size, flat.data() + first_size);
    network.from_flat(flat.data(), parameters.data());
    Buffer<float> x_rows(rows * first.stride), y_rows(rows * first.stride);
    pad_rows(x.data(), rows, first.width, first.stride, x_rows.data());
    pad_rows(y.data(), rows, first.width, first.stride, y_rows.data());

    const double pairs = static_cast<double>(rows) * static_cast<double>(rows);
    const double work = pairs * static_cast<double>(network.multiply_adds_per_pair());
    ThreadPool pool(threads > 0 ? std::min(threads, rows) : threads_for(work, rows));
    AllPairs step(network, kernels, rows, of_code, alpha, with_gradient, pool);
    term = step.compute(parameters.data(), x_rows.data(), y_rows.data(), log_ema, nullptr, poll);
    if (!with_gradient) return;
    unpad_rows(step.x_rows(), rows, first.width, first.stride, out);
    unpad_rows(step.y_rows(), rows, first.width, first.stride, out + rows * first.width);
    std::copy_n(step.gradient(), network.size, parameters.data());
    network.to_flat(parameters.data(), flat.data());
    std::copy_n(flat.data() + first_size, later_size, out + 2 * rows * first.width);
  });
  return py::make_tuple(term.loss, term.log_ema, term.joint_mean, term.log_mean_exp, term.log_normaliser, gradient);
}

}  // namespace

void bind_all_pairs(py::module_& m) {
  m.def("all_pairs", &all_pairs, py::arg("x_part"), py::arg("y_part"), py::arg("later"), py::arg("hidden"),
        py::arg("activations"), py::arg("slopes"), py::arg("log_ema"), py::arg("alpha"), py::arg("loss"),
        py::arg("with_gradient"), py::arg("threads") = 0, py::arg("kernel") = "",
        "(loss, new log_ema, joint mean, log-mean-exp, log normaliser, gradient) of all pairs of the first layer's "
        "products x_part (with the bias) and y_part, float32 [n, hidden[0]]. later: each later Linear's weights "
        "[out, in], then bias, float32 [P]. gradient: that of x_part, y_part and later, one after the other, [0] "
        "without with_gradient.");
}

}  // namespace mine_fast::engine
