// The thread backend: a block's threads are OS threads, which is slow, but ThreadSanitizer sees their races.
#include <pthread.h>

#include <string>
#include <thread>
#include <vector>

#include "cuda_shim.h"

thread_local dim3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace shim {
namespace {

// A barrier of two objects in turn. With one, a thread that is slow to return from it would, in the eyes of
// ThreadSanitizer, also be ordered after what a fast one did before it reached the same object again.
class Barrier {
 public:
  void init(size_t count) {
    for (pthread_barrier_t& b : turn_) pthread_barrier_init(&b, nullptr, static_cast<unsigned>(count));
  }
  void destroy() {
    for (pthread_barrier_t& b : turn_) pthread_barrier_destroy(&b);
  }
  void wait(unsigned& passed) { pthread_barrier_wait(&turn_[passed++ % 2]); }

 private:
  pthread_barrier_t turn_[2];
};

Barrier block_barrier;
Barrier warp_barrier[32];
uint64_t warp_value[32][32];
thread_local size_t own_index;
thread_local unsigned block_passed, warp_passed;  // barriers that this thread went through
std::string error;

}  // namespace

void launch(dim3 grid, dim3 block, const std::function<void()>& body) {
  const size_t count = size_t{block.x} * block.y * block.z;
  const size_t blocks = size_t{grid.x} * grid.y * grid.z;
  if (count == 0 || count > 1024 || blocks == 0) error = "invalid launch";
  if (!error.empty()) return;
  blockDim = block;
  gridDim = grid;
  block_barrier.init(count);
  for (size_t w = 0; w * 32 < count; ++w) warp_barrier[w].init(std::min<size_t>(32, count - w * 32));
  std::vector<std::thread> pool;
  for (size_t t = 0; t < count; ++t) {
    pool.emplace_back([&, t] {
      own_index = t;
      threadIdx = dim3(t % block.x, t / block.x % block.y, t / block.x / block.y);
      for (size_t b = 0; b < blocks; ++b) {
        blockIdx = dim3(b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y);
        body();
        block_barrier.wait(block_passed);  // blocks share the variables of __shared__
      }
    });
  }
  for (std::thread& thread : pool) thread.join();
  block_barrier.destroy();
  for (size_t w = 0; w * 32 < count; ++w) warp_barrier[w].destroy();
}

void barrier(int) { block_barrier.wait(block_passed); }

int lane() { return static_cast<int>(own_index % 32); }

uint64_t exchange(uint64_t mine, int from_lane, int) {
  const size_t warp = own_index / 32;
  warp_value[warp][lane()] = mine;
  warp_barrier[warp].wait(warp_passed);
  const uint64_t other = warp_value[warp][from_lane];
  warp_barrier[warp].wait(warp_passed);
  return other;
}

void configure(uint64_t) { error.clear(); }

const char* last_error() { return error.empty() ? nullptr : error.c_str(); }

}  // namespace shim
