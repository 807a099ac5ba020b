// An array of zeros on a cache line's boundary; large ones ask for large pages, which spares the products most of their
// address translations.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace mine_fast::engine {

template <typename T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t count) { resize(count); }

  // Discards what was there.
  void resize(int64_t count) {
    constexpr size_t kLine = 64, kPage = size_t{1} << 21;
    if (count < 0 || count > (int64_t{1} << 60) / static_cast<int64_t>(sizeof(T))) throw std::bad_alloc();
    const size_t bytes = (static_cast<size_t>(count) * sizeof(T) + kLine - 1) / kLine * kLine;
    const bool large = bytes >= kPage / 2;
    const size_t alignment = large ? kPage : kLine;
    const size_t whole = (bytes + alignment - 1) / alignment * alignment;
    data_.reset(whole > 0 ? static_cast<T*>(std::aligned_alloc(alignment, whole)) : nullptr);
    if (whole > 0 && !data_) throw std::bad_alloc();
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (large) madvise(data_.get(), whole, MADV_HUGEPAGE);
#endif
    if (whole > 0) std::memset(data_.get(), 0, whole);
    count_ = count;
  }

  void clear() {
    if (count_ > 0) std::memset(data_.get(), 0, static_cast<size_t>(count_) * sizeof(T));
  }

  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  int64_t size() const { return count_; }
  T& operator[](int64_t i) { return data_.get()[i]; }
  const T& operator[](int64_t i) const { return data_.get()[i]; }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> data_;
  int64_t count_ = 0;
};

}  // namespace mine_fast::engine
