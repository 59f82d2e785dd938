// The whole fit of one problem in one thread: what a CUDA thread runs, and what the host runs for
// every index in turn where there is no device. It fits squared losses only, with the same
// machines, laws and start strategy as the SIMD lanes and `double` in place of a lane vector.
#pragma once

#include "core/projected.h"
#include "core/search.h"
#include "core/thread_search.h"

namespace megascale {
inline namespace MS_ISA {

// The cells of a law's grid, worked out one at a time.
template <class Law>
struct LawCells {
  MS_HD int count() const { return Law::kGrid; }
  MS_HD void at(int n, double* t) const { Law::grid(n, StartContext{}, t); }
};

// The projected problem of one problem of the chunk.
template <class Law>
MS_HD auto projected_problem(const ThreadColumns<Law>& columns, const ThreadProblem<Law>& p) {
  typename ProjectedForm<Law, double>::type projected;
  for (int k = 0; k < Law::kInputs; ++k)
    projected.points.x[k] = columns.projected_x[k] + p.projected_at;
  projected.points.scale = columns.scale + p.projected_at;
  projected.points.target = columns.target + p.projected_at;
  projected.points.count = p.projected_count;
  projected.anchor = p.projected_anchor;
  return projected;
}

// Runs the starts.
template <class Law, class ProjectedProblem>
MS_HD void search(const ProjectedProblem& projected, const double* y, const ThreadProblem<Law>& p,
                  const ThreadOptions& options, Optima<Law::kNonlinear>* optima) {
  const StartContext context{projected.points.x, y, p.projected_count, p.projected_anchor};
  int cells[kBestCells];
  if constexpr (!Law::kDesignedStarts) {
    GridSearch<ProjectedProblem, LawCells<Law>> sweep;
    sweep.problem = projected;
    run_to_end(sweep);
    sweep.best_cells(0, cells);
  }
  LevenbergMarquardt<ProjectedProblem> machine;
  machine.problem = projected;
  machine.options = options.projected;
  const StartRange ranks = starts_of<Law>(options.starts, options.along_ray);
  for (int rank = ranks.from; rank < ranks.to; ++rank) {
    const int point = start_of_rank<Law>(rank, options.starts, cells);
    if (point < 0) continue;
    Law::grid(point, context, machine.t);
    run_to_end(machine);
    optima->add(machine.cost, machine.t, static_cast<int>(machine.iterations), p.count);
  }
}

template <class Law>
MS_HD void fit_in_thread(const ThreadColumns<Law>& columns, const ThreadProblem<Law>& p,
                         const ThreadOptions& options, ThreadResult<Law>* out) {
  constexpr int P = Law::kParams, Q = Law::kNonlinear, X = Law::kInputs, L = Law::kLinear;
  constexpr int kSlots = Q > 0 ? Q : 1;
  out->cost = kInfeasible;
  out->iterations = 0;
  out->starts = out->agreeing = 1;
  out->converged = out->exhausted = 0;
  if (!p.valid) {
    out->starts = out->agreeing = 0;
    return;
  }
  const auto projected = projected_problem<Law>(columns, p);
  LevenbergMarquardt<Full<Law, double>> machine;
  auto& full = machine.problem;
  for (int k = 0; k < X; ++k) full.points.x[k] = columns.full_x[k] + p.at;
  full.points.y = columns.y + p.at;
  full.points.log_y = columns.log_y + p.at;
  full.points.root = columns.root + p.at;
  full.points.count = p.count;
  full.residual = options.residual;
  full.along_ray = options.along_ray;
  full.anchor = p.full_anchor;
  for (int i = 0; i < P; ++i) {
    full.lower[i] = p.lower[i];
    full.upper[i] = p.upper[i];
    full.free[i] = p.free[i];
  }
  if constexpr (Law::kKinds > 0) {
    if (options.descends) {
      const double* x[X];
      for (int k = 0; k < X; ++k) x[k] = columns.projected_x[k] + p.projected_at;
      const StartContext context{x, columns.projected_y + p.projected_at, p.projected_count,
                                 p.projected_anchor};
      const double* inputs = options.along_ray ? columns.y : columns.full_x[0];
      search_screened<Law>(machine, projected, context, inputs + p.at, p, options, out);
      return;
    }
  }
  Optima<Q> optima;
  int polished = 1;
  if (!options.given_start) {
    if constexpr (Q > 0) {
      search<Law>(projected, columns.projected_y + p.projected_at, p, options, &optima);
      out->iterations = optima.iterations;
      out->starts = optima.starts;
      out->agreeing = optima.agreeing;
    }
    polished = optima.to_polish(options.same_objective, p.constrained, false);
  }
  for (int k = 0; k < polished; ++k) {
    if (options.given_start) {
      for (int i = 0; i < P; ++i) machine.t[i] = p.start[i];
    } else {
      double g[kSlots], h[packed_size(kSlots)], c[L], cost;
      projected.evaluate(optima.t[k], &cost, g, h, c);
      start_full<Law>(optima.t[k], c, p.projected_anchor, p.full_anchor, machine.t);
    }
    hold_fixed(p, machine.t);
    polish(machine, kInfeasible, p, options, out);
  }
}

}  // namespace MS_ISA
}  // namespace megascale
