// What the tests call through ctypes.
#include <cuda_runtime.h>

#include "cuda/launch.h"

extern "C" {

void set_device(int shared_memory) { cuda_on_cpu::device = {shared_memory}; }

int linf_step(const act::ImageStep* s) { return act::launch_linf_step(*s, nullptr); }

int l2_step(const act::ImageStep* s) {
  std::vector<double> scratch(act::l2_step_scratch(*s) / sizeof(double));
  return act::launch_l2_step(*s, scratch.data(), nullptr);
}

int random_start(const act::ImageStep* s) { return act::launch_random_start(*s, nullptr); }

int pair_loss(const act::PairLoss* p, float* means) { return act::launch_pair_loss(*p, means, nullptr); }
}
