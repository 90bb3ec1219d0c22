// What the tests call through ctypes.
#include <cuda_runtime.h>

#include "cuda/launch.h"

extern "C" {

void set_device(int processors, int shared_memory, bool capturing) {
  cuda_on_cpu::device = {processors, shared_memory, capturing};
}

int linf_step(const act::ImageStep* s) { return act::launch_linf_step(*s, nullptr); }

int l2_step(const act::ImageStep* s) {
  std::vector<double> scratch(act::l2_step_scratch(*s) / sizeof(double));
  return act::launch_l2_step(*s, scratch.data(), nullptr);
}

int random_start(const act::ImageStep* s) { return act::launch_random_start(*s, nullptr); }

int pair_loss(const act::PairLoss* p, float* means) {
  std::vector<double2> scratch((act::pair_loss_scratch(*p) + sizeof(double2) - 1) / sizeof(double2));
  return act::launch_pair_loss(*p, means, scratch.data(), nullptr);
}
}
