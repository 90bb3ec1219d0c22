// The ops' native kernels on the CPU.

#include <vector>

#include "../cpu/kernels.h"
#include "ops.h"

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

void run_step(const ImageStep& s, bool l2, const Tensor& out) {
  const Kernels& k = kernels();
  if (l2) {
    torch::stable::parallel_for(0, s.samples, grain_of(s.sample_size), [&](int64_t begin, int64_t end) {
      k.l2_step(s, begin, end);
    });
  } else {
    const int64_t elements = s.samples * s.sample_size;
    const bool streamed = s.out != s.x_adv && elements * static_cast<int64_t>(out.element_size()) > kStreamedBytes;
    torch::stable::parallel_for(0, elements, kGrain, [&](int64_t begin, int64_t end) {
      k.linf_step(s, begin, end, streamed);
    });
  }
}

void run_random_start(const ImageStep& s, const Tensor&) {
  const Kernels& k = kernels();
  torch::stable::parallel_for(0, s.samples * s.sample_size, kGrain, [&](int64_t begin, int64_t end) {
    k.random_start(s, begin, end);
  });
}

// The sums are taken in the rows' order, so that the number of threads does not show.
float reduced(const float* values, int64_t count, Reduction reduction) {
  double total = 0.0;
  for (int64_t i = 0; i < count; ++i) {
    total += values[i];
  }
  return static_cast<float>(reduction == Reduction::sum ? total : total / static_cast<double>(std::max<int64_t>(1, count)));
}

void run_pair_loss(PairLoss p, Reduction reduction, float* const (&losses)[2], const Tensor&) {
  std::vector<float> rows;
  if (losses[0] != nullptr) {
    rows.resize(static_cast<size_t>(p.rows * (losses[1] != nullptr ? 2 : 1)));
    p.loss_z = rows.data();
    p.loss_t = losses[1] != nullptr ? rows.data() + p.rows : nullptr;
  }
  const Kernels& k = kernels();
  torch::stable::parallel_for(0, p.rows, grain_of(4 * p.classes), [&](int64_t begin, int64_t end) {
    k.pair_loss(p, begin, end);
  });
  if (losses[0] != nullptr) {
    *losses[0] = reduced(p.loss_z, p.rows, reduction);
  }
  if (losses[1] != nullptr) {
    *losses[1] = reduced(p.loss_t, p.rows, reduction);
  }
}

bool labels_are_classes(const PairLoss& p) {
  bool all = true;
  for (const int64_t* labels : {p.labels, p.other_labels}) {
    for (int64_t row = 0; labels != nullptr && row < p.rows; ++row) {
      all = all && labels[row] >= 0 && labels[row] < p.classes;
    }
  }
  return all;
}

}  // namespace
}  // namespace act

ACT_REGISTER_OPS(CPU)

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
