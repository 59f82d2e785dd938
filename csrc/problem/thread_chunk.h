// The host's side of `fit_in_thread`: prepares chunks of problems for it, and turns its results
// into the job's. The CUDA back end and the host's run of the same code share it.
#pragma once

#include "core/recycle.h"
#include "core/thread_fit.h"
#include "problem/finish.h"

namespace megascale {
inline namespace MS_ISA {

template <class Law>
struct ThreadChunk {
  Pooled<Prepared<Law>> prepared;
  Pooled<ThreadProblem<Law>> problems;
  Columns<Law> columns;

  void load(const FitJob& job, int64_t begin, int64_t end) {
    columns.clear();
    prepared.resize(end - begin);
    problems.resize(end - begin);
    for (int64_t id = begin; id < end; ++id) {
      Prepared<Law>& p = prepared[id - begin];
      prepare<Law, double>(job, id, p, columns);
      ThreadProblem<Law>& b = problems[id - begin];
      b.at = static_cast<int64_t>(p.at);
      b.projected_at = static_cast<int64_t>(p.projected_at);
      b.count = p.count;
      b.projected_count = p.projected_count;
      b.valid = p.status == kConverged;
      b.constrained = p.constrained;
      b.bounded = p.bounded;
      b.projected_anchor = p.projected_anchor;
      b.full_anchor = p.full_anchor;
      for (int i = 0; i < Law::kParams; ++i) {
        b.lower[i] = p.lower[i];
        b.upper[i] = p.upper[i];
        b.free[i] = p.free[i];
      }
      if (job.initial && b.valid) start_from_natural(p, job.initial + id * Law::kParams, b.start);
    }
  }

  ThreadColumns<Law> view() const {
    ThreadColumns<Law> v;
    for (int k = 0; k < Law::kInputs; ++k) {
      v.full_x[k] = columns.full_x[k].data();
      v.projected_x[k] = columns.projected_x[k].data();
    }
    v.y = columns.y.data();
    v.log_y = columns.log_y.data();
    v.root = columns.root.data();
    v.projected_y = columns.projected_y.data();
    v.scale = columns.scale.data();
    v.target = columns.target.data();
    return v;
  }

  void store(const FitJob& job, const ThreadResult<Law>* results) const {
    const double none[3] = {};
    for (size_t i = 0; i < prepared.size(); ++i) {
      const ThreadResult<Law>& r = results[i];
      Solution<Law> s;
      s.cost = r.cost;
      std::copy(r.t, r.t + Law::kParams, s.t);
      std::copy(r.h, r.h + packed_size(Law::kParams), s.h);
      s.converged = r.converged;
      s.exhausted = r.exhausted;
      s.iterations = r.iterations;
      s.starts = r.starts;
      s.agreeing = r.agreeing;
      finish(job, prepared[i], s, columns, none);
    }
  }
};

template <class Law>
ThreadOptions thread_options(const FitJob& job) {
  ThreadOptions o;
  o.residual = full_residual<Law>(job);
  o.along_ray = along_ray<Law>(job);
  o.given_start = job.initial != nullptr;
  o.starts = job.starts;
  o.descends = descends(job);
  o.settles = settles(job);
  o.same_objective = same_objective<Law>(job);
  o.projected = projected_options(job);
  o.full = full_options<Law>(job);
  return o;
}

}  // namespace MS_ISA
}  // namespace megascale
