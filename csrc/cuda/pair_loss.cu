// act_loss and kl_ce_loss: one kernel for every loss and gradient, and for act_loss's batch means.
//
// A row passes three times: maxima, sums of exponentials, gradients. Only the first pass reads the logits from memory;
// up to 4096 classes they then stay in registers, and up to what two rows may take of shared memory (about 29,000 classes
// in float32, 58,000 in 16 bits on an H200) they stay there. Wider rows are read again, from the L2 cache where they fit.
//
// act_loss's means are added up by the last block to finish, in a fixed order: no second launch, no atomic sums.
#include <cuda_runtime.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <utility>

#include "../math.h"
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
};

// The three homes of a row between its passes. kBlocks is how many blocks a multiprocessor should hold, the most that need
// no register spilled. each(body) calls body(pack number, z's pack, t's pack) for the thread's
// packs; load() also does, on first sight of the data.
template <class T, int kThreads, int kPacks>
struct InRegisters {
  static constexpr bool kShared = false;
  static constexpr int kBlocks = kThreads <= 128 ? 5 : 1;
  using P = Pack<T, kWidth<T>>;
  P z[kPacks];
  P t[kPacks];
  Place<T> place;
  int lane;

  __device__ __forceinline__ InRegisters(const Place<T>& where, int thread, unsigned char*) : place(where), lane(thread) {
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      z[k] = place.load(place.z, k * kThreads + lane);
      t[k] = place.load(place.t, k * kThreads + lane);
    }
  }

  template <class Body>
  __device__ __forceinline__ void each(Body body) {
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      body(k * kThreads + lane, z[k], t[k]);
    }
  }

  template <class Body>
  __device__ __forceinline__ void load(Body body) {
    each(body);
  }
};

template <class T, int kThreads>
struct InShared {
  static constexpr bool kShared = true;
  static constexpr int kBlocks = 1;  // 2, which shared memory has room for with 16-bit types, spills on sm_90
  using P = Pack<T, kWidth<T>>;
  Place<T> place;
  int lane;
  P* z;
  P* t;

  __device__ __forceinline__ InShared(const Place<T>& where, int thread, unsigned char* shared) : place(where), lane(thread) {
    z = reinterpret_cast<P*>(shared);
    t = z + place.packs();
  }

  // Each thread reads only what it wrote, so no barrier is needed.
  template <class Body>
  __device__ __forceinline__ void each(Body body) {
    for (int pack = lane; pack < place.packs(); pack += kThreads) {
      body(pack, z[pack], t[pack]);
    }
  }

  template <class Body>
  __device__ __forceinline__ void load(Body body) {
#pragma unroll 2
    for (int pack = lane; pack < place.packs(); pack += kThreads) {
      const P of_z = place.load(place.z, pack);
      const P of_t = place.load(place.t, pack);
      z[pack] = of_z;
      t[pack] = of_t;
      body(pack, of_z, of_t);
    }
  }
};

template <class T, int kThreads>
struct InMemory {
  static constexpr bool kShared = false;
  static constexpr int kBlocks = 1;
  Place<T> place;
  int lane;

  __device__ __forceinline__ InMemory(const Place<T>& where, int thread, unsigned char*) : place(where), lane(thread) {}

  template <class Body>
  __device__ __forceinline__ void each(Body body) {
#pragma unroll 2
    for (int pack = lane; pack < place.packs(); pack += kThreads) {
      body(pack, place.load(place.z, pack), place.load(place.t, pack));
    }
  }

  template <class Body>
  __device__ __forceinline__ void load(Body body) {
    each(body);
  }
};

// What turns the logits of a row into exponentials.
struct Scale {
  float max_z;
  float max_t;
  float inverse_T;
  float log2e_T;  // log2(e) / T
};

// One logit of each matrix, relative to its row's maximum, and their exponentials.
struct Element {
  float a, b, exp_a, exp_b, exp_a_T, exp_b_T;

  __device__ __forceinline__ Element(float z, float t, bool exists, const Scale& s) {
    constexpr float kVanishing = -1e30f;  // finite, so that exp() · (a − b) is 0 outside the row
    a = exists ? z - s.max_z : kVanishing;
    b = exists ? t - s.max_t : kVanishing;
    exp_a_T = exp2_fast(a * s.log2e_T);
    exp_b_T = exp2_fast(b * s.log2e_T);
    exp_a = s.inverse_T == 1.0f ? exp_a_T : exp2_fast(a * kLog2E);
    exp_b = s.inverse_T == 1.0f ? exp_b_T : exp2_fast(b * kLog2E);
  }
};

struct Losses {
  float z;
  float t;
};

