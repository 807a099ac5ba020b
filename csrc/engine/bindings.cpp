// The module mine_fast._engine: the engine's class with its buffers as numpy arrays, everything checked on the way in.
#include <pybind11/functional.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "all_pairs_bindings.h"
#include "arguments.h"
#include "concat_critic.h"
#include "engine.h"
#include "separable_critic.h"

namespace mine_fast::engine {
namespace {

using IndexArray = py::array_t<int64_t, py::array::c_style>;

// Rows of y for every row of x, [shuffles, n]; of none given, an array without dimensions.
IndexArray checked_partner(const py::object& partner, int64_t n) {
  if (partner.is_none()) return IndexArray(std::vector<py::ssize_t>{});
  require(py::isinstance<py::array_t<int64_t>>(partner), "partner must be a numpy array of int64 or None");
  const auto index = py::array_t<int64_t, py::array::c_style | py::array::forcecast>::ensure(partner);
  if (!index) throw std::bad_alloc();  // of one that repeats its rows in no memory, say
  require(index.ndim() == 2 && index.shape(1) == n,
          "partner must be [shuffles, " + std::to_string(n) + "], got " + described(index));
  const int64_t* rows = index.data();
  require(std::all_of(rows, rows + index.size(), [n](int64_t row) { return 0 <= row && row < n; }),
          "partner must name rows from 0 to " + std::to_string(n - 1));
  return index;
}

Partners partners_of(const IndexArray& index) {
  return index.ndim() == 0 ? Partners{} : Partners{index.data(), index.shape(0)};
}

FloatArray scores_of(const IndexArray& index, int64_t n) {
  return index.ndim() == 0 ? FloatArray(n) : FloatArray(std::vector<py::ssize_t>{index.shape(0), n});
}

// f_i . g_partner of rows f, g [n, k].
FloatArray factor_scores(const py::object& f, const py::object& g, const py::object& partner) {
  const FloatArray f_rows = checked_array(f, "f"), g_rows = checked_array(g, "g");
  require(f_rows.ndim() == 2 && g_rows.ndim() == 2 && f_rows.shape(0) == g_rows.shape(0) &&
              f_rows.shape(1) == g_rows.shape(1),
          "f and g must be [n, k] both, got " + described(f_rows) + " and " + described(g_rows));
  const int64_t n = f_rows.shape(0), width = f_rows.shape(1), stride = padded(width);
  const IndexArray index = checked_partner(partner, n);
  FloatArray scores = scores_of(index, n);
  float* out = scores.mutable_data();
  without_gil([&](const Poll& poll) {
    Buffer<float> of_x(n * stride), of_y(n * stride);
    pad_rows(f_rows.data(), n, width, stride, of_x.data());
    pad_rows(g_rows.data(), n, width, stride, of_y.data());
    score_factors(*available_kernels().front(), of_x.data(), of_y.data(), stride, width, n, partners_of(index), out,
                  poll);
  });
  return scores;
}

// An engine that Python may hold: one call at a time may compute, and properties may be used only between.
class PyEngine {
 public:
  PyEngine(std::unique_ptr<const Critic> critic, int64_t loss, double alpha, uint64_t seed)
      : engine_(std::move(critic), checked_loss(loss, alpha), alpha, seed) {}

  Engine& idle() {
    if (busy_) throw std::runtime_error("this engine is computing in another thread");
    return engine_;
  }

  FloatArray get(Buffer<float> Engine::* buffer) {
    Engine& engine = idle();
    FloatArray flat(engine.critic->flat_size());
    engine.critic->to_flat((engine.*buffer).data(), flat.mutable_data());
    return flat;
  }

  void set(Buffer<float> Engine::* buffer, const py::object& value, const char* name) {
    Engine& engine = idle();
    const FloatArray flat = checked_array(value, name);
    require(
        flat.ndim() == 1 && flat.size() == engine.critic->flat_size(),
        std::string(name) + " must be [" + std::to_string(engine.critic->flat_size()) + "], got " + described(flat));
    engine.critic->from_flat(flat.data(), (engine.*buffer).data());
  }

