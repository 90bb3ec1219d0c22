// The formulas, per element and per row, written once for host and device. V is float in a CUDA thread and a vector of
// floats on the CPU: comparisons and ?: mean the same for both. No product here feeds a sum where float32 results must be
// equal to the bit on every backend (the linf step and the random start), so that no compiler can contract it.
#pragma once

#include <cmath>
#include <cstdint>

#include "arguments.h"

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

// a · b + c, rounded twice: contracted to one fused operation it would differ between backends.
ACT_HD float product_and_sum(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fadd_rn(__fmul_rn(a, b), c);
#else
  return a * b + c;  // built with -ffp-contract=off
#endif
}

template <class V>
ACT_HD V product_and_sum(V a, V b, V c) {
  return a * b + c;
}

// The noise of random_start, as kernels/act_kernels/reference/random_start.py specifies it: uniform in [−1, 1) from the
// high 24 bits of a word, as a float.
template <class V>
ACT_HD V uniform_noise(V steps) {
  return steps * 0x1p-23f - 1.0f;  // both exact
}

template <class V, int N>
ACT_HD V polynomial(const float (&coefficients)[N], V x) {
  V result = V{} + coefficients[0];
  for (int i = 1; i < N; ++i) {
    result = product_and_sum(result, x, V{} + coefficients[i]);
  }
  return result;
}

// log(m · 2^e) for m in [√½, √2): Cephes' logf.
template <class V>
ACT_HD V log_of(V m, V e) {
  constexpr float kLog[] = {7.0376836292e-2f,  -1.1514610310e-1f, 1.1676998740e-1f,  -1.2420140846e-1f, 1.4249322787e-1f,
                            -1.6668057665e-1f, 2.0000714765e-1f,  -2.4999993993e-1f, 3.3333331174e-1f};
  m = m - 1.0f;
  const V square = m * m;
  V y = polynomial(kLog, m) * m * square;
  y = product_and_sum(e, V{} + -2.12194440e-4f, y);
  y = y - 0.5f * square;
  return product_and_sum(e, V{} + 0.693359375f, m + y);
}

// The normal distribution's quantile at q + ½: Wichura's PPND7. Here for |q| <= 0.425, below for the rest.
template <class V>
ACT_HD V normal_centre(V q) {
  constexpr float kOver[] = {59.109374720f, 159.29113202f, 50.434271938f, 3.3871327179f};
  constexpr float kUnder[] = {67.187563600f, 78.757757664f, 17.895169469f, 1.0f};
  const V inner = product_and_sum(-q, q, V{} + 0.180625f);
  return q * polynomial(kOver, inner) / polynomial(kUnder, inner);
}

