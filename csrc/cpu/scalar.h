// Host side of the one-thread-per-problem body: prepares chunks, and turns its results into the
// job's. Shared by the CUDA back end and by the host run of the same body.
#pragma once

#include "core/body.h"
#include "core/finish.h"
#include "core/recycle.h"

namespace megascale {
inline namespace MS_ISA {

template <class Law>
struct BodyChunk {
  Pooled<Prepared<Law>> prepared;
  Pooled<BodyProblem<Law>> problems;
  Columns<Law> columns;

  void load(const FitJob& job, int64_t begin, int64_t end) {
    columns.clear();
    prepared.resize(end - begin);
    problems.resize(end - begin);
    for (int64_t id = begin; id < end; ++id) {
      Prepared<Law>& p = prepared[id - begin];
      prepare<Law, double>(job, id, p, columns);
      BodyProblem<Law>& b = problems[id - begin];
      b.at = static_cast<int64_t>(p.at);
      b.projected_at = static_cast<int64_t>(p.projected_at);
      b.count = p.count;
      b.projected_count = p.projected_count;
      b.valid = p.status == kConverged;
      b.projected_anchor = p.projected_anchor;
      b.full_anchor = p.full_anchor;
      for (int i = 0; i < Law::kParams; ++i) {
        b.lower[i] = p.lower[i];
        b.upper[i] = p.upper[i];
        b.free[i] = p.free[i];
      }
      if (job.initial && b.valid) {
        double u[Law::kParams];
        Law::from_natural(job.initial + id * Law::kParams, p.sx, p.sy, u);
        for (int i = 0; i < Law::kParams; ++i) b.start[i] = to_solver<Law>(i, u[i], p.full_anchor);
      }
    }
  }

  BodyColumns<Law> view() const {
    BodyColumns<Law> v;
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

  void store(const FitJob& job, const BodyResult<Law>* results) const {
    const double none[3] = {};
    for (size_t i = 0; i < prepared.size(); ++i) {
      const BodyResult<Law>& r = results[i];
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
BodyOptions body_options(const FitJob& job) {
  BodyOptions o;
  o.residual = full_residual<Law>(job);
  o.along_ray = along_ray<Law>(job);
  o.given_start = job.initial != nullptr;
  o.starts = job.starts;
  o.projected.tolerance = std::max(job.tolerance, 1e-8);
  o.projected.floor = 1e-15;
  o.full.tolerance = job.tolerance;
  o.full.floor = 1e-27;
  if (same_objective<Law>(job) && !o.given_start) o.full.start_damping = 1e-6;
  o.projected.max_iterations = o.full.max_iterations =
      job.max_iterations > 0 ? job.max_iterations : 200;
  return o;
}

}  // namespace MS_ISA
}  // namespace megascale
