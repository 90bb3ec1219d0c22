#if defined(__x86_64__)
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "../arguments.h"

#include <immintrin.h>

// Everything below, and nothing that is included above, may use these instructions.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma,f16c,avx2"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma,f16c,avx2")
#endif

#include "../formulas.h"
#include "kernels.h"

#define ACT_LANES 16

namespace act {
namespace avx512 {
#include "vector.h"

#include "pgd_step.h"

#include "pair_loss.h"
}  // namespace avx512

const Kernels& avx512_kernels() {
  static constexpr Kernels kernels = {"avx512", avx512::linf_step, avx512::random_start, avx512::l2_step, avx512::pair_loss};
  return kernels;
}

}  // namespace act

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif  // __x86_64__
