#include "kernels.h"

#include <cstddef>
#include <cstring>
#include <vector>

namespace act {

const Kernels* kernels_for(const char* name) {
  if (std::strcmp(name, "baseline") == 0) {
    return &baseline_kernels();
  }
#if defined(__x86_64__)
  if (std::strcmp(name, "avx2") == 0 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c")) {
    return &avx2_kernels();
  }
  if (std::strcmp(name, "avx512") == 0 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    return &avx512_kernels();
  }
#endif
  return nullptr;
}

const Kernels& best_kernels() {
  static const Kernels& best = []() -> const Kernels& {
    for (const char* name : {"avx512", "avx2"}) {
      if (const Kernels* kernels = kernels_for(name)) {
        return *kernels;
      }
    }
    return baseline_kernels();
  }();
  return best;
}

float* thread_scratch(int64_t floats) {
  thread_local std::vector<float> buffer;
  if (static_cast<int64_t>(buffer.size()) < floats) {
    buffer.resize(static_cast<size_t>(floats));
  }
  return buffer.data();
}

}  // namespace act
