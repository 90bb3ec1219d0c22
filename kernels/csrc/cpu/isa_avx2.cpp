#if defined(__x86_64__)
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "../arguments.h"

#include <immintrin.h>

// Everything below, and nothing that is included above, may use these instructions.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif

#include "../formulas.h"
#include "kernels.h"

#define ACT_LANES 8

namespace act {
namespace avx2 {
#include "vector.h"

#include "pgd_step.h"

#include "pair_loss.h"
}  // namespace avx2

const Kernels& avx2_kernels() {
  static constexpr Kernels kernels = {"avx2", avx2::linf_step, avx2::random_start, avx2::l2_step, avx2::pair_loss};
  return kernels;
}

}  // namespace act

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif  // __x86_64__
