// act_loss and kl_ce_loss: one kernel for every loss and gradient of a row, and small ones for the batch's sums and for backward.
//
// A row passes three times: maxima, sums of exponentials, gradients. Only the first pass reads the logits from memory. Up
// to about 2,000 classes they and then their exponentials stay in registers; up to what two rows may take of shared memory
// (about 29,000 classes in float32, 58,000 in 16 bits on an H200) the logits stay there. Wider rows are read again, from
// the L2 cache where they fit.
#include <cuda_runtime.h>

#include <algorithm>
#include <atomic>

#include "../formulas.h"
#include "launch.h"
#include "reduce.cuh"
#include "vectors.cuh"

namespace act {
namespace {

constexpr float kLog2E = 1.44269504088896341f;

// 2 to the power v, to 2 units in the last place.
__device__ __forceinline__ float exp2_fast(float v) {
#if defined(__CUDACC__)
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(v));
  return result;
#else
  return exp2f(v);  // tests run these kernels on a CPU too
#endif
}

// 1 / v for sums of exponentials, to 1 unit in the last place.
__device__ __forceinline__ float inverse_fast(float v) {
#if defined(__CUDACC__)
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(v));
  return result;
#else
  return 1.0f / v;
#endif
}

// What turns the logits of a row into exponentials.
struct Scale {
  float max_z;
  float max_t;
  float inverse_T;
  float log2e_T;  // log2(e) / T
};

// One logit of each matrix relative to its row's maximum, a and b, and their exponentials.
struct Element {
  float a, b, exp_a, exp_b, exp_a_T, exp_b_T, difference;  // difference: (a − b) / T

  __device__ __forceinline__ Element() {}

  __device__ __forceinline__ Element(float z, float t, bool exists, const Scale& s) {
    constexpr float kVanishing = -1e30f;  // finite, so that exp() · (a − b) is 0 outside the row
    a = exists ? z - s.max_z : kVanishing;
    b = exists ? t - s.max_t : kVanishing;
    exp_a_T = exp2_fast(a * s.log2e_T);
    exp_b_T = exp2_fast(b * s.log2e_T);
    exp_a = s.inverse_T == 1.0f ? exp_a_T : exp2_fast(a * kLog2E);
    exp_b = s.inverse_T == 1.0f ? exp_b_T : exp2_fast(b * kLog2E);
    difference = (a - b) * s.inverse_T;
  }
};

// Where a row lies. Rows need not start on a 16-byte boundary: packs are counted from the boundary before the row, so
// that element e of pack c is number c · N + e − head of the row. A row's first and last pack go element by element, and
// all of them where the matrices themselves are not aligned.
template <class T>
struct Place {
  const T* z;
  const T* t;
  int classes;
  int head;
  bool aligned;

  static constexpr int N = kWidth<T>;

  __device__ __forceinline__ int packs() const { return (head + classes + N - 1) / N; }

  // Whether element j exists.
  __device__ __forceinline__ bool exists(int j) const { return static_cast<unsigned>(j) < static_cast<unsigned>(classes); }

  __device__ __forceinline__ bool in_one(int first) const { return aligned && first >= 0 && first + N <= classes; }

  __device__ __forceinline__ Pack<T, N> load(const T* row, int pack) const {
    const int first = pack * N - head;
    if (in_one(first)) {
      return load_pack<N>(row + first);
    }
    Pack<T, N> result{};
#pragma unroll
    for (int e = 0; e < N; ++e) {
      if (exists(first + e)) {
        result.data[e] = row[first + e];
      }
    }
    return result;
  }

  __device__ __forceinline__ void store(T* row, int pack, const Pack<T, N>& values) const {
    const int first = pack * N - head;
    if (in_one(first)) {
      return store_pack(row + first, values);
    }
#pragma unroll
    for (int e = 0; e < N; ++e) {
      if (exists(first + e)) {
        row[first + e] = values.data[e];
      }
    }
  }

  // Raises top[0] and top[1] to the pack's logits.
  __device__ __forceinline__ void maxima(int pack, const Pack<T, N>& of_z, const Pack<T, N>& of_t, float (&top)[2]) const {
#pragma unroll
    for (int e = 0; e < N; ++e) {
      if (exists(pack * N + e - head)) {
        top[0] = fmaxf(top[0], to_float(of_z.data[e]));
        top[1] = fmaxf(top[1], to_float(of_t.data[e]));
      }
    }
  }
};

