// The ops' native kernels on the CPU, registered for the schemas `NAME.native` of act_kernels/ops.py.

#include <algorithm>

#include "../cpu/kernels.h"
#include "tensors.h"

namespace act {
namespace {

// Elements (of images) and rows × classes (of logits) below which a second thread costs more than it brings.
constexpr int64_t kGrain = 32768;
// Results larger than this are stored past the caches; smaller ones may still be there when the model reads them.
constexpr int64_t kStreamedBytes = 8 << 20;

const Kernels* selected_kernels = nullptr;

const Kernels& kernels() {
  return selected_kernels != nullptr ? *selected_kernels : best_kernels();
}

int64_t grain_of(int64_t item_size) {
  return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, item_size));
}

void pgd_step(
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
  ImageStep s = image_step(out, x_adv, grad, x, lowers, lower, uppers, upper);
  assign(step_sizes, step_size, s.step_sizes, s.step_size);
  assign(epsilons, eps, s.epsilons, s.eps);
  const int64_t elements = s.samples * s.sample_size;
  if (elements == 0) {
    return;
  }
  const Kernels& k = kernels();
  if (l2) {
    torch::stable::parallel_for(0, s.samples, grain_of(s.sample_size), [&](int64_t begin, int64_t end) {
      k.l2_step(s, begin, end);
    });
  } else {
    const bool streamed = s.out != s.x_adv && elements * static_cast<int64_t>(out.element_size()) > kStreamedBytes;
    torch::stable::parallel_for(0, elements, kGrain, [&](int64_t begin, int64_t end) {
      k.linf_step(s, begin, end, streamed);
    });
  }
}

void random_start(
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
  ImageStep s = image_step(out, out, out, x, lowers, lower, uppers, upper);
  assign(scales, scale, s.step_sizes, s.step_size);
  s.key = key.const_data_ptr<int64_t>();
  s.first = first;
  s.gaussian = gaussian;
  const Kernels& k = kernels();
  torch::stable::parallel_for(0, s.samples * s.sample_size, kGrain, [&](int64_t begin, int64_t end) {
    k.random_start(s, begin, end);
  });
}

void run(const PairLoss& p) {
  const Kernels& k = kernels();
  torch::stable::parallel_for(0, p.rows, grain_of(4 * p.classes), [&](int64_t begin, int64_t end) {
    k.pair_loss(p, begin, end);
  });
}

// The sums are taken in the rows' order, so that the number of threads does not show.
float mean(const float* values, int64_t count) {
  double total = 0.0;
  for (int64_t i = 0; i < count; ++i) {
    total += values[i];
  }
  return static_cast<float>(total / static_cast<double>(std::max<int64_t>(1, count)));
}

void act_loss(
    const Tensor& losses,
    const OptionalTensor& robust_grad,
    const OptionalTensor& natural_grad,
    const Tensor& robust_logits,
    const Tensor& natural_logits,
    const Tensor& labels,
    double robust_alpha,
    double natural_alpha,
    double temperature,
    double grad_scale) {
  PairLoss p = pair_loss(robust_logits, natural_logits, labels, temperature, grad_scale, robust_grad, natural_grad);
  p.ce_z = static_cast<float>(1.0 - robust_alpha);
  p.kl_z = static_cast<float>(robust_alpha);
  p.ce_t = static_cast<float>(1.0 - natural_alpha);
  p.kl_t = static_cast<float>(natural_alpha);
  std::vector<float> rows(static_cast<size_t>(2 * p.rows));
  p.loss_z = rows.data();
  p.loss_t = rows.data() + p.rows;
  run(p);
  float* means = losses.mutable_data_ptr<float>();
  means[0] = mean(p.loss_z, p.rows);
  means[1] = mean(p.loss_t, p.rows);
}

void kl_ce_loss(
    const Tensor& losses,
    const OptionalTensor& logits_grad,
    const OptionalTensor& target_grad,
    const Tensor& logits,
    const Tensor& target_logits,
    const Tensor& labels,
    double kl_weight,
    double ce_weight,
    double target_ce_weight,
    double temperature,
    double label_smoothing,
    double grad_scale) {
  PairLoss p = pair_loss(logits, target_logits, labels, temperature, grad_scale, logits_grad, target_grad);
  p.joint = true;
  p.kl_z = static_cast<float>(kl_weight);
  p.ce_z = static_cast<float>(ce_weight);
  p.ce_t = static_cast<float>(target_ce_weight);
  p.label_smoothing = static_cast<float>(label_smoothing);
  p.loss_z = losses.mutable_data_ptr<float>();
  run(p);
}

}  // namespace
}  // namespace act

STABLE_TORCH_LIBRARY_IMPL(ACT_NAMESPACE, CPU, m) {
  m.impl("pgd_step.native", TORCH_BOX(&act::pgd_step));
  m.impl("random_start_.native", TORCH_BOX(&act::random_start));
  m.impl("act_loss.native", TORCH_BOX(&act::act_loss));
  m.impl("kl_ce_loss.native", TORCH_BOX(&act::kl_ce_loss));
}

// Name of the instruction set in use; with a name, choose that one, and return null where this processor lacks it.
extern "C" __attribute__((visibility("default"))) const char* act_instruction_set(const char* name) {
  if (name != nullptr) {
    const act::Kernels* chosen = act::kernels_for(name);
    if (chosen == nullptr) {
      return nullptr;
    }
    act::selected_kernels = chosen;
  }
  return act::kernels().name;
}
