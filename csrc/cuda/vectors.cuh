// Reading and writing images and logits: 16 bytes at a time where the addresses allow it, element by element elsewhere.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>

namespace act {

// N consecutive elements, in one access of up to 16 bytes or in several of 16.
template <class T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Pack {
  T data[N];
};

// Elements of T in 16 bytes.
template <class T>
constexpr int kWidth = 16 / static_cast<int>(sizeof(T));

__device__ __forceinline__ float to_float(float v) { return v; }
__device__ __forceinline__ float to_float(__half v) { return __half2float(v); }
__device__ __forceinline__ float to_float(__nv_bfloat16 v) { return __bfloat162float(v); }

// v / 255, rounded as a division rounds: the product with the reciprocal, corrected by its own remainder.
__device__ __forceinline__ float to_float(uint8_t v) {
  const float value = static_cast<float>(v);
  const float reciprocal = 1.0f / 255.0f;
  const float quotient = __fmul_rn(value, reciprocal);
  return __fmaf_rn(__fmaf_rn(-quotient, 255.0f, value), reciprocal, quotient);
}

template <class T>
__device__ __forceinline__ T from_float(float v);
template <>
__device__ __forceinline__ float from_float<float>(float v) { return v; }
template <>
__device__ __forceinline__ __half from_float<__half>(float v) { return __float2half_rn(v); }
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float v) { return __float2bfloat16_rn(v); }

template <int N, class T>
__device__ __forceinline__ Pack<T, N> load_pack(const T* p) {
  return *reinterpret_cast<const Pack<T, N>*>(p);
}

// A whole pack of 16 bytes at once from wherever it lies: by reference, its elements could be read one by one.
template <class T, int N>
__device__ __forceinline__ Pack<T, N> load_whole(const Pack<T, N>* p) {
  static_assert(sizeof(*p) == 16);
  const uint4 bits = *reinterpret_cast<const uint4*>(p);
  Pack<T, N> pack;
  memcpy(&pack, &bits, sizeof(pack));
  return pack;
}

// By __stwb, an ordinary store of 16 bytes: one through a pointer the compiler may split into its elements.
template <int N, class T>
__device__ __forceinline__ void store_pack(T* p, const Pack<T, N>& pack) {
  constexpr int kWords = sizeof(pack) / 16;
  static_assert(kWords * 16 == sizeof(pack));
  uint32_t bits[4 * kWords];
  memcpy(bits, &pack, sizeof(pack));
#pragma unroll
  for (int i = 0; i < kWords; ++i) {
    __stwb(reinterpret_cast<uint4*>(p) + i, make_uint4(bits[4 * i], bits[4 * i + 1], bits[4 * i + 2], bits[4 * i + 3]));
  }
}

template <class T, int N>
bool is_aligned(const void* p) {
  return reinterpret_cast<uintptr_t>(p) % alignof(Pack<T, N>) == 0;
}

}  // namespace act