// The homes of a row between its passes, for the packs of one thread:
//   maxima(top)            raises top[0] and top[1] to the logits of z and t; the first pass, and the first sight of them
//   each(scale, body)      body(element, j) for all elements, j their number in the row; the second pass
//   each_pack(scale, body) body(pack's number, at), where at(e) is element e of its N; the third
// kBlocks is how many blocks a multiprocessor should hold: the most that need no register spilled.
template <class T, int kThreads, int kPacks>
struct InRegisters {
  static constexpr bool kShared = false;
  static constexpr bool kLabelsAgain = false;
  static constexpr int kBlocks = kThreads <= 128 ? 5 : 2;
  static constexpr int N = kWidth<T>;
  Place<T> place;
  int lane;
  Pack<T, N> z[kPacks];
  Pack<T, N> t[kPacks];
  Element kept[kPacks * N];

  __device__ __forceinline__ InRegisters(const Place<T>& where, int thread, unsigned char*) : place(where), lane(thread) {
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      z[k] = place.load(place.z, k * kThreads + lane);
      t[k] = place.load(place.t, k * kThreads + lane);
    }
  }

  __device__ __forceinline__ void maxima(float (&top)[2]) {
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      place.maxima(k * kThreads + lane, z[k], t[k], top);
    }
  }

  template <class Body>
  __device__ __forceinline__ void each(const Scale& scale, Body body) {
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
#pragma unroll
      for (int e = 0; e < N; ++e) {
        const int j = (k * kThreads + lane) * N + e - place.head;
        kept[k * N + e] = Element(to_float(z[k].data[e]), to_float(t[k].data[e]), place.exists(j), scale);
        body(kept[k * N + e], j);
      }
    }
  }

  template <class Body>
  __device__ __forceinline__ void each_pack(const Scale&, Body body) {
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      body(k * kThreads + lane, [&](int e) { return kept[k * N + e]; });
    }
  }
};

// In shared memory, or (without kShared) in the device's: the exponentials are computed again. Each thread reads only what
// it wrote, so no barrier is needed.
template <class T, int kThreads, bool kInShared>
struct Streamed {
  static constexpr bool kShared = kInShared;
  static constexpr bool kLabelsAgain = true;  // read again for the third pass: in registers they would spill others
  static constexpr int kBlocks = kThreads <= 256 ? 3 : 2;
  static constexpr int N = kWidth<T>;
  using P = Pack<T, N>;
  Place<T> place;
  int lane;
  P* z;
  P* t;

  __device__ __forceinline__ Streamed(const Place<T>& where, int thread, unsigned char* shared) : place(where), lane(thread) {
    z = reinterpret_cast<P*>(shared);
    t = z + place.packs();
  }

  __device__ __forceinline__ void maxima(float (&top)[2]) {
#pragma unroll(kShared ? 1 : 2)
    for (int pack = lane; pack < place.packs(); pack += kThreads) {
      const P of_z = place.load(place.z, pack);
      const P of_t = place.load(place.t, pack);
      if constexpr (kShared) {
        z[pack] = of_z;
        t[pack] = of_t;
      }
      place.maxima(pack, of_z, of_t, top);
    }
  }

  template <class Body>
  __device__ __forceinline__ void each(const Scale& scale, Body body) {
    each_pack(scale, [&](int pack, auto at) {
#pragma unroll
      for (int e = 0; e < N; ++e) {
        body(at(e), pack * N + e - place.head);
      }
    });
  }

  template <class Body>
  __device__ __forceinline__ void each_pack(const Scale& scale, Body body) {
#pragma unroll 1
    for (int pack = lane; pack < place.packs(); pack += kThreads) {
      const P of_z = of(place.z, z, pack);
      const P of_t = of(place.t, t, pack);
      body(pack, [&](int e) {
        return Element(to_float(of_z.data[e]), to_float(of_t.data[e]), place.exists(pack * N + e - place.head), scale);
      });
    }
  }