// `root`: √(−log(½ − |q|)).
template <class V>
ACT_HD V normal_tail(V root) {
  constexpr float kOver[] = {0.17023821103f, 1.3067284816f, 2.7568153900f, 1.4234372777f};
  constexpr float kUnder[] = {0.12021132975f, 0.73700164250f, 1.0f};
  const V outer = root - 1.6f;
  return polynomial(kOver, outer) / polynomial(kUnder, outer);
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

// What follows is for one row of the logit matrices z and t, with a = z − max z, b = t − max t and the temperature T. S is
// what its sums are kept in: double on the CPU, float in a CUDA block, whose few terms a thread are added as a tree, and a
// vector of floats where each of its lanes is a row of few classes. `log` is S's logarithm.
//
// A term without weight is not there: not even its NaN, which a masked (−inf) logit or an unused matrix may bring.

template <class S>
struct RowSums {
  S exp_a;    // Σ exp(a)
  S exp_b;    // Σ exp(b)
  S exp_a_T;  // Σ exp(a / T)
  S exp_b_T;  // Σ exp(b / T)
  S cross_a;  // Σ exp(a / T) · (a − b) / T
  S cross_b;  // Σ exp(b / T) · (b − a) / T
  S total_a;  // Σ a
  S total_b;  // Σ b
};

// The row's target before smoothing, u: one label's class, a mix of two, or any distribution.
template <class S>
struct RowTarget {
  S dot_a;  // Σ u · a
  S dot_b;  // Σ u · b
  S mass;   // Σ u
  S known;  // 0, or NaN where a label is not a class
};

// u · v; a class of share 0 is not there, whatever its logit.
template <class V>
ACT_HD V share_of(V u, V v) {
  const V nothing{};
  return u == nothing ? nothing : u * v;
}

// weight · KL(p ‖ q) of two softmaxes from the sums above: p ∝ exp(u), q ∝ exp(v), cross = Σ exp(u) · (u − v).
template <class S, class W, class Log>
ACT_HD S weighted_kl_divergence(W weight, S cross, S sum_u, S sum_v, Log log) {
  return weight == 0 ? S{} : weight * (cross / sum_u - log(sum_u / sum_v));
}

// Σ of the smoothed target.
template <class S, class W>
ACT_HD S smoothed_mass(W smoothing, S mass) {
  return W{1} + (W{1} - smoothing) * (mass - W{1});  // exactly 1 for a mass of 1
}

// weight · cross-entropy: − Σ u' log p, u' = (1 − smoothing) · u + smoothing / classes.
template <class S, class W, class Log>
ACT_HD S weighted_cross_entropy(W weight, S sum_exp, S dot, S mass, S total, W smoothing, int64_t classes, Log log) {
  const S spread = smoothing == 0 ? S{} : smoothing * total / static_cast<W>(classes);
  return weight == 0 ? S{} : weight * (log(sum_exp) * smoothed_mass(smoothing, mass) - (W{1} - smoothing) * dot - spread);
}

template <class S>
struct Losses {
  S z;
  S t;
};

// Both losses of a row. W is S's scalar.
template <class W, class S, class Log>
ACT_HD Losses<S> row_losses(const PairLoss& p, const RowSums<S>& s, const RowTarget<S>& u, Log log) {
  const W T2 = static_cast<W>(p.temperature) * p.temperature;
  const W smoothing = p.label_smoothing;
  const S ce_z = weighted_cross_entropy<S, W>(p.ce_z, s.exp_a, u.dot_a, u.mass, s.total_a, smoothing, p.classes, log);
  const S ce_t = weighted_cross_entropy<S, W>(p.ce_t, s.exp_b, u.dot_b, u.mass, s.total_b, smoothing, p.classes, log);
  const S kl_z = weighted_kl_divergence<S, W>(p.kl_z * T2, s.cross_b, s.exp_b_T, s.exp_a_T, log);
  const S kl_t = weighted_kl_divergence<S, W>(p.kl_t * T2, s.cross_a, s.exp_a_T, s.exp_b_T, log);
  return {(p.joint ? ce_z + ce_t : ce_z) + kl_z + u.known, ce_t + kl_t + u.known};
}

// Gradient to a row of scale · (ce · CE + kl · T² · KL) where the row is the student, KL(other ‖ row), or the teacher,
// KL(row ‖ other), and the other row is constant: every logit gets the formula below, and at_label · u less. V is float,
// or a vector where each lane is a row.
template <class V>
struct GradientTerms {
  bool has_ce;
  bool has_kl;
  V own;         // of exp(a)
  V own_T;       // of exp(a / T)
  V other_T;     // of exp(b / T); the student's
  V mean;        // Σ softmax(a / T) · (a − b) / T; the teacher's
  V everywhere;  // NaN where the label is not valid
  V at_label;
};

// The sums come as reciprocals; `cross` is Σ exp(a / T) · (a − b) / T of the row itself. S and W as above.
template <class V, class S, class W>
ACT_HD GradientTerms<V> gradient_terms(
    S scale, W ce, W kl, W T, W smoothing, int64_t classes, S mass, S inverse_own, S inverse_own_T, S inverse_other_T,
    S cross) {
  return {
      ce != 0,
      kl != 0,
      static_cast<V>(scale * ce * smoothed_mass(smoothing, mass) * inverse_own),
      static_cast<V>(scale * kl * T * inverse_own_T),
      static_cast<V>(scale * kl * T * inverse_other_T),
      static_cast<V>(cross * inverse_own_T),
      static_cast<V>(scale * ce * smoothing / static_cast<W>(classes)),
      static_cast<V>(scale * ce * (W{1} - smoothing)),
  };
}

template <class V, class K>
ACT_HD V student_gradient(const GradientTerms<K>& k, V exp_own, V exp_own_T, V exp_other_T) {
  const V nothing{};
  return (k.has_ce ? k.own * exp_own : nothing) - k.everywhere +
         (k.has_kl ? k.own_T * exp_own_T - k.other_T * exp_other_T : nothing);
}

// `difference` is the logit's (a − b) / T.
template <class V, class K>
ACT_HD V teacher_gradient(const GradientTerms<K>& k, V exp_own, V exp_own_T, V difference) {
  const V nothing{};
  return (k.has_ce ? k.own * exp_own : nothing) - k.everywhere +
         (k.has_kl ? k.own_T * exp_own_T * (difference - k.mean) : nothing);
}

}  // namespace act