  py::array_t<double> train(const py::object& x, const py::object& y, int64_t steps, int64_t batch_size,
                            int64_t shuffles, const py::object& learning_rates, std::pair<double, double> betas,
                            double eps, double weight_decay, bool decoupled, std::optional<double> max_grad_norm,
                            const py::object& callback, int64_t callback_every, int64_t threads,
                            std::optional<double> averaging) {
    const FloatArray x_rows = checked_array(x, "x"), y_rows = checked_array(y, "y");
    const Data data = checked_data(x_rows, y_rows, 2);
    check_batch(batch_size, shuffles, threads);
    require(steps >= 0, "steps must not be negative, got " + std::to_string(steps));
    require(callback_every >= 1, "callback_every must be at least 1, got " + std::to_string(callback_every));
    for (const double beta : {betas.first, betas.second})
      require(beta >= 0 && beta < 1, "betas must be in [0, 1), got " + std::to_string(beta));
    require(eps >= 0, "eps must not be negative, got " + std::to_string(eps));
    require(weight_decay >= 0, "weight_decay must not be negative, got " + std::to_string(weight_decay));
    const double max_norm = max_grad_norm.value_or(INFINITY);
    require(max_norm > 0, "max_grad_norm must be positive or None, got " + std::to_string(max_norm));
    const double decay = averaging.value_or(NAN);
    require(!averaging || (decay >= 0 && decay < 1),
            "averaging must be in [0, 1) or None, got " + std::to_string(decay));
    std::vector<double> rates = rates_of(learning_rates, steps);
    TrainOptions options{steps, batch_size,   shuffles,  rates.data(), betas.first, betas.second,
                         eps,   weight_decay, decoupled, max_norm,     threads,     decay};
    py::array_t<double> losses(steps);
    double* out = losses.mutable_data();
    int64_t done = 0;
    Claim claim(busy_);
    without_gil([&](const Poll& poll) {
      done = engine_.train(
          data, options, out,
          [&](int64_t finished) {
            if (callback.is_none() || (finished % callback_every != 0 && finished != steps)) return true;
            const py::gil_scoped_acquire held;
            claim.give_up();  // the callback may look at the engine, and change it
            const py::object answer = callback(finished);
            claim.take("the callback left the engine computing");
            return answer.is_none() || !answer.equal(py::bool_(false));
          },
          poll);
    });
    return done == steps ? losses : py::array_t<double>(done, out);
  }

  py::tuple gradient(const py::object& x, const py::object& y, int64_t batch_size, int64_t shuffles, int64_t threads) {
    const FloatArray x_rows = checked_array(x, "x"), y_rows = checked_array(y, "y");
    const Data data = checked_data(x_rows, y_rows, 2);
    check_batch(batch_size, shuffles, threads);
    FloatArray flat(engine_.critic->flat_size());
    float* out = flat.mutable_data();
    DvTerm<double> term{};
    const Claim claim(busy_);
    without_gil([&](const Poll& poll) { term = engine_.gradient(data, batch_size, shuffles, threads, out, poll); });
    return py::make_tuple(term.loss, flat, term.log_ema);
  }

  FloatArray score(const py::object& x, const py::object& y, bool averaged, const py::object& partner) {
    const FloatArray x_rows = checked_array(x, "x"), y_rows = checked_array(y, "y");
    const Data data = checked_data(x_rows, y_rows, 0);
    const IndexArray index = checked_partner(partner, data.rows);
    FloatArray scores = scores_of(index, data.rows);
    float* out = scores.mutable_data();
    const Claim claim(busy_);
    without_gil([&](const Poll& poll) { engine_.score(data, partners_of(index), averaged, out, poll); });
    return scores;
  }

