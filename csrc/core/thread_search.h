// The search of a law with a screen (core/screen.h) for one problem in one thread: the same rounds,
// sieve and local search (core/starts.h) as those of the SIMD lanes (cpu/screened.h).
#pragma once

#include "core/screen.h"
#include "core/thread_problem.h"

namespace megascale {
inline namespace MS_ISA {

// The local search from the optimum in `out`; the machine is set up for the full problem. Returns
// the descent as it ended.
template <class Law, class Machine, class ProjectedProblem>
MS_HD Descent descend(Machine& machine, const ProjectedProblem& projected, const double* inputs,
                      const ThreadProblem<Law>& p, const ThreadOptions& options,
                      ThreadResult<Law>* out) {
  constexpr int P = Law::kParams, Q = Law::kNonlinear, L = Law::kLinear;
  Descent descent;
  for (;;) {
    const StartRange range = descent.next(Law::kMoves, options.along_ray, out->converged);
    if (range.from == range.to) return descent;
    double u[P], du[P], best[P], best_cost = kInfeasible;
    machine.problem.coordinates(out->t, u, du);
    machine.options = Descent::options(options.full);
    for (int k = range.from; k < range.to; ++k) {
      double t[Q], c[L], g[Q], h[packed_size(Q)], cost;
      Law::move(k, u, inputs, p.count, p.projected_anchor, t);
      projected.evaluate(t, &cost, g, h, c);
      start_variation<Law>(t, c, cost < kInfeasible, out->t, p.projected_anchor, p.full_anchor,
                           machine.t);
      hold_fixed(p, machine.t);
      run_to_end(machine);
      ++out->starts;
      out->iterations += static_cast<int>(machine.iterations);
      descent.count(machine.cost, out->cost);
      if (!(machine.cost < best_cost)) continue;
      best_cost = machine.cost;
      for (int i = 0; i < P; ++i) best[i] = machine.t[i];
    }
    if (!Descent::promising(best_cost, out->cost)) continue;
    for (int i = 0; i < P; ++i) machine.t[i] = best[i];
    const double before = out->cost;
    polish(machine, before, p, options, out);
    descent.judge(machine.cost, before);
  }
}

// Starts of one problem on their way through the sieve.
template <int N, int P>
struct Candidates {
  double t[N][P], cost[N];
  int count = 0;

  // Runs all for some iterations; returns the sum of iterations.
  template <class Machine>
  MS_HD int run(Machine& machine, const SolverOptions& options) {
    int iterations = 0;
    machine.options = options;
    for (int k = 0; k < count; ++k) {
      for (int i = 0; i < P; ++i) machine.t[i] = t[k][i];
      run_to_end(machine);
      cost[k] = machine.cost;
      iterations += static_cast<int>(machine.iterations);
      for (int i = 0; i < P; ++i) t[k][i] = machine.t[i];
    }
    return iterations;
  }

  // Keeps the best M distinct ones, best first.
  template <int M>
  MS_HD void keep() {
    Few<M> best;
    for (int k = 0; k < count; ++k) best.add(cost[k], k);
    double kept[M][P];
    for (int k = 0; k < best.count; ++k)
      for (int i = 0; i < P; ++i) kept[k][i] = t[best.run[k]][i];
    count = best.count;
    for (int k = 0; k < count; ++k) {
      cost[k] = best.cost[k];
      for (int i = 0; i < P; ++i) t[k][i] = kept[k][i];
    }
  }
};

// The starts that one round hands to the polish.
template <class Law, class Machine, class ProjectedProblem>
MS_HD void sieve(Machine& machine, const ProjectedProblem& projected, const StartContext& context,
                 int round, const ThreadProblem<Law>& p, const ThreadOptions& options,
                 ThreadResult<Law>* out, Candidates<Law::kKinds, Law::kParams>& full) {
  constexpr int Q = Law::kNonlinear, L = Law::kLinear;
  Screen<ProjectedProblem, Law> screen;
  screen.problem = projected;
  Law::knots(context, round, screen.knots);
  run_to_end(screen);
  int cells[Law::kKinds];
  Candidates<Law::kKinds, Q> starts;
  starts.count = screen.winners(0, cells);
  for (int k = 0; k < starts.count; ++k)
    Law::cell_start(cells[k], screen.knots, p.projected_anchor, starts.t[k]);
  out->starts += starts.count;
  LevenbergMarquardt<ProjectedProblem> scout;
  scout.problem = projected;
  const bool same = options.same_objective && !p.constrained;
  out->iterations += starts.run(
      scout, Sieve::options(options.projected, same ? Sieve::kProjectedSame : Sieve::kProjected));
  if (same) {
    starts.template keep<Sieve::kRefined>();
    out->iterations += starts.run(scout, options.projected);
    starts.template keep<Sieve::kPolishedSame>();
  }
  full.count = 0;
  for (int k = 0; k < starts.count; ++k) {
    double g[Q], h[packed_size(Q)], c[L], cost;
    projected.evaluate(starts.t[k], &cost, g, h, c);
    if (!(cost < kInfeasible)) continue;
    double* t = full.t[full.count++];
    start_full<Law>(starts.t[k], c, p.projected_anchor, p.full_anchor, t);
    hold_fixed(p, t);
  }
  if (same) return;
  out->iterations += full.run(machine, Sieve::options(options.full, 0));
  full.template keep<Sieve::kBegun>();
  out->iterations += full.run(machine, Sieve::options(options.full, Sieve::kFirst));
  full.template keep<Sieve::kHalf>();
  out->iterations += full.run(machine, Sieve::options(options.full, Sieve::kSecond));
  full.template keep<Sieve::kPolished>();
}

// Rounds until the verdict; the machine is set up for the full problem.
template <class Law, class Machine, class ProjectedProblem>
MS_HD void search_screened(Machine& machine, const ProjectedProblem& projected,
                           const StartContext& context, const double* inputs,
                           const ThreadProblem<Law>& p, const ThreadOptions& options,
                           ThreadResult<Law>* out) {
  Verdict verdict;
  out->starts = 0;
  for (int round = 0; round < Verdict::kRounds && !verdict.settled(); ++round) {
    Candidates<Law::kKinds, Law::kParams> full;
    sieve<Law>(machine, projected, context, round, p, options, out, full);
    const double before = out->cost;
    for (int k = 0; k < full.count; ++k) {
      for (int i = 0; i < Law::kParams; ++i) machine.t[i] = full.t[k][i];
      polish(machine, before, p, options, out);
      full.cost[k] = machine.cost;
    }
    if (full.count == 0) continue;
    double lowest = kInfeasible;
    for (int k = 0; k < full.count; ++k) {
      lowest = vmin(lowest, full.cost[k]);
      verdict.compare(full.cost[k], out->cost);
    }
    if (verdict.judge(lowest, before)) {
      const Descent descent = descend<Law>(machine, projected, inputs, p, options, out);
      verdict.settle(descent.agreeing, descent.improved, out->converged);
    }
    out->agreeing = verdict.agreeing();
  }
}

}  // namespace MS_ISA
}  // namespace megascale
