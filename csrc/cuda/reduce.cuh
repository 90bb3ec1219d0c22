// Reductions over the threads of a block, in an order that only the block's size decides.
#pragma once

namespace act {

struct Add {
  template <class V>
  __device__ __forceinline__ V operator()(V a, V b) const { return a + b; }
};

// Ignores NaN, which reaches the results through the sums.
struct Max {
  __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

// Combines v over groups of kLanes consecutive lanes.
template <int kLanes, class V, class Combine>
__device__ __forceinline__ V over_lanes(V v, Combine combine) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    v = combine(v, __shfl_xor_sync(0xffffffffu, v, distance));
  }
  return v;
}

// Reduces each of `values` over groups of kThreads consecutive threads (a power of two up to a warp, or the whole block);
// every thread gets the results. `scratch` is shared memory of [32 · N], unused up to a warp. It may be used again after
// the block's next barrier.
template <int kThreads, int N, class V, class Combine>
__device__ __forceinline__ void reduce(V (&values)[N], V* scratch, Combine combine) {
#pragma unroll
  for (int n = 0; n < N; ++n) {
    values[n] = over_lanes<(kThreads < 32 ? kThreads : 32)>(values[n], combine);
  }
  if constexpr (kThreads > 32) {
    constexpr int kWarps = kThreads / 32;
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    if (lane == 0) {
#pragma unroll
      for (int n = 0; n < N; ++n) {
        scratch[n * 32 + warp] = values[n];
      }
    }
    __syncthreads();
#pragma unroll
    for (int n = 0; n < N; ++n) {
      values[n] = over_lanes<kWarps>(scratch[n * 32 + lane % kWarps], combine);
    }
  }
}

}  // namespace act