 private:
  Data checked_data(const FloatArray& x, const FloatArray& y, int64_t least) {
    const Critic& critic = *engine_.critic;
    require(x.ndim() == 2 && x.shape(1) == critic.x_width,
            "x must be [n, " + std::to_string(critic.x_width) + "], got " + described(x));
    require(y.ndim() == 2 && y.shape(1) == critic.y_width,
            "y must be [n, " + std::to_string(critic.y_width) + "], got " + described(y));
    require(x.shape(0) == y.shape(0),
            "x and y must have as many rows, got " + std::to_string(x.shape(0)) + " and " + std::to_string(y.shape(0)));
    require(x.shape(0) >= least,
            "x and y need at least " + std::to_string(least) + " rows, got " + std::to_string(x.shape(0)));
    require(x.shape(0) <= INT32_MAX, "x and y must have at most 2147483647 rows, got " + std::to_string(x.shape(0)));
    return {x.data(), y.data(), x.shape(0)};
  }

  static void check_batch(int64_t batch_size, int64_t shuffles, int64_t threads) {
    require(batch_size >= 2, "batch_size must be at least 2, got " + std::to_string(batch_size));
    require(shuffles >= 0, "shuffles must be at least 1, or 0 for all pairs, got " + std::to_string(shuffles));
    require(shuffles <= INT32_MAX, "shuffles must be at most 2147483647, got " + std::to_string(shuffles));
    check_threads(threads);
  }

  static std::vector<double> rates_of(const py::object& given, int64_t steps) {
    std::vector<double> rates = given_rates(given, steps);
    for (const double rate : rates)
      require(rate >= 0 && std::isfinite(rate),
              "learning_rates must be finite and not negative, got " + std::to_string(rate));
    return rates;
  }

  static std::vector<double> given_rates(const py::object& given, int64_t steps) {
    if (py::isinstance<py::float_>(given) || py::isinstance<py::int_>(given))
      return std::vector<double>(steps, given.cast<double>());
    const auto array = py::array_t<double, py::array::c_style | py::array::forcecast>::ensure(given);
    require(array && array.ndim() == 1 && array.size() == steps,
            "learning_rates must be a number or an array of one per step [" + std::to_string(steps) + "]" +
                (array ? ", got " + described(array) : ""));
    return std::vector<double>(array.data(), array.data() + steps);
  }

  // The engine is this call's, and no other's, while it holds the claim.
  class Claim {
   public:
    explicit Claim(std::atomic<bool>& busy) : busy_(busy) { take("this engine is computing in another thread"); }
    ~Claim() {
      if (held_) give_up();
    }
    Claim(const Claim&) = delete;
    Claim& operator=(const Claim&) = delete;

    void take(const char* refusal) {
      if (busy_.exchange(true)) throw std::runtime_error(refusal);
      held_ = true;
    }
    void give_up() {
      held_ = false;
      busy_ = false;
    }

   private:
    std::atomic<bool>& busy_;
    bool held_ = false;
  };

  Engine engine_;
  std::atomic<bool> busy_{false};

 public:
  std::string kernel() { return idle().kernels->name; }
  void set_kernel(const std::string& name) { idle().kernels = &kernels_named(name); }
};

}  // namespace
}  // namespace mine_fast::engine

// An engine whose constructor never ran (Engine.__new__ alone) is no engine: pybind11 would hand out raw memory for it.
template <>
class pybind11::detail::type_caster<mine_fast::engine::PyEngine>
    : public pybind11::detail::type_caster_base<mine_fast::engine::PyEngine> {
 public:
  bool load(handle source, bool convert) {
    return isinstance<mine_fast::engine::PyEngine>(source) &&
           reinterpret_cast<instance*>(source.ptr())->get_value_and_holder().holder_constructed() &&
           type_caster_base::load(source, convert);
  }
};