 private:
  __device__ __forceinline__ P of(const T* row, const P* shared, int pack) const {
    if constexpr (kShared) {
      return load_whole(shared + pack);
    } else {
      return place.load(row, pack);
    }
  }
};

// The row's target before smoothing: a row of `dense`, or the shares of two classes (of one, where they are the same).
struct RowLabels {
  const float* dense;
  int first;
  int second;
  float first_share;
  float second_share;
  bool valid;
};

template <bool kDense>
__device__ __forceinline__ RowLabels row_labels(const PairLoss& p, int64_t row) {
  if constexpr (kDense) {
    return {p.dense + row * p.classes, 0, 0, 0.0f, 0.0f, true};
  }
  const int64_t first = p.labels[row];
  bool valid = first >= 0 && first < p.classes;
  RowLabels result{nullptr, static_cast<int>(first), 0, 1.0f, 0.0f, valid};
  if (p.other_labels != nullptr) {
    const int64_t second = p.other_labels[row];
    const float share = p.shares[row];
    result.valid = valid = valid && second >= 0 && second < p.classes;
    result.second = valid ? static_cast<int>(second) : 0;
    result.first_share = first == second ? share + (1.0f - share) : share;
    result.second_share = first == second ? 0.0f : 1.0f - share;
  }
  result.first = valid ? result.first : 0;
  return result;
}

// Second pass.
template <bool kDense, int kThreads, class Row>
__device__ __forceinline__ RowSums<float> row_sums(
    const PairLoss& p, Row& values, const Scale& scale, float* scratch, const RowLabels& labels, RowTarget<float>& u) {
  float sums[6] = {};
  float totals[2] = {};
  float dots[3] = {};
  values.each(scale, [&](const Element& v, int j) {
    sums[0] += v.exp_a;
    sums[1] += v.exp_b;
    sums[2] += v.exp_a_T;
    sums[3] += v.exp_b_T;
    sums[4] += v.exp_a_T * v.difference;
    sums[5] -= v.exp_b_T * v.difference;
    if (p.label_smoothing != 0.0f) {
      const bool exists = values.place.exists(j);
      totals[0] += exists ? v.a : 0.0f;
      totals[1] += exists ? v.b : 0.0f;
    }
    if constexpr (kDense) {
      const float share = values.place.exists(j) ? labels.dense[j] : 0.0f;
      dots[0] += share_of(share, v.a);
      dots[1] += share_of(share, v.b);
      dots[2] += share;
    }
  });
  reduce<kThreads>(sums, scratch, Add{});
  if (p.label_smoothing != 0.0f) {
    reduce<kThreads>(totals, scratch + 6 * 32, Add{});
  }
  if constexpr (kDense) {
    reduce<kThreads>(dots, scratch + 8 * 32, Add{});
    u = {dots[0], dots[1], dots[2], 0.0f};
  }
  return {sums[0], sums[1], sums[2], sums[3], sums[4], sums[5], totals[0], totals[1]};
}

// `less` less at element `label` of the pack, if it is one.
template <int N>
__device__ __forceinline__ void subtract(float (&values)[N], int label, float less) {
  if (static_cast<unsigned>(label) < static_cast<unsigned>(N)) {
#pragma unroll
    for (int e = 0; e < N; ++e) {
      values[e] -= e == label ? less : 0.0f;
    }
  }
}

// Stores one pack of a gradient, at_label · u less.
template <bool kDense, class T>
__device__ __forceinline__ void store_gradient(
    const Place<T>& place, T* grad, int pack, float (&values)[kWidth<T>], const RowLabels& u, float at_label) {
  constexpr int N = kWidth<T>;
  const int first = pack * N - place.head;
  if constexpr (kDense) {
#pragma unroll
    for (int e = 0; e < N; ++e) {
      values[e] -= place.exists(first + e) ? at_label * u.dense[first + e] : 0.0f;
    }
  } else {
    subtract(values, u.first - first, at_label * u.first_share);
    if (u.second_share != 0.0f) {
      subtract(values, u.second - first, at_label * u.second_share);
    }
  }
  Pack<T, N> result;
#pragma unroll
  for (int e = 0; e < N; ++e) {
    result.data[e] = from_float<T>(values[e]);
  }
  place.store(grad, pack, result);
}