// `z` and `t` are the label's logits relative to their maxima.
__device__ __forceinline__ Losses losses(const PairLoss& p, const RowSums& s, float z, float t, bool valid) {
  const double T2 = static_cast<double>(p.temperature) * p.temperature;
  const double ce_z = p.ce_z * cross_entropy(s.exp_a, z, s.total_a, p.label_smoothing, p.classes);
  const double ce_t = p.ce_t * cross_entropy(s.exp_b, t, s.total_b, p.label_smoothing, p.classes);
  const double kl_z = p.kl_z * T2 * kl_divergence(s.cross_b, s.exp_b_T, s.exp_a_T);
  const double kl_t = p.kl_t * T2 * kl_divergence(s.cross_a, s.exp_a_T, s.exp_b_T);
  const double nothing = valid ? 0.0 : NAN;
  return {static_cast<float>((p.joint ? ce_z + ce_t : ce_z) + kl_z + nothing), static_cast<float>(ce_t + kl_t + nothing)};
}

// Second pass.
template <int kThreads, int N, class Row>
__device__ __forceinline__ RowSums row_sums(const PairLoss& p, Row& values, const Scale& scale, float* scratch) {
  float sums[6] = {};
  float totals[2] = {};
  values.each([&](int pack, const auto& z, const auto& t) {
#pragma unroll
    for (int e = 0; e < N; ++e) {
      const bool exists = values.place.exists(pack * N + e - values.place.head);
      const Element v(to_float(z.data[e]), to_float(t.data[e]), exists, scale);
      const float difference = (v.a - v.b) * scale.inverse_T;
      sums[0] += v.exp_a;
      sums[1] += v.exp_b;
      sums[2] += v.exp_a_T;
      sums[3] += v.exp_b_T;
      sums[4] += v.exp_a_T * difference;
      sums[5] -= v.exp_b_T * difference;
      if (p.label_smoothing != 0.0f) {
        totals[0] += exists ? v.a : 0.0f;
        totals[1] += exists ? v.b : 0.0f;
      }
    }
  });
  reduce<kThreads>(sums, scratch, Add{});
  if (p.label_smoothing != 0.0f) {
    reduce<kThreads>(totals, scratch + 6 * 32, Add{});
  }
  return {sums[0], sums[1], sums[2], sums[3], sums[4], sums[5], totals[0], totals[1]};
}

// Third pass: grad[j] = formula(element j), and at_label less at the label.
template <class T, class Row, class Formula>
__device__ __forceinline__ void write_gradient(
    T* grad, Row& values, const Scale& scale, int label, float at_label, Formula formula) {
  constexpr int N = kWidth<T>;
  const Place<T>& place = values.place;
  values.each([&](int pack, const auto& z, const auto& t) {
    const int first = pack * N - place.head;
    float g[N];
#pragma unroll
    for (int e = 0; e < N; ++e) {
      g[e] = formula(Element(to_float(z.data[e]), to_float(t.data[e]), place.exists(first + e), scale));
    }
    if (static_cast<unsigned>(label - first) < static_cast<unsigned>(N)) {
#pragma unroll
      for (int e = 0; e < N; ++e) {
        g[e] -= e == label - first ? at_label : 0.0f;
      }
    }
    Pack<T, N> result;
#pragma unroll
    for (int e = 0; e < N; ++e) {
      result.data[e] = from_float<T>(g[e]);
    }
    place.store(grad, pack, result);
  });
}

