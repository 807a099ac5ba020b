// The engine without Python, for sanitizers: steps on several threads, several engines at once, steps that are stopped.
// Prints a checksum. With an argument it does something wrong instead, which the sanitizer must see.
#include <array>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <thread>
#include <vector>

#include "../../csrc/engine/concat_critic.h"
#include "../../csrc/engine/engine.h"
#include "../../csrc/engine/separable_critic.h"
#include "../../csrc/shuffle.h"

using namespace mine_fast;
using namespace mine_fast::engine;

#if defined(PORTABLE_ONLY)  // the others are the same loops with wider vectors, and take long to compile
namespace mine_fast::engine {
const Kernels* avx2_kernels() { return nullptr; }
const Kernels* avx512_kernels() { return nullptr; }
}  // namespace mine_fast::engine
#endif

namespace {

constexpr int64_t kRows = 150, kXWidth = 3, kYWidth = 40;

// Values in [-1, 1); most of y is zero, which is what the sparse products are for.
struct Sample {
  std::vector<float> x, y;
  Sample() : x(kRows * kXWidth), y(kRows * kYWidth) {
    uint64_t state = 1;
    const auto next = [&] {
      state = mix64(state + 0x9e3779b97f4a7c15ull);
      return static_cast<float>(state >> 40) / static_cast<float>(1 << 23) - 1.f;
    };
    for (float& value : x) value = next();
    for (float& value : y) value = next() > 0.6f ? next() : 0.f;
  }
  Data data() const { return {x.data(), y.data(), kRows}; }
};

const std::vector<int64_t> kHidden{20, 17};
constexpr int64_t kRelu = 1, kGelu = 4, kIdentity = 0;

std::unique_ptr<const Critic> concat(int64_t activation, float noise) {
  return std::make_unique<ConcatCritic>(
      Network(kXWidth, kYWidth, kHidden, {activation, activation}, {0.1f, 0.1f}, {noise, noise}, noise));
}

std::unique_ptr<const Critic> separable() {
  const auto tower = [](int64_t in) { return Layers(in, in, {18, 9}, {kGelu, kIdentity}, {1.f, 1.f}, {0.f, 0.f}); };
  return std::make_unique<SeparableCritic>(tower(kXWidth), tower(kYWidth));
}

std::unique_ptr<const Critic> critic_of(int kind) {
  return kind == 0 ? concat(kRelu, 0.f) : kind == 1 ? concat(kGelu, 0.2f) : separable();
}

std::unique_ptr<Engine> engine_of(int kind, const Kernels* kernels) {
  auto made = std::make_unique<Engine>(critic_of(kind), static_cast<Loss>(kind), 0.1, 7);
  if (kernels != nullptr) made->kernels = kernels;
  std::vector<float> flat(made->critic->flat_size());
  for (size_t i = 0; i < flat.size(); ++i) flat[i] = 0.3f * std::sin(static_cast<float>(i));
  made->critic->from_flat(flat.data(), made->parameters.data());
  return made;
}

double trained(int kind, const Kernels* kernels, int64_t shuffles, int64_t threads) {
  static const Sample sample;
  const auto owner = engine_of(kind, kernels);
  Engine& made = *owner;
  constexpr int64_t kSteps = 3;
  const std::array<double, kSteps> rates{1e-3, 1e-3, 1e-3};
  std::array<double, kSteps> losses{};
  const TrainOptions options{kSteps, 140, shuffles, rates.data(), 0.9, 0.999, 1e-8, 0.01, true, 1.0, threads, 0.9};
  made.train(sample.data(), options, losses.data(), [](int64_t) { return true; }, [] {});
  std::vector<int64_t> partners(2 * kRows);  // the next row and the one after it
  for (int64_t i = 0; i < 2 * kRows; ++i) partners[i] = (i % kRows + 1 + i / kRows) % kRows;
  std::vector<float> scores(3 * kRows), gradient(made.critic->flat_size());
  made.score(sample.data(), {}, true, scores.data(), [] {});
  made.score(sample.data(), {partners.data(), 2}, true, scores.data() + kRows, [] {});
  made.gradient(sample.data(), 33, shuffles, threads, gradient.data(), [] {});
  double sum = 0;
  for (const double loss : losses) sum += loss;
  for (const float score : scores) sum += score;
  for (const float value : gradient) sum += value;
  return sum;
}

// A step that `poll` ends in the middle must leave the threads idle and the engine usable.
void stopped(int64_t shuffles, int64_t threads) {
  const Sample sample;
  const auto owner = engine_of(0, nullptr);
  Engine& made = *owner;
  const double rate = 1e-3;
  double loss = 0;
  const TrainOptions options{1, 140, shuffles, &rate, 0.9, 0.999, 1e-8, 0., false, INFINITY, threads, NAN};
  int polls = 0;
  bool thrown = false;
  try {
    made.train(
        sample.data(), options, &loss, [](int64_t) { return true; },
        [&] {
          if (++polls == 2) throw std::runtime_error("stop");
        });
  } catch (const std::runtime_error&) {
    thrown = true;
  }
  if (!thrown || made.adam_step != 0) throw std::logic_error("a step that was stopped is not undone");
  made.train(sample.data(), options, &loss, [](int64_t) { return true; }, [] {});
}

// An exception on any thread arrives at the caller, and the pool goes on.
void throwing_threads() {
  ThreadPool pool(4);
  std::atomic<int> ran{0};
  for (int64_t bad = 0; bad < 4; ++bad) {
    bool thrown = false;
    try {
      pool.run([&](int64_t t) {
        ++ran;
        if (t == bad) throw std::runtime_error("of a thread");
      });
    } catch (const std::runtime_error&) {
      thrown = true;
    }
    if (!thrown) throw std::logic_error("the exception of a thread was lost");
  }
  if (ran != 16) throw std::logic_error("not every thread ran");
}

double exercise() {
  double sum = 0;
  for (const Kernels* kernels : available_kernels()) {
    for (int kind = 0; kind < 3; ++kind) {
      for (const int64_t shuffles : {int64_t{1}, int64_t{3}, kAllPairs}) {
        const double alone = trained(kind, kernels, shuffles, 4);
        if (!std::isfinite(alone)) throw std::logic_error("not finite");
        if (alone != trained(kind, kernels, shuffles, 4)) throw std::logic_error("not the same twice");
        sum += alone;
      }
    }
  }
  // Folds: engines of their own on threads of their own, each on several threads.
  std::array<double, 4> found{};
  std::vector<std::thread> folds;
  for (int i = 0; i < 4; ++i) folds.emplace_back([&found, i] { found[i] = trained(i % 3, nullptr, 1, 2); });
  for (std::thread& fold : folds) fold.join();
  for (int i = 0; i < 4; ++i)
    if (found[i] != trained(i % 3, nullptr, 1, 2)) throw std::logic_error("engines disturb each other");
  for (const int64_t shuffles : {int64_t{2}, kAllPairs}) stopped(shuffles, 3);
  throwing_threads();
  return sum;
}

int planted(const char* fault) {
  if (std::strcmp(fault, "race") == 0) {
    ThreadPool pool(4);
    int64_t count = 0;
    pool.run([&](int64_t) {
      for (int i = 0; i < 1000; ++i) {  // long enough that another thread starts before this one ends
        ++count;
        std::this_thread::yield();
      }
    });
    return count == 4000 ? 0 : 1;
  }
  if (std::strcmp(fault, "overrun") == 0) {
    Buffer<float> buffer(16);
    volatile int64_t end = 16;
    buffer[end] = 1.f;
    return 0;
  }
  if (std::strcmp(fault, "leak") == 0) {
    float* volatile lost = new float[100];
    lost = nullptr;
    return lost == nullptr ? 0 : 1;
  }
  return 2;
}

}  // namespace

int main(int count, char** arguments) {
  if (count > 1) return planted(arguments[1]);
  std::printf("checksum %.9g\n", exercise());
  return 0;
}
