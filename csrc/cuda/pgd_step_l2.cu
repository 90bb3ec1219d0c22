// The l2 step in two kernels. The first leaves partial sums of |g|², g·d and |d|² of each sample, with d = x_adv − x, in
// double; the second adds them up in a fixed order and applies the step, knowing the moved length from
//
//   |d + s g/|g||² = |d|² + 2 s (g·d)/|g| + s²
//
// This may cancel, to an error of about 1e-16 (|d| + |s|)² in the square; the length matters only where it exceeds eps,
// so its relative error stays below float's as long as |d| + |s| < 1e4 eps.
#include <cuda_runtime.h>

#include <algorithm>

#include "../formulas.h"
#include "images.cuh"
#include "launch.h"
#include "reduce.cuh"

namespace act {
namespace {

constexpr int kPacks = 4;
// Partial sums a sample; beyond this many tiles a block adds up several.
constexpr int64_t kMaxPartials = 256;

template <class T>
constexpr int64_t kTile = static_cast<int64_t>(kImageThreads) * kPacks * kWidth<T>;

struct Tiling {
  int64_t tiles;     // a sample
  int64_t partials;  // a sample
};

template <class T>
Tiling tiling(const ImageStep& s) {
  const int64_t tiles = (s.sample_size + kTile<T> - 1) / kTile<T>;
  return {tiles, std::min(tiles, kMaxPartials)};
}

template <class T, class G, class X>
__global__ void __launch_bounds__(kImageThreads)
    l2_sums_kernel(const __grid_constant__ ImageStep s, double* sums, Tiling shape, bool aligned) {
  constexpr int N = kWidth<T>;
  const int64_t sample = blockIdx.x / shape.partials;
  const int64_t partial = blockIdx.x % shape.partials;
  const T* x_adv = static_cast<const T*>(s.x_adv) + sample * s.sample_size;
  const G* grad = static_cast<const G*>(s.grad) + sample * s.sample_size;
  const X* x = static_cast<const X*>(s.x) + sample * s.sample_size;

  const int64_t whole = packed<N>(s.sample_size, aligned);
  double total[3] = {0.0, 0.0, 0.0};
  auto add = [&](T from, G slope, X clean) {
    const double g = to_float(slope);
    const double d = static_cast<double>(to_float(from)) - to_float(clean);
    total[0] += g * g;
    total[1] += g * d;
    total[2] += d * d;
  };
  for (int64_t tile = partial; tile < shape.tiles; tile += shape.partials) {
    const int64_t begin = tile * kTile<T>;
#pragma unroll kPacks / 2
    for (int k = 0; k < kPacks; ++k) {
      const int64_t i = begin + (k * kImageThreads + threadIdx.x) * N;
      if (i < whole) {
        const Pack<T, N> from = load_pack<N>(x_adv + i);
        const Pack<G, N> slope = load_pack<N>(grad + i);
        const Pack<X, N> clean = load_pack<N>(x + i);
#pragma unroll
        for (int e = 0; e < N; ++e) {
          add(from.data[e], slope.data[e], clean.data[e]);
        }
      }
    }
    const int64_t end = min(s.sample_size, begin + kTile<T>);
#pragma unroll 1
    for (int64_t i = max(begin, whole) + threadIdx.x; i < end; i += kImageThreads) {
      add(x_adv[i], grad[i], x[i]);
    }
  }
  __shared__ double scratch[3 * 32];
  reduce<kImageThreads>(total, scratch, Add{});
  if (threadIdx.x == 0) {
    double* mine = sums + static_cast<int64_t>(blockIdx.x) * 3;
    mine[0] = total[0];
    mine[1] = total[1];
    mine[2] = total[2];
  }
}

template <class T, class G, class X>
__global__ void __launch_bounds__(kImageThreads)
    l2_apply_kernel(const __grid_constant__ ImageStep s, const double* sums, Tiling shape, bool aligned) {
  constexpr int N = kWidth<T>;
  const int64_t sample = blockIdx.x / shape.tiles;
  const int64_t tile = blockIdx.x % shape.tiles;
  const T* x_adv = static_cast<const T*>(s.x_adv) + sample * s.sample_size;
  const G* grad = static_cast<const G*>(s.grad) + sample * s.sample_size;
  const X* x = static_cast<const X*>(s.x) + sample * s.sample_size;
  T* out = static_cast<T*>(s.out) + sample * s.sample_size;

  static_assert(kMaxPartials <= kImageThreads);
  double total[3] = {0.0, 0.0, 0.0};
  if (threadIdx.x < shape.partials) {
    const double* mine = sums + (sample * shape.partials + threadIdx.x) * 3;
    total[0] = mine[0];
    total[1] = mine[1];
    total[2] = mine[2];
  }
  __shared__ double scratch[3 * 32];
  reduce<kImageThreads>(total, scratch, Add{});
  const float step = s.step_sizes != nullptr ? s.step_sizes[sample] : s.step_size;
  const float eps = s.epsilons != nullptr ? s.epsilons[sample] : s.eps;
  const double length = sqrt(total[0]);
  const double along = length == 0.0 ? 0.0 : static_cast<double>(step);
  double square = total[2];
  if (along != 0.0) {
    square += 2.0 * along * (total[1] / length) + along * along;
  }
  square = square < 0.0 ? 0.0 : square;  // rounding; a NaN stays
  const L2Factors factors = l2_factors(step, length);
  const float shrink = l2_shrink(eps, sqrt(square));

  const bool indexed = s.lowers != nullptr || s.uppers != nullptr;
  const int64_t whole = packed<N>(s.sample_size, aligned);
  const int64_t begin = tile * kTile<T>;
  const int64_t origin = sample * s.sample_size;
  auto moved = [&](T from, G slope, X clean, const Constants& c) {
    const float delta = l2_delta(to_float(from), to_float(slope), to_float(clean), factors);
    return from_float<T>(l2_project(to_float(clean), delta, shrink, c.lower, c.upper));
  };
#pragma unroll kPacks / 2
  for (int k = 0; k < kPacks; ++k) {
    const int64_t i = begin + (k * kImageThreads + threadIdx.x) * N;
    if (i < whole) {
      const Pack<T, N> from = load_pack<N>(x_adv + i);
      const Pack<G, N> slope = load_pack<N>(grad + i);
      const Pack<X, N> clean = load_pack<N>(x + i);
      Constants c(s, origin + i, indexed);
      Pack<T, N> result;
#pragma unroll
      for (int e = 0; e < N; ++e) {
        result.data[e] = moved(from.data[e], slope.data[e], clean.data[e], c);
        c.advance();
      }
      store_pack(out + i, result);
    }
  }
  const int64_t end = min(s.sample_size, begin + kTile<T>);
#pragma unroll 1
  for (int64_t i = max(begin, whole) + threadIdx.x; i < end; i += kImageThreads) {
    out[i] = moved(x_adv[i], grad[i], x[i], Constants(s, origin + i, indexed));
  }
}

}  // namespace

int64_t l2_step_scratch(const ImageStep& s) {
  const Tiling shape = s.dtype == DType::float32 ? tiling<float>(s) : tiling<__half>(s);
  return s.samples * shape.partials * 3 * static_cast<int64_t>(sizeof(double));
}

cudaError_t launch_l2_step(const ImageStep& s, void* scratch, cudaStream_t stream) {
  return with_step_types(s, [&](auto t, auto g, auto x) {
    using T = typename decltype(t)::type;
    using G = typename decltype(g)::type;
    using X = typename decltype(x)::type;
    constexpr int N = kWidth<T>;
    // Every sample must begin on a pack's boundary.
    const bool aligned = (s.samples == 1 || s.sample_size % N == 0) && is_aligned<T, N>(s.out) && is_aligned<T, N>(s.x_adv) &&
                         is_aligned<G, N>(s.grad) && is_aligned<X, N>(s.x);
    const Tiling shape = tiling<T>(s);
    double* sums = static_cast<double*>(scratch);
    l2_sums_kernel<T, G, X>
        <<<static_cast<unsigned>(s.samples * shape.partials), kImageThreads, 0, stream>>>(s, sums, shape, aligned);
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess) {
      return error;
    }
    l2_apply_kernel<T, G, X>
        <<<static_cast<unsigned>(s.samples * shape.tiles), kImageThreads, 0, stream>>>(s, sums, shape, aligned);
    return cudaGetLastError();
  });
}

}  // namespace act
