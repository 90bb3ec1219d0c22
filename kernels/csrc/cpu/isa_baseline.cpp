#include <cmath>
#include <cstdint>
#include <type_traits>

#include "../arguments.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "../formulas.h"
#include "kernels.h"

#define ACT_LANES 4

namespace act {
namespace baseline {
#include "vector.h"

#include "pgd_step.h"

#include "pair_loss.h"
}  // namespace baseline

const Kernels& baseline_kernels() {
  static constexpr Kernels kernels = {"baseline", baseline::linf_step, baseline::random_start, baseline::l2_step, baseline::pair_loss};
  return kernels;
}

}  // namespace act
