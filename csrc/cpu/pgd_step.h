// pgd_step and random_start on the CPU. No include guard: see vector.h.

// What is the same for consecutive elements: all of one sample, and of one channel unless the channels alternate so fast
// that the bounds are read from a repeating pattern.
struct Constants {
  Vec step;
  Vec eps;
  Vec lower;
  Vec upper;
  const float* lower_pattern;  // null, or the bounds of `period` elements and of the first few again
  const float* upper_pattern;
  int64_t period;
};

// Calls body(first, last, constants) for each run of elements in [begin, end) that one set of constants serves.
template <class Body>
ACT_HD void for_each_run(const ImageStep& s, int64_t begin, int64_t end, Body body) {
  Constants c{splat(s.step_size), splat(s.eps), splat(s.lower), splat(s.upper), nullptr, nullptr, 1};
  const bool by_sample = s.step_sizes != nullptr || s.epsilons != nullptr;
  const bool by_channel = s.lowers != nullptr || s.uppers != nullptr;
  const bool by_pattern = by_channel && s.inner < kLanes;
  if (by_pattern) {
    c.period = s.channels * s.inner;
    float* lower = thread_scratch(2 * (c.period + kLanes));
    float* upper = lower + c.period + kLanes;
    for (int64_t i = 0; i < c.period + kLanes; ++i) {
      const int64_t channel = (i / s.inner) % s.channels;
      lower[i] = s.lowers != nullptr ? s.lowers[channel] : s.lower;
      upper[i] = s.uppers != nullptr ? s.uppers[channel] : s.upper;
    }
    c.lower_pattern = lower;
    c.upper_pattern = upper;
  }
  for (int64_t first = begin; first < end;) {
    int64_t last = end;
    if (by_sample || by_pattern) {
      const int64_t sample = first / s.sample_size;
      last = (sample + 1) * s.sample_size;
      c.step = splat(s.step_sizes != nullptr ? s.step_sizes[sample] : s.step_size);
      c.eps = splat(s.epsilons != nullptr ? s.epsilons[sample] : s.eps);
    }
    if (by_channel && !by_pattern) {
      const int64_t plane = first / s.inner;
      const int64_t channel = plane % s.channels;
      last = (plane + 1) * s.inner;  // never beyond the sample, whose size is channels · inner
      c.lower = splat(s.lowers != nullptr ? s.lowers[channel] : s.lower);
      c.upper = splat(s.uppers != nullptr ? s.uppers[channel] : s.upper);
    }
    last = last < end ? last : end;
    body(first, last, c);
    first = last;
  }
}

// out[i] = element(constants, at) for i in [first, last), a vector at a time, where at(p) reads p[i], p[i + 1], ...
// With `streamed`, whole vectors lie on vector boundaries of `out` and are stored past the caches.
template <class Out, class Element>
ACT_HD void for_each_vector(
    Out* out, int64_t first, int64_t last, const ImageStep& s, Constants c, bool streamed, Element element) {
  int64_t phase = c.lower_pattern != nullptr ? (first % s.sample_size) % c.period : 0;
  const int64_t stride = kLanes % c.period;
  auto bounds = [&](int64_t advance) {
    if (c.lower_pattern != nullptr) {
      c.lower = load(c.lower_pattern + phase);
      c.upper = load(c.upper_pattern + phase);
      phase += advance;
      phase -= phase >= c.period ? c.period : 0;
    }
  };
  auto part = [&](int64_t i, int64_t count) {
    bounds(count % c.period);
    const Vec v = element(c, [&](auto* p) { return load_part(p + i, count, 0.0f); });
    store_part(out + i, v, count);
  };
  auto whole = [&](int64_t i) {
    bounds(stride);
    return element(c, [&](auto* p) { return load(p + i); });
  };
  int64_t i = first;
  if constexpr (std::is_same_v<Out, float>) {
    if (streamed) {
      const int64_t beyond = static_cast<int64_t>(reinterpret_cast<uintptr_t>(out + i) % sizeof(Vec)) / 4;
      const int64_t head = beyond == 0 ? 0 : kLanes - beyond;
      if (head > 0 && head <= last - i) {
        part(i, head);
        i += head;
      }
      if (reinterpret_cast<uintptr_t>(out + i) % sizeof(Vec) == 0) {
        for (; i + kLanes <= last; i += kLanes) {
          stream(out + i, whole(i));
        }
      }
    }
  }
  for (; i + kLanes <= last; i += kLanes) {
    store(out + i, whole(i));
  }
  if (i < last) {
    part(i, last - i);
  }
}

// Calls run with null pointers of the images' types: (out and x_adv, grad, x).
template <class T, class Run>
ACT_HD void with_clean_type(const ImageStep& s, Run run) {
  auto with_grad = [&](auto* x) {
    switch (s.grad_dtype) {
      case DType::float16:
        return run(static_cast<T*>(nullptr), static_cast<Half*>(nullptr), x);
      case DType::bfloat16:
        return run(static_cast<T*>(nullptr), static_cast<BFloat*>(nullptr), x);
      default:
        return run(static_cast<T*>(nullptr), static_cast<float*>(nullptr), x);
    }
  };
  if (s.x_dtype == DType::uint8) {
    with_grad(static_cast<uint8_t*>(nullptr));
  } else {
    with_grad(static_cast<T*>(nullptr));
  }
}

template <class Run>
ACT_HD void with_types(const ImageStep& s, Run run) {
  switch (s.dtype) {
    case DType::float16:
      return with_clean_type<Half>(s, run);
    case DType::bfloat16:
      return with_clean_type<BFloat>(s, run);
    default:
      return with_clean_type<float>(s, run);
  }
}

