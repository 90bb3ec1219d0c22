// The random start: one pass, two reads and one write.
#include <cuda_runtime.h>

#include "../formulas.h"
#include "images.cuh"
#include "launch.h"

namespace act {
namespace {

template <class T>
constexpr int64_t kTile = static_cast<int64_t>(kImageThreads) * kWidth<T>;

template <class T, class X>
__global__ void __launch_bounds__(kImageThreads)
    random_start_kernel(const __grid_constant__ ImageStep s, bool aligned, bool indexed) {
  constexpr int N = kWidth<T>;
  const T* noise = static_cast<const T*>(s.x_adv);
  const X* x = static_cast<const X*>(s.x);
  T* out = static_cast<T*>(s.out);
  const int64_t numel = s.samples * s.sample_size;
  const int64_t whole = packed<N>(numel, aligned);
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kTile<T>;
  auto started = [](T noise, X clean, const Constants& c) {
    // Rounded apart: contracted to one fused operation, float32 results would differ from the other backends'.
    const float moved = __fadd_rn(to_float(clean), __fmul_rn(c.step, to_float(noise)));
    return from_float<T>(clip(moved, c.lower, c.upper));
  };

  const int64_t first = begin + threadIdx.x * N;
  if (first < whole) {
    const Pack<T, N> noises = load_pack<N>(noise + first);
    const Pack<X, N> cleans = load_pack<N>(x + first);
    Constants c(s, first, indexed);
    Pack<T, N> result;
#pragma unroll
    for (int e = 0; e < N; ++e) {
      result.data[e] = started(noises.data[e], cleans.data[e], c);
      c.advance();
    }
    store_pack(out + first, result);
  }
  const int64_t end = min(numel, begin + kTile<T>);
#pragma unroll 1
  for (int64_t i = max(begin, whole) + threadIdx.x; i < end; i += kImageThreads) {
    out[i] = started(noise[i], x[i], Constants(s, i, indexed));
  }
}

}  // namespace

cudaError_t launch_random_start(const ImageStep& s, cudaStream_t stream) {
  return with_image_types(s, [&](auto t, auto x) {
    using T = typename decltype(t)::type;
    using X = typename decltype(x)::type;
    constexpr int N = kWidth<T>;
    const bool aligned = is_aligned<T, N>(s.out) && is_aligned<T, N>(s.x_adv) && is_aligned<X, N>(s.x);
    const bool indexed = s.step_sizes != nullptr || s.lowers != nullptr || s.uppers != nullptr;
    const int64_t blocks = (s.samples * s.sample_size + kTile<T> - 1) / kTile<T>;
    random_start_kernel<T, X><<<static_cast<unsigned>(blocks), kImageThreads, 0, stream>>>(s, aligned, indexed);
    return cudaGetLastError();
  });
}

}  // namespace act
