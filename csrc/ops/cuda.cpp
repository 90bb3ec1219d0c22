// The ops' native kernels on CUDA. A library of its own, since one build serves one major version of CUDA only.

#include "../cuda/launch.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <stdexcept>

#include "ops.h"

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

void run_step(const ImageStep& s, bool l2, const Tensor& out) {
  const OnDevice device(out);
  if (l2) {
    const Tensor buffer = scratch(l2_step_scratch(s), out);
    check(launch_l2_step(s, buffer.mutable_data_ptr(), device.stream()));
  } else {
    check(launch_linf_step(s, device.stream()));
  }
}

void run_random_start(const ImageStep& s, const Tensor& out) {
  const OnDevice device(out);
  check(launch_random_start(s, device.stream()));
}

void run_pair_loss(PairLoss p, Reduction reduction, float* const (&losses)[2], const Tensor& z) {
  const OnDevice device(z);
  if (losses[0] == nullptr) {
    check(launch_pair_loss(p, device.stream()));
    return;
  }
  const Tensor rows = scratch(2 * p.rows * static_cast<int64_t>(sizeof(float)), z);
  p.loss_z = static_cast<float*>(rows.mutable_data_ptr());
  p.loss_t = losses[1] != nullptr ? p.loss_z + p.rows : nullptr;
  check(launch_pair_loss(p, device.stream()));
  const double share = reduction == Reduction::sum || p.rows == 0 ? 1.0 : 1.0 / static_cast<double>(p.rows);
  check(launch_sums({p.loss_z, p.loss_t}, p.rows, share, {losses[0], losses[1]}, device.stream()));
}

// The losses' backward: each gradient times scale · factor, decided on the device.
bool rescale(const OptionalTensor& first, const OptionalTensor& second, const Tensor& factor, double scale) {
  Rescale r{};
  if (factor.scalar_type() != ScalarType::Float || factor.numel() != 1 || (!first.has_value() && !second.has_value())) {
    return false;
  }
  const Tensor& any = first.has_value() ? *first : *second;
  for (int i = 0; i < 2; ++i) {
    const OptionalTensor& grad = i == 0 ? first : second;
    if (!grad.has_value()) {
      continue;
    }
    if (grad->scalar_type() != any.scalar_type() || !dtype_of(*grad, r.dtype) || !grad->is_contiguous() ||
        !same_device(*grad, factor) || !same_shape(*grad, any)) {
      return false;
    }
    r.grads[i] = grad->mutable_data_ptr();
  }
  r.factor = factor.const_data_ptr<float>();
  r.scale = static_cast<float>(scale);
  r.elements = any.numel();
  if (r.elements > 0) {
    const OnDevice device(any);
    check(launch_rescale(r, device.stream()));
  }
  return true;
}

// To look would stop the host: the kernels make such a row NaN.
bool labels_are_classes(const PairLoss&) {
  return true;
}

}  // namespace
}  // namespace act

ACT_REGISTER_OPS(CUDA, m.impl("rescale_.native", TORCH_BOX(&act::rescale));)

// The architectures that this library holds code for, such as "8.0;9.0+PTX".
extern "C" __attribute__((visibility("default"))) const char* act_architectures() {
  return ACT_ARCHITECTURES;
}
