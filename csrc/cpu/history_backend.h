// What one instruction set's laws of histories offer.
#pragma once

#include <atomic>

#include "history.h"

namespace megascale {

struct HistoryBackend {
  void (*predict)(const HistoryJob& job, const double* params, double* values, double* gradients);
  // Workers: each takes the next start, or replicate, until none is left.
  void (*starts)(const HistoryFit& fit, std::atomic<int>& next, HistoryEnd* ends,
                 std::atomic<int64_t>& done, const std::atomic<bool>& cancel);
  void (*replicates)(const HistoryFit& fit, std::atomic<int>& next, const double* best,
                     std::atomic<int64_t>& done, const std::atomic<bool>& cancel);
};

const HistoryBackend& baseline_history_backend();
#if defined(MEGASCALE_X86)
const HistoryBackend& avx2_history_backend();
const HistoryBackend& avx512_history_backend();
#endif

}  // namespace megascale