// What the kernel takes beside the PairLoss.
struct Launch {
  float inverse_T;
  float log2e_T;
  bool aligned;
};

template <bool kDense, class T, int kThreads, int kRows, class Row>
__global__ void __launch_bounds__(kThreads * kRows, Row::kBlocks)
    pair_loss_kernel(const __grid_constant__ PairLoss p, const __grid_constant__ Launch launch) {
  constexpr int N = kWidth<T>;
  __shared__ float scratch[13 * 32];
  extern __shared__ __align__(16) unsigned char shared[];
  const int lane = kRows == 1 ? threadIdx.x : threadIdx.x % kThreads;
  int64_t row = static_cast<int64_t>(blockIdx.x) * kRows + threadIdx.x / kThreads;
  // All lanes of a warp take part in its shuffles: those beyond the last row compute that row too and write nothing.
  const bool written = kRows == 1 || row < p.rows;
  row = written ? row : p.rows - 1;
  const int64_t start = row * p.classes;
  const int classes = static_cast<int>(p.classes);
  const int head = launch.aligned ? static_cast<int>(start % N) : 0;
  const Place<T> place{static_cast<const T*>(p.z) + start, static_cast<const T*>(p.t) + start, classes, head, launch.aligned};

  // The label is read after the row's logits, and its own logits after the maxima: nothing waits for them.
  Row values(place, lane, shared);
  float top[2] = {-INFINITY, -INFINITY};
  values.maxima(top);
  RowLabels labels = row_labels<kDense>(p, row);
  reduce<kThreads>(top, scratch, Max{});
  RowTarget<float> u{0.0f, 0.0f, 1.0f, labels.valid ? 0.0f : NAN};
  if (!kDense && lane == 0) {
    u.dot_a = share_of(labels.first_share, to_float(place.z[labels.first]) - top[0]);
    u.dot_b = share_of(labels.first_share, to_float(place.t[labels.first]) - top[1]);
    if (labels.second_share != 0.0f) {
      u.dot_a += labels.second_share * (to_float(place.z[labels.second]) - top[0]);
      u.dot_b += labels.second_share * (to_float(place.t[labels.second]) - top[1]);
    }
  }
  const Scale scale{top[0], top[1], launch.inverse_T, launch.log2e_T};
  const RowSums<float> s = row_sums<kDense, kThreads>(p, values, scale, scratch + 2 * 32, labels, u);

  if (lane == 0 && written && p.loss_z != nullptr) {
    const Losses<float> loss = row_losses<float>(p, s, u, [](float v) { return logf(v); });
    p.loss_z[row] = loss.z;
    if (p.loss_t != nullptr) {
      p.loss_t[row] = loss.t;
    }
  }

  if constexpr (Row::kLabelsAgain) {
    labels = row_labels<kDense>(p, row);
  }
  const float inverse_a_T = inverse_fast(s.exp_a_T);
  const float inverse_b_T = inverse_fast(s.exp_b_T);
  auto terms = [&](float ce, float kl, float sum, float own_T, float other_T, float cross) {
    const float factor = labels.valid ? p.grad_scale : NAN;
    return gradient_terms<float, float, float>(
        factor, ce, kl, p.temperature, p.label_smoothing, classes, u.mass, inverse_fast(sum), own_T, other_T, cross);
  };
  const GradientTerms<float> of_z = terms(p.ce_z, p.kl_z, s.exp_a, inverse_a_T, inverse_b_T, 0.0f);
  const GradientTerms<float> of_t = terms(p.ce_t, p.joint ? p.kl_z : p.kl_t, s.exp_b, inverse_b_T, inverse_a_T, s.cross_b);
  T* grad_z = p.grad_z != nullptr && written ? static_cast<T*>(p.grad_z) + start : nullptr;
  T* grad_t = p.grad_t != nullptr && written ? static_cast<T*>(p.grad_t) + start : nullptr;
  if (p.grad_z != nullptr || p.grad_t != nullptr) {
    values.each_pack(scale, [&](int pack, auto at) {
      float to_z[N], to_t[N];
#pragma unroll
      for (int e = 0; e < N; ++e) {
        const Element v = at(e);
        to_z[e] = student_gradient(of_z, v.exp_a, v.exp_a_T, v.exp_b_T);
        to_t[e] = p.joint ? teacher_gradient(of_t, v.exp_b, v.exp_b_T, -v.difference)
                          : student_gradient(of_t, v.exp_b, v.exp_b_T, v.exp_a_T);
      }
      if (grad_z != nullptr) {
        store_gradient<kDense>(place, grad_z, pack, to_z, labels, of_z.at_label);
      }
      if (grad_t != nullptr) {
        store_gradient<kDense>(place, grad_t, pack, to_t, labels, of_t.at_label);
      }
    });
  }
}

