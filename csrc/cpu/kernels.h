// The CPU kernels, compiled once for each instruction set and chosen when the process runs.
#pragma once

#include "../arguments.h"

namespace act {

struct Kernels {
  const char* name;
  // pgd_step linf and random_start on elements [begin, end) of the whole batch; `streamed` stores past the caches.
  void (*linf_step)(const ImageStep&, int64_t begin, int64_t end, bool streamed);
  void (*random_start)(const ImageStep&, int64_t begin, int64_t end);
  // pgd_step l2 on samples [begin, end).
  void (*l2_step)(const ImageStep&, int64_t begin, int64_t end);
  // act_loss and kl_ce_loss on rows [begin, end).
  void (*pair_loss)(const PairLoss&, int64_t begin, int64_t end);
};

const Kernels& baseline_kernels();
#if defined(__x86_64__)
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
#endif

// Kernels of the instruction set named ("baseline", "avx2", "avx512"); null where this processor lacks it.
const Kernels* kernels_for(const char* name);

// Kernels of the widest instruction set that this processor has.
const Kernels& best_kernels();

// A buffer of the calling thread's own, valid until its next call. (Here, not in the kernels: the standard library's
// templates must not be instantiated where instructions are enabled that the processor may lack.)
float* thread_scratch(int64_t floats);

}  // namespace act
