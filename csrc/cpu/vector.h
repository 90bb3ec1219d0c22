// Vectors of floats in the width of the instruction set that this file is compiled for: GCC/Clang vector extensions, and
// intrinsics only for what those cannot say. No include guard: each isa_*.cpp includes it inside its own namespace, so
// that no code of one instruction set can be linked into another. ACT_LANES and the target come from there.

typedef float Vec __attribute__((vector_size(4 * ACT_LANES)));
typedef double VecDouble __attribute__((vector_size(8 * ACT_LANES)));
typedef int32_t VecInt __attribute__((vector_size(4 * ACT_LANES)));
typedef uint32_t VecBits __attribute__((vector_size(4 * ACT_LANES)));
typedef uint16_t VecHalf __attribute__((vector_size(2 * ACT_LANES)));
typedef uint8_t VecByte __attribute__((vector_size(ACT_LANES)));

constexpr int64_t kLanes = ACT_LANES;

struct Half {  // IEEE binary16
  uint16_t bits;
};
struct BFloat {
  uint16_t bits;
};

template <class To, class From>
ACT_HD To bits_as(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  __builtin_memcpy(&to, &from, sizeof(to));
  return to;
}

template <class V, class T>
ACT_HD V read(const T* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}

ACT_HD Vec splat(float value) {
  return value - Vec{};
}

ACT_HD Vec multiply_add(Vec a, Vec b, Vec c) {
#if ACT_LANES == 16
  return bits_as<Vec>(_mm512_fmadd_ps(bits_as<__m512>(a), bits_as<__m512>(b), bits_as<__m512>(c)));
#elif ACT_LANES == 8
  return bits_as<Vec>(_mm256_fmadd_ps(bits_as<__m256>(a), bits_as<__m256>(b), bits_as<__m256>(c)));
#else
  return a * b + c;
#endif
}

#if ACT_LANES == 4
// binary16 without conversion instructions: the exponent is rebased by multiplying, which also normalises denormals.
ACT_HD Vec widen_half(VecHalf half) {
  const VecBits bits = __builtin_convertvector(half, VecBits);
  const VecBits magnitude = (bits & 0x7fffu) << 13;
  const Vec scaled = bits_as<Vec>(magnitude) * 0x1p112f;
  const VecBits special = bits_as<VecBits>(scaled) | 0x7f800000u;  // infinity and NaN keep their payload
  const VecBits value = magnitude >= (0x7c00u << 13) ? special : bits_as<VecBits>(scaled);
  return bits_as<Vec>(value | ((bits & 0x8000u) << 16));
}

ACT_HD VecHalf narrow_half(Vec v) {
  const VecBits bits = bits_as<VecBits>(v);
  const VecBits magnitude = bits & 0x7fffffffu;
  // Below 2^-14 the result is denormal: adding 0.5 lets the float adder round at the 2^-24 position.
  const VecBits denormal = bits_as<VecBits>(bits_as<Vec>(magnitude) + splat(0.5f)) - 0x3f000000u;
  const VecBits normal = (magnitude - 0x38000000u + 0x0fffu + ((magnitude >> 13) & 1u)) >> 13;
  VecBits half = magnitude < 0x38800000u ? denormal : normal;
  half = magnitude >= 0x47800000u ? VecBits{} + 0x7c00u : half;  // rounding up to 2^16 gave 0x7c00 by itself
  half = magnitude > 0x7f800000u ? VecBits{} + 0x7e00u : half;
  return __builtin_convertvector(half | ((bits >> 16) & 0x8000u), VecHalf);
}
#endif

ACT_HD Vec load(const float* p) {
  return read<Vec>(p);
}

ACT_HD Vec load(const BFloat* p) {
  return bits_as<Vec>(__builtin_convertvector(read<VecHalf>(p), VecBits) << 16);
}

ACT_HD Vec load(const Half* p) {
#if ACT_LANES == 16
  return bits_as<Vec>(_mm512_cvtph_ps(read<__m256i>(p)));
#elif ACT_LANES == 8
  return bits_as<Vec>(_mm256_cvtph_ps(read<__m128i>(p)));
#else
  return widen_half(read<VecHalf>(p));
#endif
}

// uint8 images mean value / 255.
ACT_HD Vec load(const uint8_t* p) {
  return __builtin_convertvector(__builtin_convertvector(read<VecByte>(p), VecInt), Vec) / 255.0f;
}

ACT_HD void store(float* p, Vec v) {
  __builtin_memcpy(p, &v, sizeof(v));
}

ACT_HD void store(BFloat* p, Vec v) {
  const VecBits bits = bits_as<VecBits>(v);
  VecBits rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  rounded = v != v ? VecBits{} + 0x7fc0u : rounded;
  const VecHalf half = __builtin_convertvector(rounded, VecHalf);
  __builtin_memcpy(p, &half, sizeof(half));
}

