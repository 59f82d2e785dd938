// Picks the instruction set at run time and spreads chunks of problems over threads.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <exception>
#include <limits>
#include <mutex>
#include <thread>
#include <vector>

#include "cpu/backend.h"
#include "laws/registry.h"

namespace megascale {
namespace {

std::vector<const Backend*> available() {
  std::vector<const Backend*> found;
#if defined(MEGASCALE_X86) && !defined(MEGASCALE_ONLY_BASELINE)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
    found.push_back(&avx512_backend());
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    found.push_back(&avx2_backend());
#endif
  found.push_back(&baseline_backend());
  return found;
}

std::atomic<const Backend*>& forced() {
  static std::atomic<const Backend*> backend{nullptr};
  return backend;
}

const Backend& backend() {
  static const Backend* widest = available().front();
  const Backend* chosen = forced().load();
  return chosen ? *chosen : *widest;
}

// One piece of work: problems [begin, end), replicates [from, to) of each.
struct Unit {
  int64_t begin, end;
  int from, to;
};

std::vector<Unit> split(const FitJob& job) {
  constexpr int64_t kLeast = 256, kMost = 2048, kPoints = 1 << 15, kReplicates = 2048;
  const int replicates = job.bootstrap == Bootstrap::kNone ? 0 : job.replicates;
  std::vector<Unit> units;
  // Large chunks, because the last few slow problems of each leave lanes idle; yet several a
  // thread, and no more starts at a time than fit into some 50 MB.
  constexpr int64_t kStarts = 1 << 18;
  const int64_t starts = job.compatibility_grid ? 4500 : std::max(job.starts, 1);
  const int64_t share = job.threads > 1 ? job.problems / (4 * job.threads) : kMost;
  const int64_t wanted =
      std::max<int64_t>(1, std::min({std::max(share, kLeast), kMost, kStarts / starts}));
  const int64_t most = replicates > 0 ? std::max<int64_t>(1, kReplicates / replicates) : wanted;
  int64_t begin = 0;
  while (begin < job.problems) {
    int64_t end = begin + 1;
    while (end < job.problems && end - begin < std::min(most, kMost) &&
           job.offsets[end + 1] - job.offsets[begin] <= kPoints)
      ++end;
    for (int from = 0; from == 0 || from < replicates; from += kReplicates)
      units.push_back({begin, end, from, std::min<int>(replicates, from + kReplicates)});
    begin = end;
  }
  return units;
}

void mark_cancelled(const FitJob& job, int64_t begin, int64_t end, int params, int derived) {
  const int triangle = params * (params + 1) / 2;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (int64_t id = begin; id < end; ++id) {
    std::fill_n(job.params + id * params, params, nan);
    std::fill_n(job.covariance + id * triangle, triangle, nan);
    if (job.derived_errors) std::fill_n(job.derived_errors + id * derived, derived, nan);
    job.objective[id] = job.rms[id] = job.r_squared[id] = nan;
    job.points[id] = job.free_params[id] = job.iterations[id] = 0;
    job.starts_used[id] = job.agreeing[id] = 0;
    job.flags[id] = 0;
    job.bad_row[id] = -1;
    job.status[id] = kCancelled;
  }
}

template <class Law>
LawInfo describe() {
  LawInfo info;
  info.name = Law::kName;
  for (int i = 0; i < Law::kParams; ++i) {
    info.params.push_back(Law::kParamNames[i]);
    info.positive_params.push_back(Law::coordinate(i) != Coordinate::kIdentity);
  }
  for (int i = 0; i < Law::kInputs; ++i) info.inputs.push_back(Law::kInputNames[i]);
  for (int i = 0; i < Law::kDerived; ++i) info.derived.push_back(Law::kDerivedNames[i]);
  info.target = Law::kTargetName;
  info.default_residual = Law::kDefault;
  info.tokens_steps = Law::kHasRay || Law::kAlongRay;
  info.positive_target = Law::kPositiveTarget;
  return info;
}

template <class Law>
void derive_law(int64_t n, const double* params, double* values) {
  for (int64_t id = 0; id < n; ++id)
    Law::derived(params + id * Law::kParams, values + id * Law::kDerived);
}

}  // namespace

const std::vector<LawInfo>& laws() {
#define MS_ROW(L) describe<L>(),
  static const std::vector<LawInfo> all = {MEGASCALE_LAWS(MS_ROW)};
#undef MS_ROW
  return all;
}

void derive(int law, int64_t n, const double* params, double* values) {
  using Derive = void (*)(int64_t, const double*, double*);
#define MS_ROW(L) &derive_law<L>,
  static constexpr Derive table[] = {MEGASCALE_LAWS(MS_ROW)};
#undef MS_ROW
  table[law](n, params, values);
}

std::string instruction_set() { return backend().name; }

bool force_instruction_set(const std::string& name) {
  for (const Backend* b : available()) {
    if (name == b->name) {
      forced().store(b);
      return true;
    }
  }
  return false;
}

void fit(const FitJob& job, Progress* progress) {
  const std::vector<Unit> units = split(job);
  const Backend& engine = backend();
  const int params = static_cast<int>(laws()[job.law].params.size());
  const int derived = static_cast<int>(laws()[job.law].derived.size());
  std::atomic<size_t> next{0};
  std::exception_ptr failure;
  std::mutex failure_lock;
  auto work = [&] {
    try {
      for (size_t i = next++; i < units.size(); i = next++) {
        const Unit& u = units[i];
        const bool finished = !progress->cancel && engine.run(job, u.begin, u.end, u.from == 0,
                                                              u.from, u.to, progress->cancel);
        if (!finished && u.from == 0) mark_cancelled(job, u.begin, u.end, params, derived);
        if (finished &&
            u.to == std::max(u.to, job.bootstrap == Bootstrap::kNone ? 0 : job.replicates))
          progress->done += u.end - u.begin;
      }
    } catch (...) {
      const std::lock_guard<std::mutex> hold(failure_lock);
      failure = std::current_exception();
      progress->cancel = true;
    }
  };
  const int threads = std::max(1, std::min<int>(job.threads, static_cast<int>(units.size())));
  std::vector<std::thread> pool;
  for (int i = 1; i < threads; ++i) pool.emplace_back(work);
  work();
  for (std::thread& t : pool) t.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace megascale
