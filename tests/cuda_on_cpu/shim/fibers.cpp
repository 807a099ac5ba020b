// The fiber backend: one OS thread runs a block's threads in turn, each up to its next barrier or warp exchange.
#include <memory>
#include <string>
#include <vector>

#include "context_switch.h"
#include "cuda_shim.h"

thread_local dim3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace shim {
namespace {

enum class State { kReady, kAtBarrier, kAtExchange, kDone };

struct Thread {
  Coroutine coroutine;
  State state = State::kDone;
  int line = 0;       // where it waits
  int exchanges = 0;  // that it took part in
};

struct Warp {
  uint64_t value[2][32];  // of even and odd exchanges: a lane may be one ahead of another, not two
};

std::vector<std::unique_ptr<Thread>> threads;
std::vector<Warp> warps;
size_t running = 0;
const std::function<void()>* kernel = nullptr;
uint64_t random_state = 0;
std::string error;

uint64_t next_random() {
  uint64_t v = random_state += 0x9e3779b97f4a7c15ull;
  v = (v ^ (v >> 30)) * 0xbf58476d1ce4e5b9ull;
  v = (v ^ (v >> 27)) * 0x94d049bb133111ebull;
  return v ^ (v >> 31);
}

void permute(std::vector<size_t>& order) {
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  if (random_state == 0) return;
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[next_random() % i]);
}

void wait(State state, int line) {
  Thread& self = *threads[running];
  self.state = state;
  self.line = line;
  self.coroutine.leave();
}

void run_thread() {
  (*kernel)();
  wait(State::kDone, 0);
}

// Lets the waiting threads go whose barrier or warp is complete; false if there are none.
bool release(size_t count) {
  size_t at_barrier = 0;
  bool released = false, same_line = true;
  for (size_t t = 0; t < count; ++t) {
    at_barrier += threads[t]->state == State::kAtBarrier;
    same_line = same_line && threads[t]->line == threads[0]->line;
  }
  if (at_barrier == count && same_line) {
    for (size_t t = 0; t < count; ++t) threads[t]->state = State::kReady;
    return true;
  }
  for (size_t first = 0; first < count; first += 32) {
    const size_t last = std::min(first + 32, count);
    bool complete = true;
    for (size_t t = first; t < last; ++t)
      complete = complete && threads[t]->state == State::kAtExchange && threads[t]->line == threads[first]->line &&
                 threads[t]->exchanges == threads[first]->exchanges;
    if (!complete) continue;
    for (size_t t = first; t < last; ++t) threads[t]->state = State::kReady;
    released = true;
  }
  return released;
}

void report_deadlock(size_t count) {
  size_t at_barrier = 0, at_exchange = 0, done = 0;
  int low = 1 << 30, high = 0;
  for (size_t t = 0; t < count; ++t) {
    at_barrier += threads[t]->state == State::kAtBarrier;
    at_exchange += threads[t]->state == State::kAtExchange;
    done += threads[t]->state == State::kDone;
    if (threads[t]->state == State::kDone) continue;
    low = std::min(low, threads[t]->line);
    high = std::max(high, threads[t]->line);
  }
  error = "deadlock: of " + std::to_string(count) + " threads " + std::to_string(at_barrier) + " wait at a barrier, " +
          std::to_string(at_exchange) + " at a warp exchange (lines " + std::to_string(low) + " to " +
          std::to_string(high) + "), " + std::to_string(done) + " have returned";
}

void run_block(size_t count) {
  for (size_t t = 0; t < count; ++t) {
    threads[t]->state = State::kReady;
    threads[t]->exchanges = 0;
    threads[t]->coroutine.start(&run_thread);
  }
  std::vector<size_t> order(count);
  for (;;) {
    permute(order);
    size_t done = 0;
    for (size_t t : order) {
      if (threads[t]->state == State::kReady) {
        running = t;
        threadIdx = dim3(t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y);
        threads[t]->coroutine.enter();
      }
      done += threads[t]->state == State::kDone;
    }
    if (done == count) return;
    if (!release(count)) return report_deadlock(count);
  }
}

}  // namespace

void launch(dim3 grid, dim3 block, const std::function<void()>& body) {
  const size_t count = size_t{block.x} * block.y * block.z;
  const size_t blocks = size_t{grid.x} * grid.y * grid.z;
  if (count == 0 || count > 1024 || blocks == 0 || grid.y > 65535 || grid.z > 65535)
    error = "invalid launch: " + std::to_string(count) + " threads in " + std::to_string(blocks) + " blocks";
  if (!error.empty()) return;
  blockDim = block;
  gridDim = grid;
  kernel = &body;
  while (threads.size() < count) threads.push_back(std::make_unique<Thread>());
  warps.resize((count + 31) / 32);
  std::vector<size_t> order(blocks);
  permute(order);
  for (size_t b : order) {
    blockIdx = dim3(b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y);
    run_block(count);
    if (!error.empty()) return;
  }
}

void barrier(int line) { wait(State::kAtBarrier, line); }

int lane() { return static_cast<int>(running % 32); }

uint64_t exchange(uint64_t mine, int from_lane, int line) {
  Thread& self = *threads[running];
  uint64_t* value = warps[running / 32].value[self.exchanges++ & 1];
  value[lane()] = mine;
  wait(State::kAtExchange, line);
  return value[from_lane];
}

void configure(uint64_t seed) {
  random_state = seed;
  error.clear();
}

const char* last_error() { return error.empty() ? nullptr : error.c_str(); }

}  // namespace shim
