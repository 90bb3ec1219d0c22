// The ops, registered for the schemas `NAME.native` of act_kernels/ops.py: each library (cpu.cpp, cuda.cpp) says how its
// kernels run, and registers these.
//
// Each returns false, and does nothing, where its tensors or numbers are not what its kernels take: act_kernels then goes
// the long way, which lays the tensors out, or tells the user what was wrong. (An exception from here would reach Python
// without its type, and a call in the usual form would pay for looking twice.)
#pragma once

#include <algorithm>
#include <cmath>

#include "tensors.h"

namespace act {
namespace {

enum class Reduction { none, mean, sum };

// What a library defines.
void run_step(const ImageStep& s, bool l2, const Tensor& out);
void run_random_start(const ImageStep& s, const Tensor& out);
// `losses`: where the reduced losses go, z's and t's; null where they are not wanted, or not reduced.
void run_pair_loss(PairLoss p, Reduction reduction, float* const (&losses)[2], const Tensor& z);
bool labels_are_classes(const PairLoss& p);

// A number, or a float32 tensor with one value for each sample or channel.
struct Parameter {
  const OptionalTensor& tensor;
  double number;

  bool fits(int64_t length, const Tensor& images) const {
    return tensor.has_value() ? is_vector(*tensor, ScalarType::Float, length, images) : number == number;
  }

  void assign(const float*& several, float& one) const {
    several = tensor.has_value() ? tensor->const_data_ptr<float>() : nullptr;
    one = static_cast<float>(number);
  }
};

struct Bounds {
  Parameter lower;
  Parameter upper;

