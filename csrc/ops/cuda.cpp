// The ops' native kernels on CUDA, registered for the schemas `NAME.native` of act_kernels/ops.py. A library of its own,
// since one build serves one major version of CUDA only.

#include "../cuda/launch.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <string>

#include "tensors.h"

namespace act {
namespace {

void check(cudaError_t error) {
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string("act_kernels: CUDA: ") + cudaGetErrorString(error));
  }
}

// Makes the tensor's device the current one, and names the stream that PyTorch works on there.
class OnDevice {
 public:
  explicit OnDevice(const Tensor& t) : guard_(t.get_device_index()) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }

  cudaStream_t stream() const {
    return stream_;
  }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

// Bytes on the tensor's device, from PyTorch's allocator: ordered by the stream, and safe in a CUDA graph.
Tensor scratch(int64_t bytes, const Tensor& like) {
  return torch::stable::new_empty(like, {bytes}, ScalarType::Byte);
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
  if (s.samples * s.sample_size == 0) {
    return;
  }
  const OnDevice device(x);
  if (l2) {
    const Tensor buffer = scratch(l2_step_scratch(s), x);
    check(launch_l2_step(s, buffer.mutable_data_ptr(), device.stream()));
  } else {
    check(launch_linf_step(s, device.stream()));
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
  if (s.samples * s.sample_size == 0) {
    return;
  }
  const OnDevice device(x);
  check(launch_random_start(s, device.stream()));
}

void run(const PairLoss& p, float* means, const Tensor& z) {
  const OnDevice device(z);
  check(launch_pair_loss(p, means, device.stream()));
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
  if (p.rows == 0) {
    torch::stable::fill_(losses, 0.0);
    return;
  }
  p.ce_z = static_cast<float>(1.0 - robust_alpha);
  p.kl_z = static_cast<float>(robust_alpha);
  p.ce_t = static_cast<float>(1.0 - natural_alpha);
  p.kl_t = static_cast<float>(natural_alpha);
  const Tensor rows = scratch(2 * p.rows * static_cast<int64_t>(sizeof(float)), robust_logits);
  p.loss_z = static_cast<float*>(rows.mutable_data_ptr());
  p.loss_t = p.loss_z + p.rows;
  run(p, losses.mutable_data_ptr<float>(), robust_logits);
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
  if (p.rows == 0) {
    return;
  }
  p.joint = true;
  p.kl_z = static_cast<float>(kl_weight);
  p.ce_z = static_cast<float>(ce_weight);
  p.ce_t = static_cast<float>(target_ce_weight);
  p.label_smoothing = static_cast<float>(label_smoothing);
  p.loss_z = losses.mutable_data_ptr<float>();
  run(p, nullptr, logits);
}

}  // namespace
}  // namespace act

STABLE_TORCH_LIBRARY_IMPL(ACT_NAMESPACE, CUDA, m) {
  m.impl("pgd_step.native", TORCH_BOX(&act::pgd_step));
  m.impl("random_start_.native", TORCH_BOX(&act::random_start));
  m.impl("act_loss.native", TORCH_BOX(&act::act_loss));
  m.impl("kl_ce_loss.native", TORCH_BOX(&act::kl_ce_loss));
}

// The architectures that this library holds code for, such as "8.0;9.0+PTX".
extern "C" __attribute__((visibility("default"))) const char* act_architectures() {
  return ACT_ARCHITECTURES;
}