template <class T, int kThreads, class Row>
__device__ __forceinline__ Losses one_row(
    const PairLoss& p, int64_t row, int lane, bool aligned, float* scratch, unsigned char* shared) {
  constexpr int N = kWidth<T>;
  const int64_t start = row * p.classes;
  const int classes = static_cast<int>(p.classes);
  const int head = aligned ? static_cast<int>(start % N) : 0;
  const Place<T> place{static_cast<const T*>(p.z) + start, static_cast<const T*>(p.t) + start, classes, head, aligned};
  const int64_t label = p.labels[row];
  const bool valid = label >= 0 && label < p.classes;
  const int at = valid ? static_cast<int>(label) : 0;
  const float z_label = to_float(place.z[at]);
  const float t_label = to_float(place.t[at]);

  float top[2] = {-INFINITY, -INFINITY};
  Row values(place, lane, shared);
  values.load([&](int pack, const auto& z, const auto& t) {
#pragma unroll
    for (int e = 0; e < N; ++e) {
      if (place.exists(pack * N + e - head)) {
        top[0] = fmaxf(top[0], to_float(z.data[e]));
        top[1] = fmaxf(top[1], to_float(t.data[e]));
      }
    }
  });
  reduce<kThreads>(top, scratch, Max{});
  const float T1 = p.temperature;
  const Scale scale{top[0], top[1], 1.0f / T1, kLog2E / T1};
  const RowSums s = row_sums<kThreads, N>(p, values, scale, scratch + 2 * 32);

  const float factor = valid ? p.grad_scale : NAN;
  const float smoothing = p.label_smoothing;
  if (p.grad_z != nullptr) {
    const StudentTerms k = student_terms(factor, p.ce_z, p.kl_z, T1, smoothing, classes, s.exp_a, s.exp_a_T, s.exp_b_T);
    write_gradient(static_cast<T*>(p.grad_z) + start, values, scale, at, k.at_label, [&](const Element& v) {
      return student_gradient(k, v.exp_a, v.exp_a_T, v.exp_b_T);
    });
  }
  if (p.grad_t != nullptr && !p.joint) {
    const StudentTerms k = student_terms(factor, p.ce_t, p.kl_t, T1, smoothing, classes, s.exp_b, s.exp_b_T, s.exp_a_T);
    write_gradient(static_cast<T*>(p.grad_t) + start, values, scale, at, k.at_label, [&](const Element& v) {
      return student_gradient(k, v.exp_b, v.exp_b_T, v.exp_a_T);
    });
  }
  if (p.grad_t != nullptr && p.joint) {
    const TeacherTerms k = teacher_terms(factor, p.ce_t, p.kl_z, T1, smoothing, classes, s.exp_b, s.exp_b_T, s.cross_b);
    write_gradient(static_cast<T*>(p.grad_t) + start, values, scale, at, k.at_label, [&](const Element& v) {
      return teacher_gradient(k, v.exp_b, v.exp_b_T, (v.b - v.a) * scale.inverse_T);
    });
  }
  return lane == 0 ? losses(p, s, z_label - top[0], t_label - top[1], valid) : Losses{};
}

// Blocks of a launch that have finished: zero between launches. Launches that may overlap need counters of their own.
constexpr int kCounters = 256;
__device__ unsigned counters[kCounters];

// Adds up the blocks' sums of losses: the last block to come here writes the batch means and resets the counter.
template <int kBlock>
__device__ __forceinline__ void finish_means(double (&total)[2], double2* partials, unsigned* counter, float* means, int64_t rows) {
  __shared__ double scratch[2 * 32];
  __shared__ bool last;
  reduce<kBlock>(total, scratch, Add{});
  if (threadIdx.x == 0) {
    partials[blockIdx.x] = make_double2(total[0], total[1]);
    __threadfence();
    last = atomicInc(counter, gridDim.x - 1) == gridDim.x - 1;  // wraps to 0, ready for the next launch
    __threadfence();
  }
  __syncthreads();
  if (!last) {
    return;
  }
  total[0] = total[1] = 0.0;
#pragma unroll 8
  for (unsigned i = threadIdx.x; i < gridDim.x; i += kBlock) {
    const double2 partial = __ldcg(partials + i);
    total[0] += partial.x;
    total[1] += partial.y;
  }
  reduce<kBlock>(total, scratch, Add{});
  if (threadIdx.x == 0) {
    means[0] = static_cast<float>(total[0] / static_cast<double>(rows));
    means[1] = static_cast<float>(total[1] / static_cast<double>(rows));
  }
}

// Where the batch means go, and what they take; without `means` there are none.
struct Means {
  float* means;
  double2* partials;  // one a block
  unsigned* counter;  // null: counters[slot]
  int slot;
};

template <class T, int kThreads, int kRows, class Row>
__global__ void __launch_bounds__(kThreads * kRows, Row::kBlocks)
    pair_loss_kernel(const __grid_constant__ PairLoss p, const __grid_constant__ Means m, bool aligned) {
  __shared__ float scratch[10 * 32];
  extern __shared__ __align__(16) unsigned char shared[];
  const int lane = kRows == 1 ? threadIdx.x : threadIdx.x % kThreads;
  double total[2] = {0.0, 0.0};
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * kRows + threadIdx.x / kThreads; row < p.rows;
       row += static_cast<int64_t>(gridDim.x) * kRows) {
    const Losses loss = one_row<T, kThreads, Row>(p, row, lane, aligned, scratch, shared);
    total[0] += loss.z;
    total[1] += loss.t;
    if (lane == 0 && p.loss_z != nullptr) {
      p.loss_z[row] = loss.z;
    }
    if (lane == 0 && p.loss_t != nullptr) {
      p.loss_t[row] = loss.t;
    }
  }
  if (m.means != nullptr) {
    unsigned* counter = m.counter != nullptr ? m.counter : counters + m.slot;
    finish_means<kThreads * kRows>(total, m.partials, counter, m.means, p.rows);
  }
}

int device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&value, attribute, device);
  return value;
}

// More blocks than ever run at a time would only add partial sums for the last block to read.
constexpr int kBlocksPerProcessor = 16;

