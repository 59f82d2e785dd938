// What one instruction set's translation unit offers. `MS_ISA` names it at compile time.
#pragma once

#include "engine.h"

namespace megascale {

struct Backend {
  const char* name;
  // Fits problems [begin, end); with a bootstrap also replicates [from, to) of them. Results of the
  // fit itself are written only when `write` is set. False when cancelled.
  bool (*run)(const FitJob& job, int64_t begin, int64_t end, bool write, int from, int to,
              const std::atomic<bool>& cancel);
};

const Backend& baseline_backend();
#if defined(MEGASCALE_X86)
const Backend& avx2_backend();
const Backend& avx512_backend();
#endif

}  // namespace megascale
