// act_loss and kl_ce_loss on the CPU: the rows stay in the first-level caches through three passes (maxima; exponentials
// and sums; gradients). No include guard: see vector.h.

// The exponentials of one row, kept from the second pass for the third.
struct RowExponentials {
  float* a;    // exp(z − max z)
  float* b;    // exp(t − max t)
  float* a_T;  // exp((z − max z) / T)
  float* b_T;
};

template <class T>
ACT_HD Vec load_up_to(const T* p, int64_t count, float fill) {
  return count == kLanes ? load(p) : load_part(p, count, fill);
}

template <class T>
ACT_HD void store_up_to(T* p, Vec v, int64_t count) {
  if (count == kLanes) {
    store(p, v);
  } else {
    store_part(p, v, count);
  }
}

// Calls body(i, count) for the whole vectors of a row, count = kLanes, and for its rest.
template <class Body>
ACT_HD void for_each_part(int64_t classes, Body body) {
  int64_t i = 0;
  for (; i + kLanes <= classes; i += kLanes) {
    body(i, kLanes);
  }
  if (i < classes) {
    body(i, classes - i);
  }
}

template <class T>
ACT_HD float row_maximum(const T* row, int64_t classes) {
  Vec best = splat(-INFINITY);
  for_each_part(classes, [&](int64_t i, int64_t count) {
    const Vec v = load_up_to(row + i, count, -INFINITY);
    best = v > best ? v : best;
  });
  return largest(best);
}

// Second pass. Without Soft the temperature is 1 and the exponentials at T are the plain ones; without CrossEntropyB
// (and with Soft) the plain ones of t are not needed.
template <bool Soft, bool CrossEntropyB, class T>
ACT_HD RowSums<double> row_sums(
    const T* z, const T* t, int64_t classes, float max_z, float max_t, float inverse_T, const RowExponentials& e) {
  Sum exp_a, exp_b, exp_a_T, exp_b_T, cross_a, cross_b, total_a, total_b;
  Sum* const sums[] = {&exp_a, &exp_b, &exp_a_T, &exp_b_T, &cross_a, &cross_b, &total_a, &total_b};
  for_each_part(classes, [&](int64_t i, int64_t count) {
    constexpr float kVanishing = -1e30f;  // finite, so that exp() · difference is 0 in the lanes that fill up
    const Vec a = load_up_to(z + i, count, kVanishing) - max_z;
    const Vec b = load_up_to(t + i, count, kVanishing) - max_t;
    const Vec difference = (a - b) * inverse_T;
    const Vec soft_a = exp_negative(Soft ? a * inverse_T : a);
    const Vec soft_b = exp_negative(Soft ? b * inverse_T : b);
    exp_a_T.add(soft_a);
    exp_b_T.add(soft_b);
    cross_a.add(soft_a * difference);
    cross_b.add(soft_b * -difference);
    total_a.add(count == kLanes ? a : first_lanes(a, count));
    total_b.add(count == kLanes ? b : first_lanes(b, count));
    store(e.a_T + i, soft_a);
    store(e.b_T + i, soft_b);
    if constexpr (Soft) {
      const Vec plain_a = exp_negative(a);
      exp_a.add(plain_a);
      store(e.a + i, plain_a);
    }
    if constexpr (Soft && CrossEntropyB) {
      const Vec plain_b = exp_negative(b);
      exp_b.add(plain_b);
      store(e.b + i, plain_b);
    }
    if (i % (16 * kLanes) == 0) {
      for (Sum* s : sums) {
        s->settle();
      }
    }
  });
  const double sum_a_T = exp_a_T.total();
  const double sum_b_T = exp_b_T.total();
  return {
      Soft ? exp_a.total() : sum_a_T,
      Soft && CrossEntropyB ? exp_b.total() : sum_b_T,
      sum_a_T,
      sum_b_T,
      cross_a.total(),
      cross_b.total(),
      total_a.total(),
      total_b.total(),
  };
}

