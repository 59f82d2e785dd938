// Spreads starts, replicates and predictions of laws of histories over threads.
#include "history.h"

#include <algorithm>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "cpu/history_backend.h"
#include "history/family.h"

namespace megascale {
namespace {

const HistoryBackend& backend() {
#if defined(MEGASCALE_X86)
  const std::string name = instruction_set();
  if (name == "avx512") return avx512_history_backend();
  if (name == "avx2") return avx2_history_backend();
#endif
  return baseline_history_backend();
}

template <class Work>
void spread(int threads, int64_t pieces, std::atomic<bool>& cancel, Work work) {
  std::exception_ptr failure;
  std::mutex lock;
  auto guarded = [&] {
    try {
      work();
    } catch (...) {
      const std::lock_guard<std::mutex> hold(lock);
      failure = std::current_exception();
      cancel = true;
    }
  };
  std::vector<std::thread> pool;
  for (int64_t i = 1; i < std::min<int64_t>(threads, pieces); ++i) pool.emplace_back(guarded);
  guarded();
  for (std::thread& t : pool) t.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace

const char* const* history_param_names() {
  static const char* const names[] = {"L_inf", "a",     "p", "T0",  "u",   "r",     "B_n",
                                      "omega", "c",     "x", "q",   "tau", "kappa", "c2",
                                      "tau2",  "gamma", "g", "n_L", "n_a", "n_c"};
  static_assert(sizeof(names) / sizeof(names[0]) == kHistoryParams, "one name a parameter");
  return names;
}

bool history_log_coordinate(int param) { return is_log(param); }

void predict_histories(const HistoryJob& job, int64_t sets, const double* params, double* values,
                       double* gradients) {
  const int64_t points = job.point_offsets[job.runs];
  for (int64_t s = 0; s < sets; ++s)
    backend().predict(job, params + s * kHistoryParams, values + s * points,
                      gradients ? gradients + s * kHistoryParams * points : nullptr);
}

void fit_histories(const HistoryFit& fit, Progress* progress) {
  const HistoryBackend& engine = backend();
  std::vector<HistoryEnd> ends(fit.starts);
  std::atomic<int> next{0};
  spread(fit.threads, fit.starts, progress->cancel,
         [&] { engine.starts(fit, next, ends.data(), progress->done, progress->cancel); });
  int best = 0;
  int32_t iterations = 0;
  for (int i = 0; i < fit.starts; ++i) {
    if (ends[i].cost < ends[best].cost) best = i;
    iterations += ends[i].iterations;
    fit.start_cost[i] = ends[i].cost;
    std::copy_n(ends[i].theta, static_cast<int>(kHistoryParams),
                fit.start_params + i * kHistoryParams);
  }
  *fit.iterations = iterations;
  *fit.objective = ends[best].cost;
  *fit.status = progress->cancel ? kCancelled : ends[best].status;
  std::copy_n(ends[best].theta, static_cast<int>(kHistoryParams), fit.params);
  if (fit.replicates == 0 || ends[best].status == kInfeasible_) return;
  std::atomic<int> replicate{0};
  spread(fit.threads, fit.replicates, progress->cancel,
         [&] { engine.replicates(fit, replicate, fit.params, progress->done, progress->cancel); });
}

}  // namespace megascale