// *sums.z = share · Σ values.z and likewise t, a block each, added up in double and in a fixed order.
constexpr int kSumThreads = 512;

__global__ void __launch_bounds__(kSumThreads)
    sum_kernel(const __grid_constant__ RowValues values, int64_t rows, double share, const __grid_constant__ Sums sums) {
  const float* mine = blockIdx.x == 0 ? values.z : values.t;
  double total[1] = {};
#pragma unroll 4
  for (int64_t row = threadIdx.x; row < rows; row += kSumThreads) {
    total[0] += mine[row];
  }
  __shared__ double scratch[32];
  reduce<kSumThreads>(total, scratch, Add{});
  if (threadIdx.x == 0) {
    *(blockIdx.x == 0 ? sums.z : sums.t) = static_cast<float>(share * total[0]);
  }
}

// Both gradients times one factor, every other block's each; they find on the device that it is 1, and then touch nothing.
constexpr int kRescaleThreads = 256;

template <class T>
__global__ void __launch_bounds__(kRescaleThreads) rescale_kernel(const __grid_constant__ Rescale r, bool aligned) {
  constexpr int N = kWidth<T>;
  const int side = blockIdx.x % 2;
  T* grad = static_cast<T*>(r.grads[side]);
  if (grad == nullptr) {
    return;
  }
  const float factor = r.scale * *r.factor;
  if (factor == 1.0f) {
    return;
  }
  const int64_t whole = aligned ? r.elements / N : 0;
  const int64_t step = static_cast<int64_t>(gridDim.x / 2) * kRescaleThreads;
  const int64_t thread = static_cast<int64_t>(blockIdx.x / 2) * kRescaleThreads + threadIdx.x;
  for (int64_t pack = thread; pack < whole; pack += step) {
    Pack<T, N> values = load_pack<N>(grad + pack * N);
#pragma unroll
    for (int e = 0; e < N; ++e) {
      values.data[e] = from_float<T>(factor * to_float(values.data[e]));
    }
    store_pack(grad + pack * N, values);
  }
  for (int64_t i = whole * N + thread; i < r.elements; i += step) {
    grad[i] = from_float<T>(factor * to_float(grad[i]));
  }
}

// Bytes of shared memory that a block may have for a row, beside what the kernel and the driver use.
int64_t shared_room(int device) {
  constexpr int64_t kStatic = 4096;
  int most = 0;
  cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  return most - kStatic;
}

// Shared memory for a row of both matrices, which may begin and end inside a pack.
template <class T>
int64_t row_bytes(int64_t classes) {
  return 2 * (classes / kWidth<T> + 2) * 16;
}

// Lets the kernel ask for all of shared_room: once a device, so that no thread lowers what another has just asked for.
template <class Kernel>
cudaError_t allow_shared(Kernel kernel, int device, int64_t room) {
  constexpr int kDevices = 64;
  static std::atomic<bool> allowed[kDevices];
  if (device < kDevices && allowed[device].load(std::memory_order_acquire)) {
    return cudaSuccess;
  }
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(room));
  if (error == cudaSuccess && device < kDevices) {
    allowed[device].store(true, std::memory_order_release);
  }
  return error;
}

