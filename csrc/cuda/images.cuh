// What pgd_step and random_start share: dtypes, and the constants of consecutive elements.
#pragma once

#include "../arguments.h"
#include "vectors.cuh"

namespace act {

constexpr int kImageThreads = 256;

// The constants of one element, and of the next ones without a division for each.
class Constants {
 public:
  float step, eps, lower, upper;

  // At flat memory offset i. Without `indexed` the numbers serve every element.
  __device__ __forceinline__ Constants(const ImageStep& s, uint64_t i, bool indexed)
      : step(s.step_size), eps(s.eps), lower(s.lower), upper(s.upper), s_(s), indexed_(indexed) {
    if (indexed_) {
      sample_ = i / static_cast<uint64_t>(s.sample_size);
      const uint64_t within = i - sample_ * s.sample_size;
      const uint64_t run = within / static_cast<uint64_t>(s.inner);
      channel_ = run % static_cast<uint64_t>(s.channels);
      left_in_sample_ = s.sample_size - within;
      left_in_channel_ = s.inner - (within - run * s.inner);
      read();
    }
  }

  // Moves on by one element.
  __device__ __forceinline__ void advance() {
    if (!indexed_) {
      return;
    }
    --left_in_sample_;
    if (--left_in_channel_ == 0) {
      left_in_channel_ = s_.inner;
      channel_ = channel_ + 1 == s_.channels ? 0 : channel_ + 1;
      if (left_in_sample_ == 0) {
        left_in_sample_ = s_.sample_size;
        ++sample_;
      }
      read();
    }
  }

 private:
  __device__ __forceinline__ void read() {
    if (sample_ < s_.samples) {  // not so after the last element of all
      step = s_.step_sizes != nullptr ? s_.step_sizes[sample_] : step;
      eps = s_.epsilons != nullptr ? s_.epsilons[sample_] : eps;
      lower = s_.lowers != nullptr ? s_.lowers[channel_] : lower;
      upper = s_.uppers != nullptr ? s_.uppers[channel_] : upper;
    }
  }

  const ImageStep& s_;
  const bool indexed_;
  int64_t sample_, channel_, left_in_sample_, left_in_channel_;
};

// Elements at the front of `numel` that whole packs of N cover; none where the addresses forbid them.
template <int N>
__device__ __forceinline__ int64_t packed(int64_t numel, bool aligned) {
  return aligned ? numel / N * N : 0;
}

template <class T>
struct Type {
  using type = T;
};

// Calls run(Type<T>, Type<X>) for the images' types.
template <class Run>
cudaError_t with_image_types(const ImageStep& s, Run run) {
  const bool bytes = s.x_dtype == DType::uint8;
  switch (s.dtype) {
    case DType::float32:
      return bytes ? run(Type<float>{}, Type<uint8_t>{}) : run(Type<float>{}, Type<float>{});
    case DType::float16:
      return bytes ? run(Type<__half>{}, Type<uint8_t>{}) : run(Type<__half>{}, Type<__half>{});
    case DType::bfloat16:
      return bytes ? run(Type<__nv_bfloat16>{}, Type<uint8_t>{}) : run(Type<__nv_bfloat16>{}, Type<__nv_bfloat16>{});
    default:
      return cudaErrorInvalidValue;
  }
}

// Calls run(Type<T>, Type<G>, Type<X>), with the gradient's type too.
template <class Run>
cudaError_t with_step_types(const ImageStep& s, Run run) {
  return with_image_types(s, [&](auto t, auto x) {
    switch (s.grad_dtype) {
      case DType::float32:
        return run(t, Type<float>{}, x);
      case DType::float16:
        return run(t, Type<__half>{}, x);
      case DType::bfloat16:
        return run(t, Type<__nv_bfloat16>{}, x);
      default:
        return cudaErrorInvalidValue;
    }
  });
}

}  // namespace act