ACT_HD void store(Half* p, Vec v) {
#if ACT_LANES == 16
  const __m256i half = _mm512_cvtps_ph(bits_as<__m512>(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif ACT_LANES == 8
  const __m128i half = _mm256_cvtps_ph(bits_as<__m256>(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  const VecHalf half = narrow_half(v);
#endif
  __builtin_memcpy(p, &half, sizeof(half));
}

// A store past the caches, for results larger than they are; p is aligned to the vector.
ACT_HD void stream(float* p, Vec v) {
#if ACT_LANES == 16
  _mm512_stream_ps(p, bits_as<__m512>(v));
#elif ACT_LANES == 8
  _mm256_stream_ps(p, bits_as<__m256>(v));
#elif defined(__SSE2__)
  _mm_stream_ps(p, bits_as<__m128>(v));
#else
  store(p, v);
#endif
}

// After the last `stream` and before another thread may be told of it: such stores are not ordered with others by themselves.
ACT_HD void end_streaming() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// v with `fill` in all lanes but the first `count`.
ACT_HD Vec first_lanes(Vec v, int64_t count, float fill = 0.0f) {
  VecInt lane;
  for (int64_t i = 0; i < kLanes; ++i) {
    lane[i] = static_cast<int32_t>(i);
  }
  return lane < static_cast<int32_t>(count) ? v : splat(fill);
}

// The first `count` < kLanes elements at p; the other lanes are `fill`.
template <class T>
ACT_HD Vec load_part(const T* p, int64_t count, float fill) {
  T padded[kLanes] = {};
  __builtin_memcpy(padded, p, count * sizeof(T));
  return first_lanes(load(padded), count, fill);
}

template <class T>
ACT_HD void store_part(T* p, Vec v, int64_t count) {
  T padded[kLanes];
  store(padded, v);
  __builtin_memcpy(p, padded, count * sizeof(T));
}

template <class T>
ACT_HD float load_one(const T* p) {
  return load_part(p, 1, 0.0f)[0];
}

template <class T>
ACT_HD void store_one(T* p, float value) {
  store_part(p, splat(value), 1);
}

// A sum of many vectors: floats over a few terms, doubles over all.
struct Sum {
  Vec few{};
  VecDouble all{};

  ACT_HD void add(Vec v) { few += v; }

  ACT_HD void settle() {
    all += __builtin_convertvector(few, VecDouble);
    few = Vec{};
  }

  ACT_HD double total() {
    settle();
    double result = 0.0;
    for (int64_t i = 0; i < kLanes; ++i) {
      result += all[i];
    }
    return result;
  }
};

// Largest lane; NaN lanes may be passed over (the sums of their row become NaN anyway).
ACT_HD float largest(Vec v) {
  float best = v[0];
  for (int64_t i = 1; i < kLanes; ++i) {
    best = v[i] > best ? v[i] : best;
  }
  return best;
}

// exp(v) for v <= 0, to about 1 ulp; 0 where the result would be denormal, NaN stays. exp(v) = 2^n · exp(r) with
// |r| <= ln(2) / 2, n · ln(2) subtracted in two parts (Cody and Waite), exp(r) by its Taylor polynomial with the last
// coefficients adjusted (Cephes expf).
ACT_HD Vec exp_negative(Vec v) {
  const Vec shifter = splat(0x1.8p23f);  // adding it rounds to an integer and leaves that in the low bits
  const Vec shifted = multiply_add(v, splat(0x1.715476p0f), shifter);
  const Vec n = shifted - shifter;
  Vec r = multiply_add(n, splat(-0x1.62e4p-1f), v);
  r = multiply_add(n, splat(-0x1.7f7d1cp-20f), r);
  Vec p = splat(1.9875691500e-4f);
  p = multiply_add(p, r, splat(1.3981999507e-3f));
  p = multiply_add(p, r, splat(8.3334519073e-3f));
  p = multiply_add(p, r, splat(4.1665795894e-2f));
  p = multiply_add(p, r, splat(1.6666665459e-1f));
  p = multiply_add(p, r, splat(5.0000001201e-1f));
  p = multiply_add(p, r * r, r) + 1.0f;
  const VecBits scaled = bits_as<VecBits>(p) + (bits_as<VecBits>(shifted) << 23);
  const Vec result = bits_as<Vec>(scaled);
  return v < splat(-87.0f) ? Vec{} : (v != v ? v : result);
}

// √v, rounded once.
ACT_HD Vec square_root(Vec v) {
#if ACT_LANES == 16
  return bits_as<Vec>(_mm512_sqrt_ps(bits_as<__m512>(v)));
#elif ACT_LANES == 8
  return bits_as<Vec>(_mm256_sqrt_ps(bits_as<__m256>(v)));
#elif defined(__SSE2__)
  return bits_as<Vec>(_mm_sqrt_ps(bits_as<__m128>(v)));
#else
  for (int64_t i = 0; i < kLanes; ++i) {
    v[i] = __builtin_sqrtf(v[i]);
  }
  return v;
#endif
}

// log(v) for normal v > 0 (Cephes' logf).
ACT_HD Vec log_positive(Vec v) {
  const VecBits bits = bits_as<VecBits>(v);
  const Vec m = bits_as<Vec>((bits & 0x7fffffu) | 0x3f000000u);
  const auto small = m < 0.70710678f;
  const Vec e = __builtin_convertvector(bits_as<VecInt>(bits >> 23) - 126 + bits_as<VecInt>(small), Vec);
  return log_of(small ? m + m : m, e);
}

// N(0, 1) from the high 24 bits of random words, as floats.
ACT_HD Vec normal(Vec steps) {
  const Vec q = (steps - 0x1p23f + 0.5f) * 0x1p-24f;
  const Vec size = q < 0.0f ? -q : q;
  const Vec tail = normal_tail(square_root(-log_positive(0.5f - size)));
  return size <= 0.425f ? normal_centre(q) : (q < 0.0f ? -tail : tail);
}

// High and low words of a · factor.
ACT_HD void multiply_wide(VecBits a, uint32_t factor, VecBits& high, VecBits& low) {
#if ACT_LANES == 16
  const __m512i v = bits_as<__m512i>(a);
  const __m512i by = _mm512_set1_epi32(static_cast<int>(factor));
  const __m512i even = _mm512_mul_epu32(v, by);
  const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(v, 32), by);
  high = bits_as<VecBits>(_mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd));
#elif ACT_LANES == 8
  const __m256i v = bits_as<__m256i>(a);
  const __m256i by = _mm256_set1_epi32(static_cast<int>(factor));
  const __m256i even = _mm256_mul_epu32(v, by);
  const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(v, 32), by);
  high = bits_as<VecBits>(_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa));
#else
  for (int64_t i = 0; i < kLanes; ++i) {
    high[i] = static_cast<uint32_t>((static_cast<uint64_t>(a[i]) * factor) >> 32);
  }
#endif
  low = a * factor;
}

