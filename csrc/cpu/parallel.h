// Row-parallel loops over the threads of torch (torch.set_num_threads).
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

// Hot loops are compiled for the baseline, AVX2 and AVX-512, and chosen when the library loads. By feature and not by
// "arch=...": gcc inlines the shared formulas into a clone only if they were compiled for the same arch.
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__) && !defined(MINE_FAST_SANITIZE)
#define MINE_FAST_CLONES __attribute__((target_clones("default", "avx2", "avx512f")))
#else
#define MINE_FAST_CLONES
#endif

namespace mine_fast {

// Calls body(begin, end) over [0, count). Work below ~32k elements stays on the calling thread: waking another one
// costs more than it saves.
template <typename Body>
void parallel_rows(int64_t count, int64_t elements_per_row, Body&& body) {
  if (count == 0) return;
  const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(1, elements_per_row));
  if (count <= grain) {
    body(int64_t{0}, count);
  } else {
    torch::stable::parallel_for(0, count, grain, body);
  }
}

// Calls body(r, i, block) for r = begin .. end - 1, with i = r mod rows and block = r / rows: no division per row.
template <typename Body>
void for_each_row(int64_t begin, int64_t end, int64_t rows, Body&& body) {
  int64_t block = begin / rows, i = begin % rows;
  for (int64_t r = begin; r < end; ++r) {
    body(r, i, block);
    if (++i == rows) {
      i = 0;
      ++block;
    }
  }
}

// memcpy, without a call for rows of one fp32 or fp64 value.
inline void copy_row(char* to, const char* from, int64_t bytes) {
  if (bytes == 4) {
    std::memcpy(to, from, 4);
  } else if (bytes == 8) {
    std::memcpy(to, from, 8);
  } else if (bytes > 0) {  // the pointers of an empty tensor may be null, which memcpy forbids
    std::memcpy(to, from, bytes);
  }
}

}  // namespace mine_fast
