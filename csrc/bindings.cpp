// The module act_kernels._C: takes tensors that act_kernels/ops.py has validated, fills in the plain arguments, and runs
// the kernels of the tensors' device. The only file with torch headers.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/utils/pybind.h>

#include <optional>
#include <string>
#include <tuple>
#include <variant>

#include "arguments.h"
#include "cpu/kernels.h"

#ifdef ACT_WITH_CUDA
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "cuda/launch.h"
#endif

namespace act {
namespace {

using OptionalTensor = std::optional<at::Tensor>;
// One number, or a float32 tensor with one for each sample (step size, eps) or channel (bounds).
using Constant = std::variant<at::Tensor, double>;

// Elements (of images) and rows × classes (of logits) below which a second thread costs more than it brings.
constexpr int64_t kGrain = 32768;
// Results larger than this are stored past the caches; smaller ones may still be there when the model reads them.
constexpr int64_t kStreamedBytes = 8 << 20;

const Kernels* selected_kernels = nullptr;

const Kernels& cpu_kernels() {
  return selected_kernels != nullptr ? *selected_kernels : best_kernels();
}

DType dtype_of(const at::Tensor& t) {
  switch (t.scalar_type()) {
    case at::kFloat:
      return DType::float32;
    case at::kHalf:
      return DType::float16;
    case at::kBFloat16:
      return DType::bfloat16;
    case at::kByte:
      return DType::uint8;
    default:
      TORCH_CHECK(false, "act_kernels._C: no kernel for ", t.scalar_type());
  }
}

void assign(const Constant& constant, const float*& several, float& one) {
  if (const auto* tensor = std::get_if<at::Tensor>(&constant)) {
    several = tensor->const_data_ptr<float>();
  } else {
    one = static_cast<float>(std::get<double>(constant));
  }
}

ImageStep image_step(
    const at::Tensor& out,
    const at::Tensor& x_adv,
    const at::Tensor& grad,
    const at::Tensor& x,
    const Constant& step_size,
    const Constant& eps,
    const Constant& lower,
    const Constant& upper) {
  ImageStep s{};
  s.out = out.mutable_data_ptr();
  s.x_adv = x_adv.const_data_ptr();
  s.grad = grad.const_data_ptr();
  s.x = x.const_data_ptr();
  s.dtype = dtype_of(x_adv);
  s.grad_dtype = dtype_of(grad);
  s.x_dtype = dtype_of(x);
  assign(step_size, s.step_sizes, s.step_size);
  assign(eps, s.epsilons, s.eps);
  assign(lower, s.lowers, s.lower);
  assign(upper, s.uppers, s.upper);
  s.samples = x.size(0);
  s.sample_size = s.samples == 0 ? 0 : x.numel() / s.samples;
  s.channels = x.dim() > 1 ? x.size(1) : 1;
  s.inner = s.channels == 0 || !x.is_contiguous() ? 1 : s.sample_size / s.channels;
  return s;
}

int64_t grain_of(int64_t item_size) {
  return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, item_size));
}

void pgd_step(
    const at::Tensor& out,
    const at::Tensor& x_adv,
    const at::Tensor& grad,
    const at::Tensor& x,
    const Constant& step_size,
    const Constant& eps,
    const Constant& lower,
    const Constant& upper,
    const std::string& norm) {
  const ImageStep s = image_step(out, x_adv, grad, x, step_size, eps, lower, upper);
  if (x.numel() == 0) {
    return;
  }
#ifdef ACT_WITH_CUDA
  if (x.is_cuda()) {
    const c10::cuda::CUDAGuard guard(x.device());
    const auto stream = c10::cuda::getCurrentCUDAStream();
    if (norm == "linf") {
      C10_CUDA_CHECK(launch_linf_step(s, stream));
    } else {
      const at::Tensor scratch = at::empty({l2_step_scratch(s)}, x.options().dtype(at::kByte));
      C10_CUDA_CHECK(launch_l2_step(s, scratch.mutable_data_ptr(), stream));
    }
    return;
  }
#endif
  const Kernels& kernels = cpu_kernels();
  if (norm == "linf") {
    const bool streamed = s.out != s.x_adv && static_cast<int64_t>(out.nbytes()) > kStreamedBytes;
    at::parallel_for(0, x.numel(), kGrain, [&](int64_t begin, int64_t end) {
      kernels.linf_step(s, begin, end, streamed);
    });
  } else {
    at::parallel_for(0, s.samples, grain_of(s.sample_size), [&](int64_t begin, int64_t end) {
      kernels.l2_step(s, begin, end);
    });
  }
}

