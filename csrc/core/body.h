// The whole fit of one problem in one thread: what a CUDA thread runs, and what the host runs for
// every index in turn where there is no device. Squared loss; the same machines and laws as the
// SIMD lanes, with `double` in place of a lane vector.
#pragma once

#include "core/full.h"
#include "core/lm.h"
#include "core/projected.h"
#include "laws/law.h"

namespace megascale {
inline namespace MS_ISA {

// Columns of all problems of a chunk and the facts about one of them; plain pointers, so that the
// same structs serve device memory.
template <class Law>
struct BodyColumns {
  const double* full_x[Law::kInputs];
  const double* projected_x[Law::kInputs];
  const double *y, *log_y, *root, *projected_y, *scale, *target;
};

template <class Law>
struct BodyProblem {
  static constexpr int P = Law::kParams;
  int64_t at, projected_at;
  int32_t count, projected_count, valid;
  double projected_anchor, full_anchor;
  double lower[P], upper[P], free[P], start[P];
};

struct BodyOptions {
  Residual residual;
  bool along_ray, given_start;
  int starts;
  SolverOptions projected, full;
};

template <class Law>
struct BodyResult {
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

template <class Law>
MS_HD void fit_body(const BodyColumns<Law>& columns, const BodyProblem<Law>& p,
                    const BodyOptions& options, BodyResult<Law>* out) {
  constexpr int P = Law::kParams, Q = Law::kNonlinear, X = Law::kInputs, L = Law::kLinear;
  constexpr int kSlots = Q > 0 ? Q : 1;
  constexpr int kFirst = 10, kMore = 24, kWanted = 3, kBest = 3;
  using ProjectedProblem = typename ProjectedForm<Law, double>::type;
  out->cost = kInfeasible;
  out->iterations = out->starts = out->agreeing = 0;
  out->converged = out->exhausted = 0;
  if (!p.valid) return;
  double best_cost[kBest], best_t[kBest][kSlots];
  for (int k = 0; k < kBest; ++k) best_cost[k] = kInfeasible;
  int optima = 1;
  ProjectedProblem projected;
  const double* inputs[X];
  for (int k = 0; k < X; ++k)
    inputs[k] = projected.points.x[k] = columns.projected_x[k] + p.projected_at;
  projected.points.scale = columns.scale + p.projected_at;
  projected.points.target = columns.target + p.projected_at;
  projected.points.count = p.projected_count;
  projected.anchor = p.projected_anchor;
  if constexpr (Q > 0) {
    if (!options.given_start) {
      const StartContext context{inputs, columns.projected_y + p.projected_at, p.projected_count,
                                 p.projected_anchor};
      LevenbergMarquardt<ProjectedProblem> machine;
      machine.problem = projected;
      machine.options = options.projected;
      int cell[4] = {0, -1, -1, -1};
      int total = options.starts > 0 ? options.starts : kFirst + kMore;
      if constexpr (!Law::kDesignedStarts) {
        double lowest[4] = {kInfeasible, kInfeasible, kInfeasible, kInfeasible};
        for (int n = 0; n < Law::kGrid; ++n) {
          double t[kSlots], g[kSlots], h[packed_size(kSlots)], cost;
          Law::grid(n, context, t);
          projected.evaluate(t, &cost, g, h);
          int at = n;
          for (int k = 0; k < 4; ++k) {
            if (!(cost < lowest[k])) continue;
            const double swap_cost = lowest[k];
            const int swap_cell = cell[k];
            lowest[k] = cost;
            cell[k] = at;
            cost = swap_cost;
            at = swap_cell;
          }
        }
        total = options.starts > 0 ? (options.starts < 4 ? options.starts : 4) : 2;
      }
      for (int n = 0; n < total; ++n) {
        if (Law::kDesignedStarts && options.starts == 0 && n == kFirst && out->agreeing >= kWanted)
          break;
        const int index = Law::kDesignedStarts ? n : cell[n];
        if (index < 0) break;
        if (!Law::kDesignedStarts && options.starts == 0 && n > 0 &&
            same_valley<Law>(cell[0], index))
          continue;
        Law::grid(index, context, machine.t);
        run_to_end(machine);
        out->iterations += static_cast<int>(machine.iterations);
        ++out->starts;
        double cost = machine.cost;
        if (!(cost < kInfeasible)) continue;
        const double margin = 1e-6 * vmin(best_cost[0], cost) + 1e-15 * p.count;
        if (vabs(cost - best_cost[0]) <= margin) {
          ++out->agreeing;
          if (cost < best_cost[0]) {
            best_cost[0] = cost;
            for (int i = 0; i < Q; ++i) best_t[0][i] = machine.t[i];
          }
          continue;
        }
        for (int k = 0; k < kBest; ++k) {
          if (vabs(cost - best_cost[k]) <= 1e-6 * best_cost[k]) break;
          if (!(cost < best_cost[k])) continue;
          for (int m = kBest - 1; m > k; --m) {
            best_cost[m] = best_cost[m - 1];
            for (int i = 0; i < Q; ++i) best_t[m][i] = best_t[m - 1][i];
          }
          best_cost[k] = cost;
          for (int i = 0; i < Q; ++i) best_t[k][i] = machine.t[i];
          if (k == 0) out->agreeing = 1;
          break;
        }
      }
      optima = 0;
      while (optima < kBest && best_cost[optima] < kInfeasible) ++optima;
    }
  } else {
    out->starts = out->agreeing = 1;
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
  for (int k = 0; k < optima; ++k) {
    if (options.given_start) {
      for (int i = 0; i < P; ++i) machine.t[i] = p.start[i];
      out->starts = out->agreeing = 1;
    } else {
      double g[kSlots], h[packed_size(kSlots)], c[L], u[P], cost;
      projected.evaluate(best_t[k], &cost, g, h, c);
      Law::assemble(best_t[k], c, p.projected_anchor, u);
      for (int i = 0; i < P; ++i) machine.t[i] = start_coordinate<Law>(i, u[i], p.full_anchor);
    }
    for (int i = 0; i < P; ++i)
      if (p.free[i] == 0) machine.t[i] = p.lower[i];
    run_to_end(machine);
    out->iterations += static_cast<int>(machine.iterations);
    if (!(machine.cost < out->cost)) continue;
    out->cost = machine.cost;
    for (int i = 0; i < P; ++i) out->t[i] = machine.t[i];
    for (int i = 0; i < packed_size(P); ++i) out->h[i] = machine.h[i];
    out->converged = machine.converged;
    out->exhausted = machine.iterations >= options.full.max_iterations;
  }
}

}  // namespace MS_ISA
}  // namespace megascale
