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

int pair_loss(const act::PairLoss* p) { return act::launch_pair_loss(*p, nullptr); }

int sums(int64_t rows, double share, const float* z, const float* t, float* of_z, float* of_t) {
  return act::launch_sums({z, t}, rows, share, {of_z, of_t}, nullptr);
}

int rescale(void* first, void* second, const float* factor, float scale, int dtype, int64_t elements) {
  return act::launch_rescale({{first, second}, factor, scale, static_cast<act::DType>(dtype), elements}, nullptr);
}
}