template <class T, class G, class X>
void linf_step_of(const ImageStep& s, int64_t begin, int64_t end, bool streamed) {
  auto* x_adv = static_cast<const T*>(s.x_adv);
  auto* grad = static_cast<const G*>(s.grad);
  auto* x = static_cast<const X*>(s.x);
  auto element = [=](const Constants& c, auto at) {
    return act::linf_step(at(x_adv), at(grad), at(x), c.step, c.eps, c.lower, c.upper);
  };
  for_each_run(s, begin, end, [&](int64_t first, int64_t last, const Constants& c) {
    for_each_vector(static_cast<T*>(s.out), first, last, s, c, streamed, element);
  });
  if (streamed) {
    end_streaming();
  }
}

// Elements whose noise is made at a time, to be read back from the first-level cache.
constexpr int64_t kNoise = 1024;

// Fills noise[0, kNoise) with that of elements `first`, ... of image `image`; first is a multiple of 4.
ACT_HD void make_noise(float* noise, int64_t count, uint64_t key, uint64_t image, int64_t first, bool gaussian) {
  for (int64_t i = 0; i < count; i += 4 * kLanes) {
    uint32_t words[4 * kLanes];
    philox(words, key, static_cast<uint64_t>(first + i) / 4, image);
    for (int64_t j = 0; j < 4 * kLanes; j += kLanes) {
      const VecInt high = bits_as<VecInt>(read<VecBits>(words + j) >> 8);
      const Vec steps = __builtin_convertvector(high, Vec);
      store(noise + i + j, gaussian ? normal(steps) : uniform_noise(steps));
    }
  }
}

template <class T, class X>
void random_start_of(const ImageStep& s, int64_t begin, int64_t end) {
  alignas(64) float noise[kNoise + 4 * kLanes];
  auto* x = static_cast<const X*>(s.x);
  for (int64_t first = begin; first < end;) {
    const int64_t image = first / s.sample_size;
    const int64_t start = first - (first - image * s.sample_size) % 4;  // of the counter that the first element shares
    int64_t last = start + kNoise < end ? start + kNoise : end;
    last = last < (image + 1) * s.sample_size ? last : (image + 1) * s.sample_size;
    make_noise(noise, last - start, *s.key, s.first + image, start - image * s.sample_size, s.gaussian);
    const float* from_start = noise;
    auto element = [=](const Constants& c, auto at) {
      const Vec clean = at(x);
      return clip(clean + c.step * at(from_start - start), c.lower, c.upper);
    };
    for_each_run(s, first, last, [&](int64_t low, int64_t high, const Constants& c) {
      for_each_vector(static_cast<T*>(s.out), low, high, s, c, false, element);
    });
    first = last;
  }
}

// Σ element² over [first, last), in double.
template <class Element>
ACT_HD double sum_of_squares(int64_t first, int64_t last, Element element) {
  VecDouble total{};
  auto add = [&](Vec v) {
    const VecDouble d = __builtin_convertvector(v, VecDouble);
    total += d * d;
  };
  int64_t i = first;
  for (; i + kLanes <= last; i += kLanes) {
    add(element([=](auto* p) { return load(p + i); }));
  }
  if (i < last) {
    add(element([=](auto* p) { return load_part(p + i, last - i, 0.0f); }));
  }
  double result = 0.0;
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    result += total[lane];
  }
  return result;
}

template <class T, class G, class X>
void l2_step_of(const ImageStep& s, int64_t begin, int64_t end) {
  auto* x_adv = static_cast<const T*>(s.x_adv);
  auto* grad = static_cast<const G*>(s.grad);
  auto* x = static_cast<const X*>(s.x);
  for (int64_t sample = begin; sample < end; ++sample) {
    const int64_t start = sample * s.sample_size;
    const int64_t stop = start + s.sample_size;
    const float step = s.step_sizes != nullptr ? s.step_sizes[sample] : s.step_size;
    const float eps = s.epsilons != nullptr ? s.epsilons[sample] : s.eps;
    const double length = std::sqrt(sum_of_squares(start, stop, [=](auto at) { return at(grad); }));
    const L2Factors factors = l2_factors(step, length);
    auto delta = [=](auto at) { return l2_delta(at(x_adv), at(grad), at(x), factors); };
    const double distance = std::sqrt(sum_of_squares(start, stop, delta));
    const float shrink = l2_shrink(eps, distance);
    auto element = [=](const Constants& c, auto at) {
      return l2_project(at(x), delta(at), shrink, c.lower, c.upper);
    };
    for_each_run(s, start, stop, [&](int64_t first, int64_t last, const Constants& c) {
      for_each_vector(static_cast<T*>(s.out), first, last, s, c, false, element);
    });
  }
}

void linf_step(const ImageStep& s, int64_t begin, int64_t end, bool streamed) {
  with_types(s, [&](auto* t, auto* g, auto* x) {
    using T = std::remove_pointer_t<decltype(t)>;
    using G = std::remove_pointer_t<decltype(g)>;
    using X = std::remove_pointer_t<decltype(x)>;
    linf_step_of<T, G, X>(s, begin, end, streamed);
  });
}

void l2_step(const ImageStep& s, int64_t begin, int64_t end) {
  with_types(s, [&](auto* t, auto* g, auto* x) {
    using T = std::remove_pointer_t<decltype(t)>;
    using G = std::remove_pointer_t<decltype(g)>;
    using X = std::remove_pointer_t<decltype(x)>;
    l2_step_of<T, G, X>(s, begin, end);
  });
}

void random_start(const ImageStep& s, int64_t begin, int64_t end) {
  with_types(s, [&](auto* t, auto*, auto* x) {
    random_start_of<std::remove_pointer_t<decltype(t)>, std::remove_pointer_t<decltype(x)>>(s, begin, end);
  });
}
