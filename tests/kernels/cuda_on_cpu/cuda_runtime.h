// See cuda_runtime_api.h.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "cuda_runtime_api.h"

#define __host__
#define __device__
#define __global__ static
#define __shared__ static
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct Index {
  unsigned x;
};

using std::max;
using std::min;

namespace cuda_on_cpu {

// What the tests may set: a small device takes the paths of a large one with small tensors.
struct Device {
  int shared_memory = 227 * 1024;
};

// A thread's stack, which runs one thread after another. After its start it is entered and left by _longjmp, which, unlike
// swapcontext, makes no system call.
struct Fiber {
  ucontext_t start;
  jmp_buf state;
  std::unique_ptr<char[]> stack;
  bool started = false;
  bool finished = false;
  long syncs = 0;     // barriers passed
  long shuffles = 0;  // shuffles passed
};

struct Warp {
  uint64_t values[2][32];  // of the current and the last shuffle
  long arrived = 0;        // lanes, over all shuffles
};

struct Block {
  std::vector<Warp> warps;
  std::vector<unsigned char> shared;
  const std::function<void()>* kernel;
  unsigned threads;
  long arrived = 0;  // at barriers, over all of them
};

inline Device device;
inline std::vector<std::unique_ptr<Fiber>> fibers;
inline jmp_buf scheduler;
inline Block* block = nullptr;
inline unsigned running = 0;
inline Index thread_index, block_index, grid_size;
constexpr size_t kStack = 64 * 1024;

inline void pause() {
  if (_setjmp(fibers[running]->state) == 0) {
    _longjmp(scheduler, 1);
  }
}

template <class Ready>
void wait_until(Ready ready) {
  while (!ready()) {
    pause();
  }
}

inline void run_threads() {
  for (;;) {
    (*block->kernel)();
    fibers[running]->finished = true;
    pause();
  }
}

inline void resume(Fiber& fiber) {
  if (_setjmp(scheduler) != 0) {
    return;
  }
  if (fiber.started) {
    _longjmp(fiber.state, 1);
  }
  fiber.started = true;
  fiber.stack.reset(new char[kStack]);
  getcontext(&fiber.start);
  fiber.start.uc_stack.ss_sp = fiber.stack.get();
  fiber.start.uc_stack.ss_size = kStack;
  makecontext(&fiber.start, run_threads, 0);
  setcontext(&fiber.start);
}

inline unsigned char* dynamic_shared() {
  auto address = reinterpret_cast<uintptr_t>(block->shared.data());
  return reinterpret_cast<unsigned char*>((address + 15) / 16 * 16);
}

inline void launch(const std::function<void()>& kernel, unsigned blocks, unsigned threads, size_t shared, cudaStream_t) {
  while (fibers.size() < threads) {
    fibers.push_back(std::make_unique<Fiber>());
  }
  for (unsigned b = 0; b < blocks; ++b) {
    Block state{std::vector<Warp>((threads + 31) / 32), std::vector<unsigned char>(shared + 16), &kernel, threads};
    block = &state;
    block_index.x = b;
    grid_size.x = blocks;
    for (unsigned t = 0; t < threads; ++t) {
      fibers[t]->finished = false;
      fibers[t]->syncs = fibers[t]->shuffles = 0;
    }
    for (bool any = true; any;) {
      any = false;
      for (running = 0; running < threads; ++running) {
        if (!fibers[running]->finished) {
          any = true;
          thread_index.x = running;
          resume(*fibers[running]);
        }
      }
    }
  }
  block = nullptr;
}

template <class V>
V shuffle_xor(V value, int distance) {
  static_assert(sizeof(V) <= sizeof(uint64_t));
  const unsigned lane = running % 32;
  Warp& warp = block->warps[running / 32];
  Fiber& me = *fibers[running];
  const long turn = me.shuffles++;
  std::memcpy(&warp.values[turn % 2][lane], &value, sizeof(V));
  ++warp.arrived;
  wait_until([&] { return warp.arrived >= 32 * (turn + 1); });
  V result;
  std::memcpy(&result, &warp.values[turn % 2][lane ^ distance], sizeof(V));
  return result;
}

inline void synchronize_block() {
  Fiber& me = *fibers[running];
  const long turn = ++me.syncs;
  ++block->arrived;
  wait_until([&] { return block->arrived >= turn * static_cast<long>(block->threads); });
}

}  // namespace cuda_on_cpu

#define threadIdx cuda_on_cpu::thread_index
#define blockIdx cuda_on_cpu::block_index
#define gridDim cuda_on_cpu::grid_size
#define __syncthreads cuda_on_cpu::synchronize_block
#define __shfl_xor_sync(mask, value, distance) cuda_on_cpu::shuffle_xor(value, distance)

inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline void __stwb(uint4* p, uint4 value) { *p = value; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fmaf(a, b, c); }

inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = cuda_on_cpu::device.shared_memory;
  return cudaSuccess;
}
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int bytes) {
  return bytes <= cuda_on_cpu::device.shared_memory ? cudaSuccess : cudaErrorInvalidValue;
}
