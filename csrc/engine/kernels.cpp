// Which kernels this processor runs.
#include "kernels.h"

#include <stdexcept>

namespace mine_fast::engine {

std::vector<const Kernels*> available_kernels() {
  std::vector<const Kernels*> found;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
#if defined(MINE_FAST_EMULATE_AVX512)
  if (avx512_kernels()) found.push_back(avx512_kernels());
  (void)avx512;
#else
  if (avx512 && avx512_kernels()) found.push_back(avx512_kernels());
#endif
  if (avx2 && avx2_kernels()) found.push_back(avx2_kernels());
#endif
  found.push_back(&portable_kernels());
  return found;
}

const Kernels& kernels_named(const std::string& name) {
  std::string known;
  for (const Kernels* kernels : available_kernels()) {
    if (name == kernels->name) return *kernels;
    known += (known.empty() ? "" : ", ") + std::string(kernels->name);
  }
  throw std::invalid_argument("kernel must be one of " + known + ", got '" + name + "'");
}

}  // namespace mine_fast::engine