// The row's target u before smoothing: `dense`, or the shares of two classes.
struct RowLabels {
  const float* dense;
  int64_t first;
  int64_t second;
  float first_share;
  float second_share;
  bool valid;
};

ACT_HD RowLabels row_labels(const PairLoss& p, int64_t row) {
  if (p.dense != nullptr) {
    return {p.dense + row * p.classes, 0, 0, 0.0f, 0.0f, true};
  }
  const int64_t first = p.labels[row];
  const int64_t second = p.other_labels != nullptr ? p.other_labels[row] : first;
  const float share = p.other_labels != nullptr ? p.shares[row] : 1.0f;
  const bool valid = first >= 0 && first < p.classes && second >= 0 && second < p.classes;
  return {nullptr, valid ? first : 0, valid ? second : 0, share, 1.0f - share, valid};
}

template <class T>
ACT_HD RowTarget<double> row_target(
    const RowLabels& u, const T* z, const T* t, int64_t classes, float max_z, float max_t) {
  if (u.dense == nullptr) {
    auto dot = [&](const T* row, float top) {
      return static_cast<double>(share_of(u.first_share, load_one(row + u.first) - top)) +
             share_of(u.second_share, load_one(row + u.second) - top);
    };
    const double mass = static_cast<double>(u.first_share) + u.second_share;
    return {dot(z, max_z), dot(t, max_t), mass, u.valid ? 0.0 : static_cast<double>(NAN)};
  }
  Sum dot_a, dot_b, mass;
  for_each_part(classes, [&](int64_t i, int64_t count) {
    const Vec share = load_up_to(u.dense + i, count, 0.0f);
    dot_a.add(share_of(share, load_up_to(z + i, count, 0.0f) - max_z));
    dot_b.add(share_of(share, load_up_to(t + i, count, 0.0f) - max_t));
    mass.add(share);
    dot_a.settle();
    dot_b.settle();
    mass.settle();
  });
  return {dot_a.total(), dot_b.total(), mass.total(), 0.0};
}

// grad[i] = formula(i) − at_label · u(i) for the row, each rounded once.
template <class T, class Formula>
ACT_HD void write_gradient(T* grad, int64_t classes, const RowLabels& u, float at_label, Formula formula) {
  if (u.dense != nullptr) {
    for_each_part(classes, [&](int64_t i, int64_t count) {
      store_up_to(grad + i, formula(i) - at_label * load_up_to(u.dense + i, count, 0.0f), count);
    });
    return;
  }
  for_each_part(classes, [&](int64_t i, int64_t count) { store_up_to(grad + i, formula(i), count); });
  auto correct = [&](int64_t label, float share) {
    const int64_t block = label / kLanes * kLanes;
    store_one(grad + label, formula(block)[label - block] - at_label * share);
  };
  if (u.first == u.second) {
    correct(u.first, u.first_share + u.second_share);
  } else {
    correct(u.first, u.first_share);
    correct(u.second, u.second_share);
  }
}

