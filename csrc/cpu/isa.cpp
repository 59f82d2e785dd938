// The CPU engine for one instruction set: compiled once per set, with MS_ISA, MS_LANES and
// MS_BACKEND set by the build.
#include <atomic>
#include <cmath>
#include <memory>

#include "cpu/backend.h"
#include "cpu/bootstrap.h"
#include "laws/registry.h"

namespace megascale {
inline namespace MS_ISA {

#if MS_HAS_PACK
using Lanes = Pack<MS_LANES>;
#else
using Lanes = double;
#endif

template <class Law>
bool run_law(const FitJob& job, int64_t begin, int64_t end, bool write, int from, int to,
             const std::atomic<bool>& cancel) {
  auto pipeline = std::make_unique<Pipeline<Law, Lanes>>(job, cancel);
  if (!pipeline->run(begin, end, write)) return false;
  if (to <= from) return true;
  auto boot = std::make_unique<Bootstrapper<Law, Lanes>>(job, *pipeline, cancel);
  return boot->run(from, to);
}

bool run_job(const FitJob& job, int64_t begin, int64_t end, bool write, int from, int to,
             const std::atomic<bool>& cancel) {
  using Run = bool (*)(const FitJob&, int64_t, int64_t, bool, int, int, const std::atomic<bool>&);
#define MS_ROW(L) &run_law<L>,
  static constexpr Run table[] = {MEGASCALE_LAWS(MS_ROW)};
#undef MS_ROW
  return table[job.law](job, begin, end, write, from, to, cancel);
}

}  // namespace MS_ISA

const Backend& MS_BACKEND() {
  static const Backend backend = {MS_ISA_NAME, &run_job};
  return backend;
}

}  // namespace megascale