// The words of Philox4x32-10 at kLanes counters from (counter, image) on: words[4 i + j] is word j of counter i.
ACT_HD void philox(uint32_t* words, uint64_t key, uint64_t counter, uint64_t image) {
  VecBits a, b;
  for (int64_t i = 0; i < kLanes; ++i) {
    a[i] = static_cast<uint32_t>(counter + i);
    b[i] = static_cast<uint32_t>((counter + i) >> 32);
  }
  VecBits c = VecBits{} + static_cast<uint32_t>(image);
  VecBits d = VecBits{} + static_cast<uint32_t>(image >> 32);
  uint32_t low = static_cast<uint32_t>(key);
  uint32_t high = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    VecBits high_a, low_a, high_c, low_c;
    multiply_wide(a, 0xD2511F53u, high_a, low_a);
    multiply_wide(c, 0xCD9E8D57u, high_c, low_c);
    a = high_c ^ b ^ low;
    b = low_c;
    c = high_a ^ d ^ high;
    d = low_a;
    low += 0x9E3779B9u;
    high += 0xBB67AE85u;
  }
#if ACT_LANES == 16
  // Transposed: in each group of 4 counters, then groups to their places.
  const __m512i ab_low = _mm512_unpacklo_epi32(bits_as<__m512i>(a), bits_as<__m512i>(b));
  const __m512i ab_high = _mm512_unpackhi_epi32(bits_as<__m512i>(a), bits_as<__m512i>(b));
  const __m512i cd_low = _mm512_unpacklo_epi32(bits_as<__m512i>(c), bits_as<__m512i>(d));
  const __m512i cd_high = _mm512_unpackhi_epi32(bits_as<__m512i>(c), bits_as<__m512i>(d));
  const __m512i first = _mm512_unpacklo_epi64(ab_low, cd_low);     // counters 0, 4, 8, 12
  const __m512i second = _mm512_unpackhi_epi64(ab_low, cd_low);    // 1, 5, 9, 13
  const __m512i third = _mm512_unpacklo_epi64(ab_high, cd_high);   // 2, 6, 10, 14
  const __m512i fourth = _mm512_unpackhi_epi64(ab_high, cd_high);  // 3, 7, 11, 15
  auto place = [&](int64_t group, __m128i v) { __builtin_memcpy(words + 4 * group, &v, sizeof(v)); };
  const __m512i all[] = {first, second, third, fourth};
  for (int64_t i = 0; i < 4; ++i) {
    place(i, _mm512_extracti32x4_epi32(all[i], 0));
    place(4 + i, _mm512_extracti32x4_epi32(all[i], 1));
    place(8 + i, _mm512_extracti32x4_epi32(all[i], 2));
    place(12 + i, _mm512_extracti32x4_epi32(all[i], 3));
  }
#else
  for (int64_t i = 0; i < kLanes; ++i) {
    words[4 * i] = a[i];
    words[4 * i + 1] = b[i];
    words[4 * i + 2] = c[i];
    words[4 * i + 3] = d[i];
  }
#endif
}
