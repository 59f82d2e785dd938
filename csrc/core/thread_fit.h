// The whole fit of one problem in one thread: what a CUDA thread runs, and what the host runs for
// every index in turn where there is no device. It fits squared losses only, with the same
// machines, laws and start strategy as the SIMD lanes and `double` in place of a lane vector.
#pragma once

#include "core/full.h"
#include "core/law.h"
#include "core/lm.h"
#include "core/projected.h"
#include "core/search.h"
#include "core/starts.h"

namespace megascale {
inline namespace MS_ISA {

// Columns of all problems of a chunk and the facts about one of them; plain pointers, so that the
// same structs serve device memory.
template <class Law>
struct ThreadColumns {
  const double* full_x[Law::kInputs];
  const double* projected_x[Law::kInputs];
  const double *y, *log_y, *root, *projected_y, *scale, *target;
};

template <class Law>
struct ThreadProblem {
  static constexpr int P = Law::kParams;
  int64_t at, projected_at;
  int32_t count, projected_count, valid, constrained;
  double projected_anchor, full_anchor;
  double lower[P], upper[P], free[P], start[P];
};

struct ThreadOptions {
  Residual residual;
  bool along_ray, given_start;
  bool same_objective;  // the projected problem's is the one asked for
  bool descends;        // the search goes on from the optimum found
  int starts;
  SolverOptions projected, full;
};

template <class Law>
struct ThreadResult {
  double cost;
  double t[Law::kParams];
  double h[packed_size(Law::kParams)];
  int32_t iterations, starts, agreeing;
  int32_t converged, exhausted;
};

template <class Machine>
MS_HD inline void run_to_end(Machine& machine) {
  machine.admit(true);
  while (!machine.done) machine.iterate();
}

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

// Where a run of the full problem ended, if that is the best so far.
template <class Law, class Machine>
MS_HD void keep_better(const Machine& machine, ThreadResult<Law>* out) {
  if (!(machine.cost < out->cost)) return;
  out->cost = machine.cost;
  for (int i = 0; i < Law::kParams; ++i) out->t[i] = machine.t[i];
  for (int i = 0; i < packed_size(Law::kParams); ++i) out->h[i] = machine.h[i];
  out->converged = machine.converged;
  out->exhausted = machine.iterations >= machine.options.max_iterations;
}

// The local search from the optimum in `out`; the machine is set up for the full problem.
template <class Law, class Machine, class ProjectedProblem>
MS_HD void descend(Machine& machine, const ProjectedProblem& projected, const StartContext& context,
                   const double* inputs, const ThreadProblem<Law>& p, const ThreadOptions& options,
                   ThreadResult<Law>* out) {
  constexpr int P = Law::kParams, Q = Law::kNonlinear, L = Law::kLinear;
  Descent descent;
  for (;;) {
    bool fresh;
    const StartRange range = descent.next(Law::kMoves, out->converged, &fresh);
    if (range.from == range.to) break;
    double u[P], du[P], best[P], best_cost = kInfeasible;
    machine.problem.coordinates(out->t, u, du);
    machine.options = Descent::options(options.full);
    for (int k = range.from; k < range.to; ++k) {
      double t[Q], c[L], g[Q], h[packed_size(Q)], cost;
      if (fresh)
        Law::grid(k, context, t);
      else
        Law::move(k, u, inputs, p.count, p.projected_anchor, t);
      projected.evaluate(t, &cost, g, h, c);
      start_variation<Law>(t, c, cost < kInfeasible, out->t, p.projected_anchor, p.full_anchor,
                           machine.t);
      for (int i = 0; i < P; ++i)
        if (p.free[i] == 0) machine.t[i] = p.lower[i];
      run_to_end(machine);
      ++out->starts;
      out->iterations += static_cast<int>(machine.iterations);
      descent.count(machine.cost, out->cost);
      if (!(machine.cost < best_cost)) continue;
      best_cost = machine.cost;
      for (int i = 0; i < P; ++i) best[i] = machine.t[i];
    }
    if (!Descent::promising(best_cost, out->cost)) continue;
    machine.options = options.full;
    for (int i = 0; i < P; ++i) machine.t[i] = best[i];
    run_to_end(machine);
    out->iterations += static_cast<int>(machine.iterations);
    descent.judge(machine.cost, out->cost);
    keep_better<Law>(machine, out);
  }
  out->agreeing = descent.agreeing;
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
  Optima<Q> optima;
  int polished = 1;
  if (!options.given_start) {
    if constexpr (Q > 0) {
      search<Law>(projected, columns.projected_y + p.projected_at, p, options, &optima);
      out->iterations = optima.iterations;
      out->starts = optima.starts;
      out->agreeing = optima.agreeing;
    }
    polished = optima.to_polish(options.same_objective, p.constrained, false,
                                Law::kMoves > 0 && options.descends);
  }
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
  machine.options = options.full;
  for (int k = 0; k < polished; ++k) {
    if (options.given_start) {
      for (int i = 0; i < P; ++i) machine.t[i] = p.start[i];
    } else {
      double g[kSlots], h[packed_size(kSlots)], c[L], cost;
      projected.evaluate(optima.t[k], &cost, g, h, c);
      start_full<Law>(optima.t[k], c, p.projected_anchor, p.full_anchor, machine.t);
    }
    for (int i = 0; i < P; ++i)
      if (p.free[i] == 0) machine.t[i] = p.lower[i];
    run_to_end(machine);
    out->iterations += static_cast<int>(machine.iterations);
    keep_better<Law>(machine, out);
  }
  if constexpr (Law::kMoves > 0) {
    if (!options.descends || !(out->cost < kInfeasible)) return;
    const double* x[X];
    for (int k = 0; k < X; ++k) x[k] = columns.projected_x[k] + p.projected_at;
    const StartContext context{x, columns.projected_y + p.projected_at, p.projected_count,
                               p.projected_anchor};
    const double* inputs = options.along_ray ? columns.y : columns.full_x[0];
    descend<Law>(machine, projected, context, inputs + p.at, p, options, out);
  }
}

}  // namespace MS_ISA
}  // namespace megascale
