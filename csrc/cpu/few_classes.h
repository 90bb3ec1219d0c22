// act_loss and kl_ce_loss of few classes on the CPU: a row a lane, where pair_loss.h's vectors along a row would be filled
// in part and added up across lanes. No include guard: see vector.h.

// Up to here the columns of a block of rows stay in the first-level cache.
constexpr int64_t kFewClasses = 32;

// A matrix of up to kLanes rows: column c of lane r is the row's class c.
struct Columns {
  Vec column[kFewClasses];

  // Row-major rows at p; the lanes beyond `rows` get 0.
  template <class T>
  ACT_HD void read_rows(const T* p, int64_t rows, int64_t classes) {
    alignas(64) float flat[kFewClasses * kLanes];
    const int64_t count = rows * classes;
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      store(flat + i, load(p + i));
    }
    if (i < count) {
      store(flat + i, load_part(p + i, count - i, 0.0f));
      i += kLanes;
    }
    for (; i < kLanes * classes; i += kLanes) {
      store(flat + i, Vec{});
    }
    for (int64_t c = 0; c < classes; ++c) {
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        column[c][lane] = flat[lane * classes + c];
      }
    }
  }

  template <class T>
  ACT_HD void write_rows(T* p, int64_t rows, int64_t classes) const {
    alignas(64) float flat[kFewClasses * kLanes];
    for (int64_t c = 0; c < classes; ++c) {
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        flat[lane * classes + c] = column[c][lane];
      }
    }
    for_each_part(rows * classes, [&](int64_t i, int64_t count) { store_up_to(p + i, load(flat + i), count); });
  }

  ACT_HD Vec maximum(int64_t classes) const {
    Vec best = column[0];
    for (int64_t c = 1; c < classes; ++c) {
      best = column[c] > best ? column[c] : best;
    }
    return best;
  }
};

// The rows' targets u before smoothing: one distribution a lane.
struct Targets {
  Columns u;
  Vec known;  // 0, or NaN where a label is not a class

  ACT_HD void read(const PairLoss& p, int64_t row, int64_t rows) {
    known = Vec{};
    if (p.dense != nullptr) {
      return u.read_rows(p.dense + row * p.classes, rows, p.classes);
    }
    for (int64_t c = 0; c < p.classes; ++c) {
      u.column[c] = Vec{};
    }
    for (int64_t lane = 0; lane < rows; ++lane) {
      const RowLabels labels = row_labels(p, row + lane);
      u.column[labels.first][lane] = labels.first_share;
      u.column[labels.second][lane] += p.other_labels != nullptr ? labels.second_share : 0.0f;
      known[lane] = labels.valid ? 0.0f : NAN;
    }
  }
};

struct LogOfLanes {
  ACT_HD Vec operator()(Vec v) const { return log_positive(v); }
};

template <class T>
ACT_HD void block_of_rows(const PairLoss& p, int64_t row, int64_t rows) {
  const int64_t n = p.classes;
  const int64_t offset = row * n;
  const bool soft = p.temperature != 1.0f;
  const float inverse_T = 1.0f / p.temperature;
  Columns a, b, exp_a, exp_b, exp_a_T, exp_b_T;
  Targets target;
  a.read_rows(static_cast<const T*>(p.z) + offset, rows, n);
  b.read_rows(static_cast<const T*>(p.t) + offset, rows, n);
  target.read(p, row, rows);
  const Vec max_a = a.maximum(n);
  const Vec max_b = b.maximum(n);

  Vec total[11] = {};
  for (int64_t c = 0; c < n; ++c) {
    const Vec of_a = a.column[c] -= max_a;
    const Vec of_b = b.column[c] -= max_b;
    const Vec u = target.u.column[c];
    const Vec difference = (of_a - of_b) * inverse_T;
    const Vec soft_a = exp_a_T.column[c] = exp_negative(soft ? of_a * inverse_T : of_a);
    const Vec soft_b = exp_b_T.column[c] = exp_negative(soft ? of_b * inverse_T : of_b);
    exp_a.column[c] = soft ? exp_negative(of_a) : soft_a;
    exp_b.column[c] = soft ? exp_negative(of_b) : soft_b;
    const Vec terms[] = {
        exp_a.column[c], exp_b.column[c], soft_a, soft_b, soft_a * difference, soft_b * -difference,
        of_a, of_b, share_of(u, of_a), share_of(u, of_b), u,
    };
    for (int64_t i = 0; i < 11; ++i) {
      total[i] += terms[i];
    }
  }
  const RowSums<Vec> s = {total[0], total[1], total[2], total[3], total[4], total[5], total[6], total[7]};
  const RowTarget<Vec> u = {total[8], total[9], total[10], target.known};

  if (p.loss_z != nullptr || p.loss_t != nullptr) {
    const Losses<Vec> loss = row_losses<float>(p, s, u, LogOfLanes{});
    if (p.loss_z != nullptr) {
      store_up_to(p.loss_z + row, loss.z, rows);
    }
    if (p.loss_t != nullptr) {
      store_up_to(p.loss_t + row, loss.t, rows);
    }
  }

  const Vec scale = p.grad_scale + target.known;
  const Vec inverse_a_T = 1.0f / s.exp_a_T;
  const Vec inverse_b_T = 1.0f / s.exp_b_T;
  auto terms = [&](float ce, float kl, Vec sum, Vec own_T, Vec other_T, Vec cross) {
    return gradient_terms<Vec, Vec, float>(
        scale, ce, kl, p.temperature, p.label_smoothing, n, u.mass, 1.0f / sum, own_T, other_T, cross);
  };
  auto write = [&](void* grad, const GradientTerms<Vec>& k, auto formula) {
    Columns result;
    for (int64_t c = 0; c < n; ++c) {
      result.column[c] = formula(c) - k.at_label * target.u.column[c];
    }
    result.write_rows(static_cast<T*>(grad) + offset, rows, n);
  };
  if (p.grad_z != nullptr) {
    const GradientTerms<Vec> k = terms(p.ce_z, p.kl_z, s.exp_a, inverse_a_T, inverse_b_T, Vec{});
    write(p.grad_z, k, [&](int64_t c) {
      return student_gradient(k, exp_a.column[c], exp_a_T.column[c], exp_b_T.column[c]);
    });
  }
  if (p.grad_t != nullptr && !p.joint) {
    const GradientTerms<Vec> k = terms(p.ce_t, p.kl_t, s.exp_b, inverse_b_T, inverse_a_T, Vec{});
    write(p.grad_t, k, [&](int64_t c) {
      return student_gradient(k, exp_b.column[c], exp_b_T.column[c], exp_a_T.column[c]);
    });
  }
  if (p.grad_t != nullptr && p.joint) {
    const GradientTerms<Vec> k = terms(p.ce_t, p.kl_z, s.exp_b, inverse_b_T, inverse_a_T, s.cross_b);
    write(p.grad_t, k, [&](int64_t c) {
      return teacher_gradient(k, exp_b.column[c], exp_b_T.column[c], (b.column[c] - a.column[c]) * inverse_T);
    });
  }
}

template <class T>
void rows_in_lanes(const PairLoss& p, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; row += kLanes) {
    block_of_rows<T>(p, row, end - row < kLanes ? end - row : kLanes);
  }
}