template <bool Soft, bool CrossEntropyB, class T>
ACT_HD void one_row(const PairLoss& p, int64_t row, const RowExponentials& e) {
  const int64_t n = p.classes;
  const T* z = static_cast<const T*>(p.z) + row * n;
  const T* t = static_cast<const T*>(p.t) + row * n;
  T* grad_z = p.grad_z == nullptr ? nullptr : static_cast<T*>(p.grad_z) + row * n;
  T* grad_t = p.grad_t == nullptr ? nullptr : static_cast<T*>(p.grad_t) + row * n;
  const float temperature = p.temperature;
  const float inverse_T = 1.0f / temperature;

  const RowLabels labels = row_labels(p, row);
  const double scale = labels.valid ? p.grad_scale : NAN;
  const float max_z = row_maximum(z, n);
  const float max_t = row_maximum(t, n);
  const RowSums<double> s = row_sums<Soft, CrossEntropyB>(z, t, n, max_z, max_t, inverse_T, e);
  const RowTarget<double> u = row_target(labels, z, t, n, max_z, max_t);

  if (p.loss_z != nullptr || p.loss_t != nullptr) {
    const Losses<double> loss = row_losses<double>(p, s, u, [](double v) { return std::log(v); });
    if (p.loss_z != nullptr) {
      p.loss_z[row] = static_cast<float>(loss.z);
    }
    if (p.loss_t != nullptr) {
      p.loss_t[row] = static_cast<float>(loss.t);
    }
  }

  const double inverse_a_T = 1.0 / s.exp_a_T;
  const double inverse_b_T = 1.0 / s.exp_b_T;
  auto terms = [&](double ce, double kl, double sum, double own_T, double other_T, double cross) {
    return gradient_terms<float, double, double>(
        scale, ce, kl, temperature, p.label_smoothing, n, u.mass, 1.0 / sum, own_T, other_T, cross);
  };
  if (grad_z != nullptr) {
    const GradientTerms<float> k = terms(p.ce_z, p.kl_z, s.exp_a, inverse_a_T, inverse_b_T, 0.0);
    write_gradient(grad_z, n, labels, k.at_label, [&](int64_t i) {
      return student_gradient(k, load(e.a + i), load(e.a_T + i), load(e.b_T + i));
    });
  }
  if (grad_t != nullptr && !p.joint) {
    const GradientTerms<float> k = terms(p.ce_t, p.kl_t, s.exp_b, inverse_b_T, inverse_a_T, 0.0);
    write_gradient(grad_t, n, labels, k.at_label, [&](int64_t i) {
      return student_gradient(k, load(e.b + i), load(e.b_T + i), load(e.a_T + i));
    });
  }
  if (grad_t != nullptr && p.joint) {
    const GradientTerms<float> k = terms(p.ce_t, p.kl_z, s.exp_b, inverse_b_T, inverse_a_T, s.cross_b);
    write_gradient(grad_t, n, labels, k.at_label, [&](int64_t i) {
      const int64_t count = n - i < kLanes ? n - i : kLanes;
      const Vec a = load_up_to(z + i, count, 0.0f) - max_z;
      const Vec b = load_up_to(t + i, count, 0.0f) - max_t;
      return teacher_gradient(k, load(e.b + i), load(e.b_T + i), (b - a) * inverse_T);
    });
  }
}

#include "few_classes.h"

template <class T>
void pair_loss_of(const PairLoss& p, int64_t begin, int64_t end) {
  if (p.classes <= kFewClasses) {
    return rows_in_lanes<T>(p, begin, end);
  }
  const int64_t padded = (p.classes + kLanes - 1) / kLanes * kLanes;
  float* scratch = thread_scratch(4 * padded);
  RowExponentials e{scratch, scratch + padded, scratch + 2 * padded, scratch + 3 * padded};
  if (p.temperature == 1.0f) {
    e.a = e.a_T;
    e.b = e.b_T;
    for (int64_t row = begin; row < end; ++row) {
      one_row<false, false, T>(p, row, e);
    }
  } else if (p.ce_t != 0.0f) {
    for (int64_t row = begin; row < end; ++row) {
      one_row<true, true, T>(p, row, e);
    }
  } else {
    e.b = e.b_T;  // not used
    for (int64_t row = begin; row < end; ++row) {
      one_row<true, false, T>(p, row, e);
    }
  }
}

void pair_loss(const PairLoss& p, int64_t begin, int64_t end) {
  switch (p.dtype) {
    case DType::float16:
      return pair_loss_of<Half>(p, begin, end);
    case DType::bfloat16:
      return pair_loss_of<BFloat>(p, begin, end);
    default:
      return pair_loss_of<float>(p, begin, end);
  }
}
