// The CUDA kernels' launchers: no torch header, so that device code compiles in seconds. Each enqueues on `stream` and
// returns the launch's error (cudaSuccess when there was none). Pointers are the device's; nothing is allocated here.
#pragma once

#include <cuda_runtime_api.h>

#include "../arguments.h"

namespace act {

cudaError_t launch_linf_step(const ImageStep& step, cudaStream_t stream);

// `scratch` is l2_step_scratch(step) bytes, aligned to 16.
int64_t l2_step_scratch(const ImageStep& step);
cudaError_t launch_l2_step(const ImageStep& step, void* scratch, cudaStream_t stream);

cudaError_t launch_random_start(const ImageStep& step, cudaStream_t stream);

// Writes what is wanted: the gradients and the rows' losses.
cudaError_t launch_pair_loss(const PairLoss& loss, cudaStream_t stream);

// The rows' losses, and where their sums go; t's are null where there is one loss.
struct RowValues {
  const float* z;
  const float* t;
};
struct Sums {
  float* z;
  float* t;
};

// share · the sum of the rows' values.
cudaError_t launch_sums(const RowValues& values, int64_t rows, double share, const Sums& sums, cudaStream_t stream);

// Multiplies each gradient by scale · factor, in place; one that is null is not there.
struct Rescale {
  void* grads[2];
  const float* factor;  // one number, on the device
  float scale;
  DType dtype;
  int64_t elements;  // of each gradient
};
cudaError_t launch_rescale(const Rescale& rescale, cudaStream_t stream);

}  // namespace act