void random_start(
    const at::Tensor& out,
    const at::Tensor& x,
    const at::Tensor& key,
    int64_t first,
    bool gaussian,
    const Constant& scale,
    const Constant& lower,
    const Constant& upper) {
  ImageStep s = image_step(out, out, out, x, scale, /*eps=*/0.0, lower, upper);
  s.key = key.const_data_ptr<int64_t>();
  s.first = first;
  s.gaussian = gaussian;
  if (x.numel() == 0) {
    return;
  }
#ifdef ACT_WITH_CUDA
  if (x.is_cuda()) {
    const c10::cuda::CUDAGuard guard(x.device());
    C10_CUDA_CHECK(launch_random_start(s, c10::cuda::getCurrentCUDAStream()));
    return;
  }
#endif
  const Kernels& kernels = cpu_kernels();
  at::parallel_for(0, x.numel(), kGrain, [&](int64_t begin, int64_t end) { kernels.random_start(s, begin, end); });
}

struct Gradients {
  OptionalTensor z;
  OptionalTensor t;
};

// Fills in what both losses have in common, and allocates the gradients that are wanted.
PairLoss pair_loss(
    const at::Tensor& z,
    const at::Tensor& t,
    const at::Tensor& labels,
    double temperature,
    double grad_scale,
    bool z_grad,
    bool t_grad,
    Gradients& gradients) {
  PairLoss p{};
  p.z = z.const_data_ptr();
  p.t = t.const_data_ptr();
  p.labels = labels.const_data_ptr<int64_t>();
  p.dtype = dtype_of(z);
  p.rows = z.size(0);
  p.classes = z.size(1);
  p.temperature = static_cast<float>(temperature);
  p.grad_scale = static_cast<float>(grad_scale);
  if (z_grad) {
    gradients.z = at::empty(z.sizes(), z.options());
    p.grad_z = gradients.z->mutable_data_ptr();
  }
  if (t_grad) {
    gradients.t = at::empty(t.sizes(), t.options());
    p.grad_t = gradients.t->mutable_data_ptr();
  }
  return p;
}

void run_on_cpu(const PairLoss& p) {
  const Kernels& kernels = cpu_kernels();
  at::parallel_for(0, p.rows, grain_of(4 * p.classes), [&](int64_t begin, int64_t end) {
    kernels.pair_loss(p, begin, end);
  });
}

#ifdef ACT_WITH_CUDA
void run_on_cuda(const PairLoss& p, float* means, const at::Tensor& z) {
  const c10::cuda::CUDAGuard guard(z.device());
  C10_CUDA_CHECK(launch_pair_loss(p, means, c10::cuda::getCurrentCUDAStream()));
}
#endif

