// CUDA's runtime as far as csrc/cuda uses it, on the CPU: for tests of the kernels' own code where there is no GPU. The
// blocks of a launch run one after the other; the threads of a block are fibers that run in turn and switch only where
// they wait for each other, in __syncthreads and the warp shuffles. Speed, memory ordering and races are not modelled.
#pragma once

#include <cstddef>
#include <cstdint>

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