namespace mine_fast::engine {
namespace {

// What the kernels of this name compute for an activation, for tests of its accuracy.
py::tuple activate(const py::object& values, int64_t code, float slope, const std::string& kernel) {
  const FloatArray in = checked_array(values, "values");
  require(with_activation(code, [](auto) {}), "unknown activation code " + std::to_string(code));
  const int64_t count = in.size(), stride = padded(count + 1);  // one row, with room for its ones column
  Buffer<float> row(stride), derivative(stride);
  std::copy_n(in.data(), count, row.data());
  kernels_named(kernel).activate(row.data(), stride, 1, count, static_cast<Activation>(code), slope, derivative.data(),
                                 nullptr);
  return py::make_tuple(FloatArray(count, row.data()), FloatArray(count, derivative.data()));
}

using TowerSpec = std::tuple<std::vector<int64_t>, std::vector<int64_t>, std::vector<float>>;

Layers layers_of(int64_t in, const TowerSpec& tower) {
  const auto& [widths, activations, slopes] = tower;
  require(!activations.empty() && activations.back() == static_cast<int64_t>(Activation::kIdentity),
          "the last layer of a tower must be linear");
  return Layers(in, in, widths, activations, slopes, std::vector<float>(widths.size()));
}

// A plain member of the engine as a property; least and most are the values that it may have.
template <typename Class, typename Member>
void def_state(Class& type, const char* name, Member Engine::* member, Member least, Member most, const char* doc) {
  type.def_property(
      name, [member](PyEngine& self) { return self.idle().*member; },
      [=](PyEngine& self, Member value) {
        require(value >= least && value <= most, std::string(name) + " must be in [" + std::to_string(least) + ", " +
                                                     std::to_string(most) + "], got " + std::to_string(value));
        self.idle().*member = value;
      },
      doc);
}

template <typename Class>
void def_buffer(Class& type, const char* name, Buffer<float> Engine::* buffer, const char* doc) {
  type.def_property(
      name, [buffer](PyEngine& self) { return self.get(buffer); },
      [buffer, name](PyEngine& self, const py::object& value) { self.set(buffer, value, name); }, doc);
}

}  // namespace
}  // namespace mine_fast::engine

