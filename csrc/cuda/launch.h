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

// Writes what is wanted: the gradients, loss_z [rows], loss_t [rows] unless it is null, and, unless `means` is null, the
// batch means of both losses [2].
cudaError_t launch_pair_loss(const PairLoss& loss, float* means, cudaStream_t stream);

}  // namespace act
