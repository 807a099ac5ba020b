// A few threads that wait passively: a barrier that spins collapses where other programs want the cores too.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace mine_fast::engine {

class ThreadPool {
 public:
  explicit ThreadPool(int64_t threads);  // the caller counts as one of them
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int64_t size() const { return static_cast<int64_t>(workers_.size()) + 1; }

  // Calls body(0) here and body(1), ... on the other threads, and returns when all have returned; the exception of one
  // of them is thrown on.
  void run(const std::function<void(int64_t)>& body);

 private:
  void work(int64_t index);
  void stop();

  std::mutex mutex_;
  std::condition_variable start_, done_;
  const std::function<void(int64_t)>* body_ = nullptr;
  uint64_t round_ = 0;
  int64_t running_ = 0;
  bool stop_ = false;
  std::exception_ptr error_;  // of the first worker that threw in this round
  std::vector<std::thread> workers_;
};

// How many threads a step of this many multiply-adds and rows deserves, of those that the process may use.
int64_t threads_for(double multiply_adds, int64_t rows);

}  // namespace mine_fast::engine
