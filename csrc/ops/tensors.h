// From tensors to the kernels' plain arguments. Only libtorch's stable ABI is used here and beside: one binary serves every
// torch from 2.11 on.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <string>

#include "../arguments.h"

// The namespace of the ops in torch.ops, as act_kernels/ops.py has it.
#ifndef ACT_NAMESPACE
#define ACT_NAMESPACE act_kernels
#endif

namespace act {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

// What a kernel computes in: false for every other dtype.
inline bool dtype_of(const Tensor& t, DType& dtype) {
  switch (t.scalar_type()) {
    case ScalarType::Float:
      dtype = DType::float32;
      return true;
    case ScalarType::Half:
      dtype = DType::float16;
      return true;
    case ScalarType::BFloat16:
      dtype = DType::bfloat16;
      return true;
    default:
      return false;
  }
}

inline bool same_device(const Tensor& a, const Tensor& b) {
  return a.is_cuda() == b.is_cuda() && a.is_cpu() == b.is_cpu() && a.get_device_index() == b.get_device_index();
}

inline bool same_shape(const Tensor& a, const Tensor& b) {
  if (a.dim() != b.dim()) {
    return false;
  }
  for (int64_t i = 0; i < a.dim(); ++i) {
    if (a.size(i) != b.size(i)) {
      return false;
    }
  }
  return true;
}

// The order of a dense tensor's dimensions in memory: as they are numbered, or with the channels last.
enum class Layout { contiguous, channels_last, other };

inline Layout layout_of(const Tensor& t) {
  if (t.is_contiguous()) {
    return Layout::contiguous;
  }
  if (t.dim() != 4 && t.dim() != 5) {
    return Layout::other;
  }
  int64_t expected = 1;
  auto fits = [&](int64_t i) {
    const bool fit = t.size(i) == 1 || t.stride(i) == expected;
    expected *= t.size(i);
    return fit;
  };
  bool all = fits(1);
  for (int64_t i = t.dim() - 1; i >= 2; --i) {
    all = fits(i) && all;
  }
  return fits(0) && all ? Layout::channels_last : Layout::other;
}

inline bool is_vector(const Tensor& t, ScalarType type, int64_t length, const Tensor& like) {
  return t.scalar_type() == type && t.dim() == 1 && t.size(0) == length && t.is_contiguous() && same_device(t, like);
}

}  // namespace act