std::tuple<at::Tensor, OptionalTensor, OptionalTensor> act_loss(
    const at::Tensor& robust_logits,
    const at::Tensor& natural_logits,
    const at::Tensor& labels,
    double robust_alpha,
    double natural_alpha,
    double temperature,
    double grad_scale,
    bool robust_grad,
    bool natural_grad) {
  Gradients gradients;
  PairLoss p = pair_loss(
      robust_logits, natural_logits, labels, temperature, grad_scale, robust_grad, natural_grad, gradients);
  p.ce_z = static_cast<float>(1.0 - robust_alpha);
  p.kl_z = static_cast<float>(robust_alpha);
  p.ce_t = static_cast<float>(1.0 - natural_alpha);
  p.kl_t = static_cast<float>(natural_alpha);
  const auto options = robust_logits.options().dtype(at::kFloat);
  const at::Tensor row_losses = at::empty({2, p.rows}, options);
  at::Tensor means = at::empty({2}, options);
  p.loss_z = row_losses.mutable_data_ptr<float>();
  p.loss_t = p.loss_z + p.rows;
#ifdef ACT_WITH_CUDA
  if (robust_logits.is_cuda()) {
    if (p.rows == 0) {
      means.zero_();
    } else {
      run_on_cuda(p, means.mutable_data_ptr<float>(), robust_logits);
    }
    return {means, gradients.z, gradients.t};
  }
#endif
  run_on_cpu(p);
  for (int64_t side = 0; side < 2; ++side) {
    double total = 0.0;
    for (int64_t row = 0; row < p.rows; ++row) {
      total += p.loss_z[side * p.rows + row];
    }
    means.mutable_data_ptr<float>()[side] = static_cast<float>(total / static_cast<double>(std::max<int64_t>(1, p.rows)));
  }
  return {means, gradients.z, gradients.t};
}

std::tuple<at::Tensor, OptionalTensor, OptionalTensor> kl_ce_loss(
    const at::Tensor& logits,
    const at::Tensor& target_logits,
    const at::Tensor& labels,
    double kl_weight,
    double ce_weight,
    double target_ce_weight,
    double temperature,
    double label_smoothing,
    double grad_scale,
    bool logits_grad,
    bool target_grad) {
  Gradients gradients;
  PairLoss p =
      pair_loss(logits, target_logits, labels, temperature, grad_scale, logits_grad, target_grad, gradients);
  p.joint = true;
  p.kl_z = static_cast<float>(kl_weight);
  p.ce_z = static_cast<float>(ce_weight);
  p.ce_t = static_cast<float>(target_ce_weight);
  p.label_smoothing = static_cast<float>(label_smoothing);
  at::Tensor losses = at::empty({p.rows}, logits.options().dtype(at::kFloat));
  p.loss_z = losses.mutable_data_ptr<float>();
  if (p.rows == 0) {
    return {losses, gradients.z, gradients.t};
  }
#ifdef ACT_WITH_CUDA
  if (logits.is_cuda()) {
    run_on_cuda(p, nullptr, logits);
    return {losses, gradients.z, gradients.t};
  }
#endif
  run_on_cpu(p);
  return {losses, gradients.z, gradients.t};
}

// Name of the instruction set in use; with a name, choose that one (tests run all that the processor has).
std::string instruction_set(const std::optional<std::string>& name) {
  if (name.has_value()) {
    const Kernels* kernels = kernels_for(name->c_str());
    TORCH_CHECK_VALUE(kernels != nullptr, "instruction_set: this processor has no ", *name);
    selected_kernels = kernels;
  }
  return cpu_kernels().name;
}

}  // namespace
}  // namespace act

PYBIND11_MODULE(_C, m) {
  m.def("pgd_step", &act::pgd_step, pybind11::call_guard<pybind11::gil_scoped_release>());
  m.def("random_start", &act::random_start, pybind11::call_guard<pybind11::gil_scoped_release>());
  m.def("act_loss", &act::act_loss, pybind11::call_guard<pybind11::gil_scoped_release>());
  m.def("kl_ce_loss", &act::kl_ce_loss, pybind11::call_guard<pybind11::gil_scoped_release>());
  m.def("instruction_set", &act::instruction_set, pybind11::arg("name") = pybind11::none());
#ifdef ACT_WITH_CUDA
  m.attr("with_cuda") = true;
#else
  m.attr("with_cuda") = false;
#endif
}
