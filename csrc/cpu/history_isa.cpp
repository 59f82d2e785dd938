// Laws of histories for one instruction set: compiled once per set, as isa.cpp is.
#include <memory>

#include "cpu/history_backend.h"
#include "history/solve.h"

namespace megascale {
inline namespace MS_ISA {

#if MS_HAS_PACK
using Wide = Pack<MS_LANES>;
#else
using Wide = double;
#endif

void predict_set(const HistoryJob& job, const double* params, double* values, double* gradients) {
  const Prepared prepared(job);
  Evaluator<Wide> evaluator(prepared);
  evaluator.set(params, gradients ? (1u << kHistoryParams) - 1 : 0);
  const int64_t points = prepared.points;
  for (int64_t r = 0; r < job.runs; ++r) {
    double* columns[kHistoryParams];
    for (int k = 0; k < kHistoryParams; ++k)
      columns[k] = gradients ? gradients + k * points + job.point_offsets[r] : nullptr;
    evaluator.run(r, values + job.point_offsets[r], columns);
  }
}

// One worker: takes starts, or replicates of the bootstrap, until none is left.
void history_starts(const HistoryFit& fit, std::atomic<int>& next, HistoryEnd* ends,
                    std::atomic<int64_t>& done, const std::atomic<bool>& cancel) {
  const Prepared prepared(fit.job);
  HistoryProblem<Wide> problem(fit, prepared);
  for (int i = next++; i < fit.starts && !cancel; i = next++, ++done)
    ends[i] = run_from(problem, fit, fit.start + i * kHistoryParams, true, cancel);
}

void history_replicates(const HistoryFit& fit, std::atomic<int>& next, const double* best,
                        std::atomic<int64_t>& done, const std::atomic<bool>& cancel) {
  const Prepared prepared(fit.job);
  HistoryProblem<Wide> problem(fit, prepared);
  for (int i = next++; i < fit.replicates && !cancel; i = next++, ++done) {
    problem.draw(drawn(fit.seed, fit.job.runs, i));
    const HistoryEnd end = run_from(problem, fit, best, false, cancel);
    if (!(end.cost < kInfeasible)) continue;
    std::copy_n(end.theta, static_cast<int>(kHistoryParams), fit.boot_params + i * kHistoryParams);
    fit.boot_objective[i] = end.cost;
  }
}

}  // namespace MS_ISA

const HistoryBackend& MS_HISTORY_BACKEND() {
  static const HistoryBackend backend = {&predict_set, &history_starts, &history_replicates};
  return backend;
}

}  // namespace megascale
