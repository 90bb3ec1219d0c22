// The random start: one pass, one read and one write; the noise is made on the way.
#include <cuda_runtime.h>

#include "../formulas.h"
#include "images.cuh"
#include "launch.h"

namespace act {
namespace {

template <class T>
constexpr int64_t kTile = static_cast<int64_t>(kImageThreads) * kWidth<T>;

struct Words {
  uint32_t word[4];
};

// Philox4x32-10 at the counter (counter, image).
__device__ __forceinline__ Words philox(uint64_t key, uint64_t counter, uint64_t image) {
  uint32_t a = static_cast<uint32_t>(counter), b = static_cast<uint32_t>(counter >> 32);
  uint32_t c = static_cast<uint32_t>(image), d = static_cast<uint32_t>(image >> 32);
  uint32_t low = static_cast<uint32_t>(key), high = static_cast<uint32_t>(key >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint64_t of_a = static_cast<uint64_t>(a) * 0xD2511F53u;
    const uint64_t of_c = static_cast<uint64_t>(c) * 0xCD9E8D57u;
    a = static_cast<uint32_t>(of_c >> 32) ^ b ^ low;
    b = static_cast<uint32_t>(of_c);
    c = static_cast<uint32_t>(of_a >> 32) ^ d ^ high;
    d = static_cast<uint32_t>(of_a);
    low += 0x9E3779B9u;
    high += 0xBB67AE85u;
  }
  return {{a, b, c, d}};
}

// N(0, 1) from the high 24 bits of a random word, as a float.
__device__ __forceinline__ float normal(float steps) {
  const float q = (steps - 0x1p23f + 0.5f) * 0x1p-24f;
  const float size = fabsf(q);
  if (size <= 0.425f) {
    return normal_centre(q);
  }
  const float rest = 0.5f - size;
  uint32_t bits;
  memcpy(&bits, &rest, sizeof(bits));
  const uint32_t fraction = (bits & 0x7fffffu) | 0x3f000000u;
  float m;
  memcpy(&m, &fraction, sizeof(m));
  const bool small = m < 0.70710678f;
  const float e = static_cast<float>(static_cast<int>(bits >> 23) - 126 - (small ? 1 : 0));
  const float tail = normal_tail(sqrtf(-log_of(small ? m + m : m, e)));
  return q < 0.0f ? -tail : tail;
}

// The noise of consecutive elements, from flat memory offset i on: a new set of words every fourth.
class Noise {
 public:
  __device__ __forceinline__ Noise(const ImageStep& s, uint64_t key, uint64_t i) : s_(s), key_(key) {
    image_ = i / static_cast<uint64_t>(s.sample_size);
    element_ = i - image_ * s.sample_size;
    words_ = philox(key_, element_ / 4, s_.first + image_);
  }

  __device__ __forceinline__ float next() {
    const unsigned which = element_ % 4;
    const uint32_t low = which & 1 ? words_.word[1] : words_.word[0];
    const uint32_t high = which & 1 ? words_.word[3] : words_.word[2];
    const float steps = static_cast<float>((which & 2 ? high : low) >> 8);
    ++element_;
    if (element_ == static_cast<uint64_t>(s_.sample_size)) {
      element_ = 0;
      ++image_;
    }
    if (element_ % 4 == 0) {
      words_ = philox(key_, element_ / 4, s_.first + image_);
    }
    return s_.gaussian ? normal(steps) : uniform_noise(steps);
  }

 private:
  const ImageStep& s_;
  uint64_t key_, image_, element_;
  Words words_;
};

template <class T, class X>
__global__ void __launch_bounds__(kImageThreads)
    random_start_kernel(const __grid_constant__ ImageStep s, bool aligned, bool indexed) {
  constexpr int N = kWidth<T>;
  const X* x = static_cast<const X*>(s.x);
  T* out = static_cast<T*>(s.out);
  const uint64_t key = static_cast<uint64_t>(*s.key);
  const int64_t numel = s.samples * s.sample_size;
  const int64_t whole = packed<N>(numel, aligned);
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kTile<T>;
  auto started = [](float noise, X clean, const Constants& c) {
    // Rounded apart: contracted to one fused operation, float32 results would differ from the other backends'.
    return from_float<T>(clip(product_and_sum(c.step, noise, to_float(clean)), c.lower, c.upper));
  };

  const int64_t first = begin + threadIdx.x * N;
  if (first < whole) {
    const Pack<X, N> cleans = load_pack<N>(x + first);
    Constants c(s, first, indexed);
    Noise noise(s, key, first);
    Pack<T, N> result;
#pragma unroll
    for (int e = 0; e < N; ++e) {
      result.data[e] = started(noise.next(), cleans.data[e], c);
      c.advance();
    }
    store_pack(out + first, result);
  }
  const int64_t end = min(numel, begin + kTile<T>);
#pragma unroll 1
  for (int64_t i = max(begin, whole) + threadIdx.x; i < end; i += kImageThreads) {
    out[i] = started(Noise(s, key, i).next(), x[i], Constants(s, i, indexed));
  }
}

}  // namespace

cudaError_t launch_random_start(const ImageStep& s, cudaStream_t stream) {
  return with_image_types(s, [&](auto t, auto x) {
    using T = typename decltype(t)::type;
    using X = typename decltype(x)::type;
    constexpr int N = kWidth<T>;
    const bool aligned = is_aligned<T, N>(s.out) && is_aligned<X, N>(s.x);
    const bool indexed = s.step_sizes != nullptr || s.lowers != nullptr || s.uppers != nullptr;
    const int64_t blocks = (s.samples * s.sample_size + kTile<T> - 1) / kTile<T>;
    random_start_kernel<T, X><<<static_cast<unsigned>(blocks), kImageThreads, 0, stream>>>(s, aligned, indexed);
    return cudaGetLastError();
  });
}

}  // namespace act
