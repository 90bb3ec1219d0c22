// What the kernels take: plain structs, filled by csrc/ops and read by the CPU and the CUDA side alike.
#pragma once

#include <cstdint>

namespace act {

enum class DType { float32, float16, bfloat16, uint8 };

// pgd_step and random_start. All images are dense, of one shape and one layout; element i of a sample belongs to channel
// (i / inner) % channels, so `inner` is height · width in contiguous images and 1 in channels_last ones.
struct ImageStep {
  void* out;          // may be x_adv
  const void* x_adv;  // random_start: unused
  const void* grad;   // random_start: unused
  const void* x;
  DType dtype;        // of out and x_adv
  DType grad_dtype;
  DType x_dtype;      // dtype, or uint8 meaning x / 255
  // Where the pointer is null the number counts for all.
  const float* step_sizes;  // [samples]; random_start: the scale of the noise
  float step_size;
  const float* epsilons;  // [samples]
  float eps;
  const float* lowers;  // [channels]
  float lower;
  const float* uppers;  // [channels]
  float upper;
  int64_t samples;
  int64_t sample_size;
  int64_t channels;
  int64_t inner;
  // random_start alone
  const int64_t* key;
  int64_t first;  // number of the first image
  bool gaussian;  // uniform otherwise
};

// act_loss and kl_ce_loss on two logit matrices [rows, classes], contiguous. With KL(a ‖ b) between softmaxes at the
// temperature T, and cross-entropy CE to the row's label-smoothed target:
//   joint (kl_ce_loss):   loss_z = ce_z · CE(z) + ce_t · CE(t) + kl_z · T² · KL(t ‖ z), a function of z and of t
//   otherwise (act_loss): loss_z = ce_z · CE(z) + kl_z · T² · KL(t ‖ z), t constant, and
//                         loss_t = ce_t · CE(t) + kl_t · T² · KL(z ‖ t), z constant
// A row's target, before smoothing, is its label's class; or two labels' with a share; or a row of `dense`.
struct PairLoss {
  const void* z;
  const void* t;
  const int64_t* labels;        // [rows], null with `dense`; outside [0, classes): that row becomes NaN
  const int64_t* other_labels;  // [rows]: the class of 1 − share; null where there is one label a row
  const float* shares;          // [rows], with other_labels
  const float* dense;           // [rows, classes], or null
  DType dtype;                  // of z, t and both gradients
  int64_t rows;
  int64_t classes;
  float ce_z;
  float ce_t;
  float kl_z;
  float kl_t;
  float temperature;
  float label_smoothing;
  bool joint;
  float grad_scale;  // multiplies both gradients
  void* grad_z;      // null when not wanted
  void* grad_t;      // null when not wanted
  float* loss_z;     // [rows]; null when not wanted
  float* loss_t;     // [rows]; null when joint or not wanted
};

}  // namespace act
