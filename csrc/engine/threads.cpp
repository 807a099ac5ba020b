// The pool, and the choice of its size.
#include "threads.h"

#include <algorithm>

#if defined(__linux__)
#include <sched.h>
#endif

namespace mine_fast::engine {

ThreadPool::ThreadPool(int64_t threads) {
  try {
    for (int64_t i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
  } catch (...) {  // no more threads to have: those that run must end before they are destroyed
    stop();
    throw;
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  start_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::work(int64_t index) {
  uint64_t seen = 0;
  for (;;) {
    std::unique_lock<std::mutex> lock(mutex_);
    start_.wait(lock, [&] { return stop_ || round_ != seen; });
    if (stop_) return;
    seen = round_;
    const std::function<void(int64_t)>* body = body_;
    lock.unlock();
    std::exception_ptr error;
    try {
      (*body)(index);
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    if (error && !error_) error_ = error;
    if (--running_ == 0) done_.notify_one();
  }
}

void ThreadPool::run(const std::function<void(int64_t)>& body) {
  if (workers_.empty()) return body(0);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    body_ = &body;
    running_ = static_cast<int64_t>(workers_.size());
    error_ = nullptr;
    ++round_;
  }
  start_.notify_all();
  const auto wait = [&] {
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [&] { return running_ == 0; });
  };
  try {
    body(0);
  } catch (...) {
    wait();
    throw;
  }
  wait();
  if (error_) std::rethrow_exception(error_);
}

int64_t threads_for(double multiply_adds, int64_t rows) {
  int64_t cores = std::max<int64_t>(1, std::thread::hardware_concurrency());
#if defined(__linux__)
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) cores = std::max(1, CPU_COUNT(&allowed));
#endif
  // A barrier costs about 0.1 ms on a busy machine, in which a thread makes 5 million multiply-adds, and a step has
  // several: 60 million for each thread keep them below a tenth. Fewer than 64 rows make poor tiles.
  const int64_t worth = static_cast<int64_t>(std::min(1e6, multiply_adds / 6e7));
  return std::max<int64_t>(1, std::min({cores, worth, rows / 64}));
}

}  // namespace mine_fast::engine