  bool fit(int64_t channels, const Tensor& images) const {
    const bool ordered = lower.tensor.has_value() || upper.tensor.has_value() || lower.number <= upper.number;
    return ordered && lower.fits(channels, images) && upper.fits(channels, images);
  }
};

// Describes dense images of one shape and layout; false where they are not.
bool image_step(const Tensor& out, const Tensor& x_adv, const Tensor& grad, const Tensor& x, const Bounds& bounds, ImageStep& s) {
  if (!dtype_of(out, s.dtype) || !dtype_of(grad, s.grad_dtype) || x_adv.scalar_type() != out.scalar_type() || out.dim() < 1) {
    return false;
  }
  if (x.scalar_type() == ScalarType::Byte) {
    s.x_dtype = DType::uint8;
  } else if (!dtype_of(x, s.x_dtype) || s.x_dtype != s.dtype) {
    return false;
  }
  const Layout layout = layout_of(out);
  for (const Tensor* t : {&x_adv, &grad, &x}) {
    if (!same_shape(*t, out) || !same_device(*t, out) || layout_of(*t) != layout) {
      return false;
    }
  }
  s.samples = out.size(0);
  s.sample_size = s.samples == 0 ? 0 : out.numel() / s.samples;
  s.channels = out.dim() > 1 ? out.size(1) : 1;
  s.inner = s.channels == 0 || layout == Layout::channels_last ? 1 : s.sample_size / s.channels;
  if (layout == Layout::other || !bounds.fit(s.channels, out)) {
    return false;
  }
  s.out = out.mutable_data_ptr();
  s.x_adv = x_adv.const_data_ptr();
  s.grad = grad.const_data_ptr();
  s.x = x.const_data_ptr();
  bounds.lower.assign(s.lowers, s.lower);
  bounds.upper.assign(s.uppers, s.upper);
  return true;
}

// Whether two dense tensors of one shape share memory.
bool overlap(const Tensor& a, const Tensor& b) {
  const char* first = static_cast<const char*>(a.const_data_ptr());
  const char* second = static_cast<const char*>(b.const_data_ptr());
  return first < second + b.numel() * b.element_size() && second < first + a.numel() * a.element_size();
}

bool pgd_step(
    const Tensor& out,
    const Tensor& x_adv,
    const Tensor& grad,
    const Tensor& x,
    const OptionalTensor& step_sizes,
    double step_size,
    const OptionalTensor& epsilons,
    double eps,
    const OptionalTensor& lowers,
    double lower,
    const OptionalTensor& uppers,
    double upper,
    bool l2) {
  ImageStep s{};
  const Parameter step{step_sizes, step_size}, radius{epsilons, eps};
  if (!image_step(out, x_adv, grad, x, {{lowers, lower}, {uppers, upper}}, s) || !step.fits(s.samples, out) ||
      !radius.fits(s.samples, out) || (!epsilons.has_value() && !(eps >= 0)) || overlap(out, grad) || overlap(out, x)) {
    return false;
  }
  step.assign(s.step_sizes, s.step_size);
  radius.assign(s.epsilons, s.eps);
  if (s.samples * s.sample_size > 0) {
    run_step(s, l2, out);
  }
  return true;
}

bool random_start(
    const Tensor& out,
    const Tensor& x,
    const Tensor& key,
    int64_t first,
    bool gaussian,
    const OptionalTensor& scales,
    double scale,
    const OptionalTensor& lowers,
    double lower,
    const OptionalTensor& uppers,
    double upper) {
  ImageStep s{};
  const Parameter size{scales, scale};
  if (!image_step(out, out, out, x, {{lowers, lower}, {uppers, upper}}, s) || !size.fits(s.samples, out) ||
      !is_vector(key, ScalarType::Long, 1, out)) {
    return false;
  }
  size.assign(s.step_sizes, s.step_size);
  s.key = key.const_data_ptr<int64_t>();
  s.first = first;
  s.gaussian = gaussian;
  if (s.samples * s.sample_size > 0) {
    run_random_start(s, out);
  }
  return true;
}

// Both matrices, their gradients and what the labels are; false where something does not fit.
bool pair_loss(
    const Tensor& z,
    const Tensor& t,
    const OptionalTensor& labels,
    const OptionalTensor& other_labels,
    const OptionalTensor& shares,
    double temperature,
    double grad_scale,
    const OptionalTensor& grad_z,
    const OptionalTensor& grad_t,
    PairLoss& p) {
  if (!dtype_of(z, p.dtype) || z.dim() != 2 || z.size(1) < 1) {
    return false;
  }
  for (const Tensor* m : {&z, &t, grad_z.has_value() ? &*grad_z : &z, grad_t.has_value() ? &*grad_t : &z}) {
    if (m->scalar_type() != z.scalar_type() || !same_shape(*m, z) || !same_device(*m, z) || !m->is_contiguous()) {
      return false;
    }
  }
  p.rows = z.size(0);
  p.classes = z.size(1);
  if (labels.has_value()) {
    const bool pair = other_labels.has_value();
    if (!is_vector(*labels, ScalarType::Long, p.rows, z) || pair != shares.has_value() ||
        (pair && !(is_vector(*other_labels, ScalarType::Long, p.rows, z) && is_vector(*shares, ScalarType::Float, p.rows, z)))) {
      return false;
    }
    p.labels = labels->const_data_ptr<int64_t>();
    p.other_labels = pair ? other_labels->const_data_ptr<int64_t>() : nullptr;
    p.shares = pair ? shares->const_data_ptr<float>() : nullptr;
  } else {
    if (!shares.has_value() || shares->scalar_type() != ScalarType::Float || !same_shape(*shares, z) ||
        !same_device(*shares, z) || !shares->is_contiguous()) {
      return false;
    }
    p.dense = shares->const_data_ptr<float>();
  }
  if (!(temperature > 0 && temperature < INFINITY) || !labels_are_classes(p)) {
    return false;
  }
  p.z = z.const_data_ptr();
  p.t = t.const_data_ptr();
  p.temperature = static_cast<float>(temperature);
  p.grad_scale = static_cast<float>(grad_scale);
  p.grad_z = grad_z.has_value() ? grad_z->mutable_data_ptr() : nullptr;
  p.grad_t = grad_t.has_value() ? grad_t->mutable_data_ptr() : nullptr;
  return true;
}

bool in_unit_interval(double v) {
  return v >= 0 && v <= 1;
}

bool act_loss(
    const Tensor& robust,
    const Tensor& natural,
    const OptionalTensor& robust_grad,
    const OptionalTensor& natural_grad,
    const Tensor& robust_logits,
    const Tensor& natural_logits,
    const OptionalTensor& labels,
    const OptionalTensor& other_labels,
    const OptionalTensor& shares,
    double robust_alpha,
    double natural_alpha,
    double temperature,
    double grad_scale) {
  PairLoss p{};
  if (!in_unit_interval(robust_alpha) || !in_unit_interval(natural_alpha) ||
      !pair_loss(robust_logits, natural_logits, labels, other_labels, shares, temperature, grad_scale, robust_grad,
                 natural_grad, p)) {
    return false;
  }
  p.ce_z = static_cast<float>(1.0 - robust_alpha);
  p.kl_z = static_cast<float>(robust_alpha);
  p.ce_t = static_cast<float>(1.0 - natural_alpha);
  p.kl_t = static_cast<float>(natural_alpha);
  run_pair_loss(p, Reduction::mean, {robust.mutable_data_ptr<float>(), natural.mutable_data_ptr<float>()}, robust_logits);
  return true;
}

bool kl_ce_loss(
    const OptionalTensor& losses,
    const OptionalTensor& logits_grad,
    const OptionalTensor& target_grad,
    const Tensor& logits,
    const Tensor& target_logits,
    const OptionalTensor& labels,
    const OptionalTensor& other_labels,
    const OptionalTensor& shares,
    double kl_weight,
    double ce_weight,
    double target_ce_weight,
    double temperature,
    double label_smoothing,
    double grad_scale,
    int64_t reduction) {
  PairLoss p{};
  if (!std::isfinite(kl_weight) || !std::isfinite(ce_weight) || !std::isfinite(target_ce_weight) ||
      !in_unit_interval(label_smoothing) ||
      !pair_loss(logits, target_logits, labels, other_labels, shares, temperature, grad_scale, logits_grad, target_grad, p)) {
    return false;
  }
  p.joint = true;
  p.kl_z = static_cast<float>(kl_weight);
  p.ce_z = static_cast<float>(ce_weight);
  p.ce_t = static_cast<float>(target_ce_weight);
  p.label_smoothing = static_cast<float>(label_smoothing);
  float* out = losses.has_value() ? losses->mutable_data_ptr<float>() : nullptr;
  const auto how = static_cast<Reduction>(reduction);
  if (how == Reduction::none) {
    p.loss_z = out;
    out = nullptr;
  }
  run_pair_loss(p, how, {out, nullptr}, logits);
  return true;
}

}  // namespace
}  // namespace act

// `...`: registrations of a library's own.
#define ACT_REGISTER_OPS(DEVICE, ...)                              \
  STABLE_TORCH_LIBRARY_IMPL(ACT_NAMESPACE, DEVICE, m) {            \
    m.impl("pgd_step.native", TORCH_BOX(&act::pgd_step));          \
    m.impl("random_start_.native", TORCH_BOX(&act::random_start)); \
    m.impl("act_loss.native", TORCH_BOX(&act::act_loss));          \
    m.impl("kl_ce_loss.native", TORCH_BOX(&act::kl_ce_loss));      \
    __VA_ARGS__                                                    \
  }