template <bool kDense, class T, int kThreads, int kRows, class Row>
cudaError_t launch_rows_of(const PairLoss& p, int device, cudaStream_t stream) {
  constexpr int N = kWidth<T>;
  const auto kernel = pair_loss_kernel<kDense, T, kThreads, kRows, Row>;
  size_t shared = 0;
  if (Row::kShared) {
    shared = row_bytes<T>(p.classes);
    const cudaError_t error = allow_shared(kernel, device, shared_room(device));
    if (error != cudaSuccess) {
      return error;
    }
  }
  const double inverse_T = 1.0 / p.temperature;
  Launch arguments{static_cast<float>(inverse_T), static_cast<float>(kLog2E * inverse_T), false};
  arguments.aligned =
      is_aligned<T, N>(p.z) && is_aligned<T, N>(p.t) && is_aligned<T, N>(p.grad_z) && is_aligned<T, N>(p.grad_t);
  const int64_t blocks = (p.rows + kRows - 1) / kRows;
  kernel<<<static_cast<unsigned>(blocks), kThreads * kRows, shared, stream>>>(p, arguments);
  return cudaGetLastError();
}

template <class T, int kThreads, int kRows, class Row>
cudaError_t launch(const PairLoss& p, int device, cudaStream_t stream) {
  return p.dense != nullptr ? launch_rows_of<true, T, kThreads, kRows, Row>(p, device, stream)
                            : launch_rows_of<false, T, kThreads, kRows, Row>(p, device, stream);
}

template <class T>
cudaError_t launch_for(const PairLoss& p, cudaStream_t stream) {
  // 8 elements a thread of each matrix; a row's first pack may begin before it.
  constexpr int kPacks = 8 / kWidth<T>;
  constexpr int kMargin = kWidth<T> - 1;
  if (p.classes <= 8 * 8 - kMargin) {
    return launch<T, 8, 16, InRegisters<T, 8, kPacks>>(p, 0, stream);
  }
  if (p.classes <= 32 * 8 - kMargin) {
    return launch<T, 32, 4, InRegisters<T, 32, kPacks>>(p, 0, stream);
  }
  if (p.classes <= 128 * 8 - kMargin) {
    return launch<T, 128, 1, InRegisters<T, 128, kPacks>>(p, 0, stream);
  }
  if (p.classes <= 256 * 8 - kMargin) {
    return launch<T, 256, 1, InRegisters<T, 256, kPacks>>(p, 0, stream);
  }
  int device = 0;
  const cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) {
    return error;
  }
  if (row_bytes<T>(p.classes) <= shared_room(device)) {
    return launch<T, 512, 1, Streamed<T, 512, true>>(p, device, stream);
  }
  return launch<T, 256, 1, Streamed<T, 256, false>>(p, device, stream);
}

}  // namespace

cudaError_t launch_pair_loss(const PairLoss& p, cudaStream_t stream) {
  if (p.classes > (int64_t{1} << 30) || p.rows > (int64_t{1} << 31) - 1) {
    return cudaErrorInvalidValue;
  }
  if (p.rows == 0) {
    return cudaSuccess;
  }
  switch (p.dtype) {
    case DType::float32:
      return launch_for<float>(p, stream);
    case DType::float16:
      return launch_for<__half>(p, stream);
    case DType::bfloat16:
      return launch_for<__nv_bfloat16>(p, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

cudaError_t launch_sums(const RowValues& values, int64_t rows, double share, const Sums& sums, cudaStream_t stream) {
  const unsigned blocks = sums.t == nullptr ? 1 : 2;
  sum_kernel<<<blocks, kSumThreads, 0, stream>>>(values, rows, share, sums);
  return cudaGetLastError();
}

template <class T>
cudaError_t launch_rescale_of(const Rescale& r, cudaStream_t stream) {
  constexpr int N = kWidth<T>;
  constexpr int64_t kMostBlocks = 2048;
  const bool aligned = is_aligned<T, N>(r.grads[0]) && is_aligned<T, N>(r.grads[1]);
  const int64_t blocks = std::min<int64_t>((r.elements / N + kRescaleThreads) / kRescaleThreads, kMostBlocks);
  rescale_kernel<T><<<static_cast<unsigned>(2 * blocks), kRescaleThreads, 0, stream>>>(r, aligned);
  return cudaGetLastError();
}

cudaError_t launch_rescale(const Rescale& r, cudaStream_t stream) {
  switch (r.dtype) {
    case DType::float32:
      return launch_rescale_of<float>(r, stream);
    case DType::float16:
      return launch_rescale_of<__half>(r, stream);
    case DType::bfloat16:
      return launch_rescale_of<__nv_bfloat16>(r, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace act