// Shared memory for a row of both matrices, which may begin and end inside a pack.
template <class T>
int64_t row_bytes(int64_t classes) {
  return 2 * (classes / kWidth<T> + 2) * 16;
}

int64_t most_blocks() {
  return static_cast<int64_t>(kBlocksPerProcessor) * device_attribute(cudaDevAttrMultiProcessorCount);
}

// The number of a counter that belongs to the stream alone, whose launches run one after the other; -1 when there is none.
int counter_slot(cudaStream_t stream) {
  static std::mutex mutex;
  static std::map<std::pair<int, cudaStream_t>, int> slots;
  int device = 0;
  cudaGetDevice(&device);
  const std::lock_guard<std::mutex> lock(mutex);
  const auto [entry, added] = slots.try_emplace({device, stream}, static_cast<int>(slots.size()));
  return entry->second < kCounters ? entry->second : -1;
}

// A captured graph may be replayed beside anything, and all threads call their own default stream by one name: such
// launches get a counter in `scratch`, zeroed before each.
cudaError_t prepare_means(float* means, void* scratch, int64_t blocks, cudaStream_t stream, Means& m) {
  m = {means, static_cast<double2*>(scratch), nullptr, -1};
  if (means == nullptr) {
    return cudaSuccess;
  }
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  const cudaError_t error = cudaStreamIsCapturing(stream, &capture);
  if (error != cudaSuccess) {
    return error;
  }
  if (capture == cudaStreamCaptureStatusNone && stream != cudaStreamPerThread) {
    m.slot = counter_slot(stream);
  }
  if (m.slot >= 0) {
    return cudaSuccess;
  }
  m.counter = reinterpret_cast<unsigned*>(m.partials + blocks);
  return cudaMemsetAsync(m.counter, 0, sizeof(unsigned), stream);
}

template <class T, int kThreads, int kRows, class Row>
cudaError_t launch(const PairLoss& p, float* means, void* scratch, cudaStream_t stream) {
  constexpr int N = kWidth<T>;
  const auto kernel = pair_loss_kernel<T, kThreads, kRows, Row>;
  size_t shared = 0;
  if (Row::kShared) {
    shared = row_bytes<T>(p.classes);
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
    if (error != cudaSuccess) {
      return error;
    }
  }
  const bool aligned =
      is_aligned<T, N>(p.z) && is_aligned<T, N>(p.t) && is_aligned<T, N>(p.grad_z) && is_aligned<T, N>(p.grad_t);
  const int64_t blocks = std::min((p.rows + kRows - 1) / kRows, most_blocks());
  Means m;
  const cudaError_t error = prepare_means(means, scratch, blocks, stream, m);
  if (error != cudaSuccess) {
    return error;
  }
  kernel<<<static_cast<unsigned>(blocks), kThreads * kRows, shared, stream>>>(p, m, aligned);
  return cudaGetLastError();
}

template <class T>
cudaError_t launch_for(const PairLoss& p, float* means, void* scratch, cudaStream_t stream) {
  // 8 elements a thread of each matrix; a row's first pack may begin before it.
  constexpr int kPacks = 8 / kWidth<T>;
  constexpr int kMargin = kWidth<T> - 1;
  constexpr int64_t kStatic = 4096;  // shared memory that the kernel and the driver use beside the row
  if (p.classes <= 32 * 8 - kMargin) {
    return launch<T, 32, 4, InRegisters<T, 32, kPacks>>(p, means, scratch, stream);
  }
  if (p.classes <= 128 * 8 - kMargin) {
    return launch<T, 128, 1, InRegisters<T, 128, kPacks>>(p, means, scratch, stream);
  }
  if (p.classes <= 512 * 8 - kMargin) {
    return launch<T, 512, 1, InRegisters<T, 512, kPacks>>(p, means, scratch, stream);
  }
  const int64_t room = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) - kStatic;
  if (row_bytes<T>(p.classes) <= room) {
    return launch<T, 512, 1, InShared<T, 512>>(p, means, scratch, stream);
  }
  return launch<T, 512, 1, InMemory<T, 512>>(p, means, scratch, stream);
}

}  // namespace

int64_t pair_loss_scratch(const PairLoss& p) {
  return std::min(p.rows, most_blocks()) * static_cast<int64_t>(sizeof(double2)) + static_cast<int64_t>(sizeof(unsigned));
}

cudaError_t launch_pair_loss(const PairLoss& p, float* means, void* scratch, cudaStream_t stream) {
  if (p.classes > (int64_t{1} << 30)) {
    return cudaErrorInvalidValue;
  }
  switch (p.dtype) {
    case DType::float32:
      return launch_for<float>(p, means, scratch, stream);
    case DType::float16:
      return launch_for<__half>(p, means, scratch, stream);
    case DType::bfloat16:
      return launch_for<__nv_bfloat16>(p, means, scratch, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace act
