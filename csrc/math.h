// The formulas, per element and per row, written once for host and device. V is float in a CUDA thread and a vector of
// floats on the CPU: comparisons and ?: mean the same for both. No product here feeds a sum where float32 results must be
// equal to the bit on every backend (the linf step and the random start), so that no compiler can contract it.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define ACT_HD __host__ __device__ __forceinline__
#else
#define ACT_HD inline __attribute__((always_inline))
#endif

namespace act {

// min(max(v, low), high); a NaN in v stays.
template <class V>
ACT_HD V clip(V v, V low, V high) {
  v = low > v ? low : v;
  return high < v ? high : v;
}

// clamp(clip(x_adv + step · sign(grad), x − eps, x + eps), lower, upper), sign(NaN) = 0; NaN in x_adv or x stays.
template <class V>
ACT_HD V linf_step(V x_adv, V grad, V x, V step, V eps, V lower, V upper) {
  const V zero{};
  V moved = x_adv + ((grad > zero ? step : zero) - (grad < zero ? step : zero));
  moved = clip(clip(moved, x - eps, x + eps), lower, upper);
  return x != x ? x : moved;
}

// What turns a gradient into a step of length `step`: step · (scale · grad). The power of two keeps both factors normal
// for gradients whose norm is near the ends of float's range; a zero gradient moves nothing.
struct L2Factors {
  float scale;
  float step;
};

ACT_HD L2Factors l2_factors(float step, double grad_norm) {
  const float scale = grad_norm < 0x1p-60 ? 0x1p80f : (grad_norm > 0x1p60 ? 0x1p-80f : 1.0f);
  return {scale, grad_norm == 0.0 ? 0.0f : static_cast<float>(step / (grad_norm * scale))};
}

// x_adv + step · grad / ‖grad‖ − x, before its projection.
template <class V>
ACT_HD V l2_delta(V x_adv, V grad, V x, L2Factors k) {
  return x_adv + k.step * (k.scale * grad) - x;
}

// min(1, eps / ‖delta‖)
ACT_HD float l2_shrink(float eps, double delta_norm) {
  return delta_norm > eps ? static_cast<float>(eps / delta_norm) : 1.0f;
}

// clamp(x + delta · shrink, lower, upper); `shrink` from l2_shrink.
template <class V>
ACT_HD V l2_project(V x, V delta, float shrink, V lower, V upper) {
  return clip(x + shrink * delta, lower, upper);
}

// Sums over one row of the logit matrices z and t. With a = z − max z, b = t − max t and the temperature T. In double: the
// divergence of two similar rows is a small difference of large sums.
struct RowSums {
  double exp_a;    // Σ exp(a)
  double exp_b;    // Σ exp(b)
  double exp_a_T;  // Σ exp(a / T)
  double exp_b_T;  // Σ exp(b / T)
  double cross_a;  // Σ exp(a / T) · (a − b) / T
  double cross_b;  // Σ exp(b / T) · (b − a) / T
  double total_a;  // Σ a
  double total_b;  // Σ b
};

// KL(p ‖ q) of two softmaxes from the sums above: p ∝ exp(u), q ∝ exp(v), cross = Σ exp(u) · (u − v).
ACT_HD double kl_divergence(double cross, double sum_u, double sum_v) {
  return cross / sum_u - log(sum_u / sum_v);
}

// Cross-entropy with label smoothing s: − Σ u log p, u = (1 − s) · onehot + s / classes, from a = logits − max.
ACT_HD double cross_entropy(double sum_exp, double a_label, double total_a, double smoothing, int64_t classes) {
  return log(sum_exp) - (1.0 - smoothing) * a_label - smoothing * total_a / static_cast<double>(classes);
}

// Gradient to the logits z of scale · (ce · CE(z) + kl · T² · KL(t ‖ z)), t constant, for one row: every logit gets
// student_gradient, and the label's one `at_label` less.
struct StudentTerms {
  float own;
  float own_T;
  float other_T;
  float everywhere;
  float at_label;
};

ACT_HD StudentTerms student_terms(
    double scale, double ce, double kl, double T, double smoothing, int64_t classes,
    double exp_own, double exp_own_T, double exp_other_T) {
  return {
      static_cast<float>(scale * ce / exp_own),
      static_cast<float>(scale * kl * T / exp_own_T),
      static_cast<float>(scale * kl * T / exp_other_T),
      static_cast<float>(scale * ce * smoothing / static_cast<double>(classes)),
      static_cast<float>(scale * ce * (1.0 - smoothing)),
  };
}

template <class V>
ACT_HD V student_gradient(StudentTerms k, V exp_own, V exp_own_T, V exp_other_T) {
  return k.own * exp_own - k.everywhere + (k.own_T * exp_own_T - k.other_T * exp_other_T);
}

// The same to the logits t of scale · (ce · CE(t) + kl · T² · KL(t ‖ z)), z constant; cross is the row's
// Σ exp(b / T) · (b − a) / T and `difference` the logit's (b − a) / T.
struct TeacherTerms {
  float own;
  float own_T;
  float mean;
  float everywhere;
  float at_label;
};

ACT_HD TeacherTerms teacher_terms(
    double scale, double ce, double kl, double T, double smoothing, int64_t classes,
    double exp_own, double exp_own_T, double cross) {
  return {
      static_cast<float>(scale * ce / exp_own),
      static_cast<float>(scale * kl * T / exp_own_T),
      static_cast<float>(cross / exp_own_T),
      static_cast<float>(scale * ce * smoothing / static_cast<double>(classes)),
      static_cast<float>(scale * ce * (1.0 - smoothing)),
  };
}

template <class V>
ACT_HD V teacher_gradient(TeacherTerms k, V exp_own, V exp_own_T, V difference) {
  return k.own * exp_own - k.everywhere + k.own_T * exp_own_T * (difference - k.mean);
}

}  // namespace act
