// From tensors to the kernels' plain arguments, for the CPU's and CUDA's registration alike. Only libtorch's stable ABI
// is used here and beside: one binary serves every torch from 2.11 on.
//
// The tensors come from act_kernels/native.py, validated: images dense and of one layout, logits and labels contiguous.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <stdexcept>

#include "../arguments.h"

// The namespace of the ops in torch.ops, as act_kernels/ops.py has it.
#ifndef ACT_NAMESPACE
#define ACT_NAMESPACE act_kernels
#endif

namespace act {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

inline DType dtype_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return DType::float32;
    case ScalarType::Half:
      return DType::float16;
    case ScalarType::BFloat16:
      return DType::bfloat16;
    case ScalarType::Byte:
      return DType::uint8;
    default:
      throw std::runtime_error("act_kernels: no native kernel for this dtype");
  }
}

// One value for all, or a float32 tensor with one for each sample or channel.
inline void assign(const OptionalTensor& tensor, double number, const float*& several, float& one) {
  several = tensor.has_value() ? tensor->const_data_ptr<float>() : nullptr;
  one = static_cast<float>(number);
}

inline void* data_or_null(const OptionalTensor& t) {
  return t.has_value() ? t->mutable_data_ptr() : nullptr;
}

// The images and the bounds; the step and the radius, or the noise's scale, are the caller's to add.
inline ImageStep image_step(
    const Tensor& out,
    const Tensor& x_adv,
    const Tensor& grad,
    const Tensor& x,
    const OptionalTensor& lowers,
    double lower,
    const OptionalTensor& uppers,
    double upper) {
  ImageStep s{};
  s.out = out.mutable_data_ptr();
  s.x_adv = x_adv.const_data_ptr();
  s.grad = grad.const_data_ptr();
  s.x = x.const_data_ptr();
  s.dtype = dtype_of(x_adv);
  s.grad_dtype = dtype_of(grad);
  s.x_dtype = dtype_of(x);
  assign(lowers, lower, s.lowers, s.lower);
  assign(uppers, upper, s.uppers, s.upper);
  s.samples = x.size(0);
  s.sample_size = s.samples == 0 ? 0 : x.numel() / s.samples;
  s.channels = x.dim() > 1 ? x.size(1) : 1;
  s.inner = s.channels == 0 || !x.is_contiguous() ? 1 : s.sample_size / s.channels;
  return s;
}

// What both losses have in common; weights, losses and means are the caller's to add.
inline PairLoss pair_loss(
    const Tensor& z,
    const Tensor& t,
    const Tensor& labels,
    double temperature,
    double grad_scale,
    const OptionalTensor& grad_z,
    const OptionalTensor& grad_t) {
  PairLoss p{};
  p.z = z.const_data_ptr();
  p.t = t.const_data_ptr();
  p.labels = labels.const_data_ptr<int64_t>();
  p.dtype = dtype_of(z);
  p.rows = z.size(0);
  p.classes = z.size(1);
  p.temperature = static_cast<float>(temperature);
  p.grad_scale = static_cast<float>(grad_scale);
  p.grad_z = data_or_null(grad_z);
  p.grad_t = data_or_null(grad_t);
  return p;
}

}  // namespace act