PYBIND11_MODULE(_engine, m) {
  using namespace mine_fast::engine;
  m.doc() = "The native training engine (csrc/engine/engine.h).";
  py::register_local_exception<Divergence>(m, "DivergenceError", PyExc_RuntimeError);
  m.def(
      "available_kernels",
      [] {
        std::vector<std::string> names;
        for (const Kernels* kernels : available_kernels()) names.emplace_back(kernels->name);
        return names;
      },
      "Names of the kernels that this processor runs, best first.");
  m.def("activate", &activate, py::arg("values"), py::arg("code"), py::arg("slope"), py::arg("kernel"),
        "(activation, derivative) of values float32 [n], as these kernels compute them.");

  bind_all_pairs(m);
  m.def("factor_scores", &factor_scores, py::arg("f"), py::arg("g"), py::arg("partner"),
        "f_i . g_partner of rows f and g float32 [n, k], partner int64 [shuffles, n]: float32 [shuffles, n].");

  py::class_<PyEngine> type(
      m, "Engine",
      "Trains a critic T(x, y): a stack of Linear layers on concatenated rows, by shuffles or all pairs of each batch, "
      "or (Engine.separable) the product of two towers, by all pairs of each batch.");
  type.def(py::init([](int64_t x_width, int64_t y_width, const std::vector<int64_t>& hidden,
                       const std::vector<int64_t>& activations, const std::vector<float>& slopes,
                       const std::vector<float>& noise, int64_t loss, double alpha, uint64_t seed, float input_noise) {
             Network network(x_width, y_width, hidden, activations, slopes, noise, input_noise);
             return std::make_unique<PyEngine>(std::make_unique<ConcatCritic>(std::move(network)), loss, alpha, seed);
           }),
           py::arg("x_width"), py::arg("y_width"), py::arg("hidden"), py::arg("activations"), py::arg("slopes"),
           py::arg("noise"), py::arg("loss"), py::arg("alpha"), py::arg("seed"), py::arg("input_noise") = 0.f);
  type.def_static(
      "separable",
      [](int64_t x_width, int64_t y_width, const TowerSpec& x_tower, const TowerSpec& y_tower, int64_t loss,
         double alpha, uint64_t seed) {
        check_columns(x_width, y_width);
        auto critic = std::make_unique<SeparableCritic>(layers_of(x_width, x_tower), layers_of(y_width, y_tower));
        return std::make_unique<PyEngine>(std::move(critic), loss, alpha, seed);
      },
      py::arg("x_width"), py::arg("y_width"), py::arg("x_tower"), py::arg("y_tower"), py::arg("loss"), py::arg("alpha"),
      py::arg("seed"),
      "Of phi(x) . psi(y) + a(x) + b(y). A tower is (widths, activations, slopes), an entry for each layer; the last "
      "is linear, with the outputs (phi, a) or (psi, b). Parameters: those of x's tower, then of y's. Shuffles and "
      "threads mean nothing to it.");
  def_buffer(type, "parameters", &Engine::parameters,
             "float32 [P], a copy: each Linear's weights [out, in], then bias.");
  def_buffer(type, "adam_m", &Engine::first_moment, "float32 [P], Adam's first moment, in the order of parameters.");
  def_buffer(type, "adam_v", &Engine::second_moment, "float32 [P], Adam's second moment, likewise.");
  def_buffer(type, "average", &Engine::average, "float32 [P], moving average of the parameters, likewise.");
  // Counters that steps add to, and sums of them with a batch, stay within 64 bits.
  constexpr int64_t most = int64_t{1} << 60;
  def_state<decltype(type), int64_t>(type, "average_updates", &Engine::average_updates, 0, most,
                                     "Steps that have gone into it.");
  def_state<decltype(type), int64_t>(type, "adam_step", &Engine::adam_step, 0, most, "Optimiser steps made.");
  def_state<decltype(type), double>(type, "log_ema", &Engine::log_ema, -INFINITY, std::numeric_limits<double>::max(),
                                    "Moving average of E[exp T], as its logarithm; -inf before the first.");
  def_state<decltype(type), uint64_t>(type, "offset", &Engine::offset, 0, UINT64_MAX,
                                      "Counter of steps, which keys the marginal shuffles.");
  def_state<decltype(type), uint64_t>(type, "epoch", &Engine::epoch, 0, UINT64_MAX,
                                      "Pass over the rows, which keys their order.");
  def_state<decltype(type), int64_t>(type, "position", &Engine::position, 0, most,
                                     "Rows of this pass already visited.");
  type.def_property_readonly("kernel", &PyEngine::kernel, "Name of the kernels in use.");
  type.def("set_kernel", &PyEngine::set_kernel, py::arg("name"), "Use these kernels.");
  type.def(
      "train", &PyEngine::train, py::arg("x"), py::arg("y"), py::arg("steps"), py::arg("batch_size"),
      py::arg("shuffles") = 1, py::arg("learning_rates") = 1e-3,
      py::arg("betas") = std::pair<double, double>(0.9, 0.999), py::arg("eps") = 1e-8, py::arg("weight_decay") = 0.0,
      py::arg("decoupled") = false, py::arg("max_grad_norm") = py::none(), py::arg("callback") = py::none(),
      py::arg("callback_every") = 100, py::arg("threads") = 0, py::arg("averaging") = py::none(),
      "Make `steps` steps on rows x [n, dx], y [n, dy]; the losses, float64 [steps]. callback(steps made) is "
      "called every callback_every steps and at the end; if it returns False, the run ends there. shuffles: marginal "
      "partners of each row, 0: all other rows. averaging: decay of the moving average of the parameters after "
      "each step, or None.");
  type.def("gradient", &PyEngine::gradient, py::arg("x"), py::arg("y"), py::arg("batch_size"), py::arg("shuffles") = 1,
           py::arg("threads") = 1, "(loss, gradient [P], new log_ema) of the next step, which is not made.");
  type.def("score", &PyEngine::score, py::arg("x"), py::arg("y"), py::arg("averaged") = false,
           py::arg("partner") = py::none(),
           "Scores float32 [n] of the pairs (x_i, y_i), by the parameters or by their average; with partner int64 "
           "[shuffles, n] those of (x_i, y_partner), [shuffles, n].");
}
