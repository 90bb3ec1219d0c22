// The linf step: one pass, three reads and one write.
#include <cuda_runtime.h>

#include "../formulas.h"
#include "images.cuh"
#include "launch.h"

namespace act {
namespace {

// Packs a thread loads before it uses the first: 6 independent 16-byte loads in flight.
constexpr int kPacks = 2;

template <class T>
constexpr int64_t kTile = static_cast<int64_t>(kImageThreads) * kPacks * kWidth<T>;

template <class T, class G, class X>
__global__ void __launch_bounds__(kImageThreads)
    linf_step_kernel(const __grid_constant__ ImageStep s, bool aligned, bool indexed) {
  constexpr int N = kWidth<T>;
  const T* x_adv = static_cast<const T*>(s.x_adv);
  const G* grad = static_cast<const G*>(s.grad);
  const X* x = static_cast<const X*>(s.x);
  T* out = static_cast<T*>(s.out);
  const int64_t numel = s.samples * s.sample_size;
  const int64_t whole = packed<N>(numel, aligned);
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kTile<T>;
  auto moved = [](T from, G slope, X clean, const Constants& c) {
    return from_float<T>(linf_step(to_float(from), to_float(slope), to_float(clean), c.step, c.eps, c.lower, c.upper));
  };

  // Nothing is stored before everything is loaded: out may be x_adv, so the compiler could not move the loads up.
  Pack<T, N> from[kPacks];
  Pack<G, N> slope[kPacks];
  Pack<X, N> clean[kPacks];
#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
    const int64_t i = begin + (k * kImageThreads + threadIdx.x) * N;
    if (i < whole) {
      from[k] = load_pack<N>(x_adv + i);
      slope[k] = load_pack<N>(grad + i);
      clean[k] = load_pack<N>(x + i);
    }
  }
#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
    const int64_t i = begin + (k * kImageThreads + threadIdx.x) * N;
    if (i < whole) {
      Constants c(s, i, indexed);
      Pack<T, N> result;
#pragma unroll
      for (int e = 0; e < N; ++e) {
        result.data[e] = moved(from[k].data[e], slope[k].data[e], clean[k].data[e], c);
        c.advance();
      }
      store_pack(out + i, result);
    }
  }
  const int64_t end = min(numel, begin + kTile<T>);
#pragma unroll 1
  for (int64_t i = max(begin, whole) + threadIdx.x; i < end; i += kImageThreads) {
    out[i] = moved(x_adv[i], grad[i], x[i], Constants(s, i, indexed));
  }
}

}  // namespace

cudaError_t launch_linf_step(const ImageStep& s, cudaStream_t stream) {
  return with_step_types(s, [&](auto t, auto g, auto x) {
    using T = typename decltype(t)::type;
    using G = typename decltype(g)::type;
    using X = typename decltype(x)::type;
    constexpr int N = kWidth<T>;
    const bool aligned =
        is_aligned<T, N>(s.out) && is_aligned<T, N>(s.x_adv) && is_aligned<G, N>(s.grad) && is_aligned<X, N>(s.x);
    const bool indexed = s.step_sizes != nullptr || s.epsilons != nullptr || s.lowers != nullptr || s.uppers != nullptr;
    const int64_t blocks = (s.samples * s.sample_size + kTile<T> - 1) / kTile<T>;
    linf_step_kernel<T, G, X><<<static_cast<unsigned>(blocks), kImageThreads, 0, stream>>>(s, aligned, indexed);
    return cudaGetLastError();
  });
}

}  // namespace act
