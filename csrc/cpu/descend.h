// The local search (core/starts.h, Descent) of all problems of a chunk at a time.
#pragma once

#include "cpu/sources.h"

namespace megascale {
inline namespace MS_ISA {

// The variations that one round tries, as points of the projected problem.
template <class Law, class Pipeline>
void ask_for_variations(Pipeline& fits, Pooled<Descent>& descents,
                        Pooled<ProjectedTask<Law>>& tasks) {
  Chunk<Law>& chunk = fits.chunk();
  tasks.clear();
  for (size_t i = 0; i < chunk.problems.size(); ++i) {
    const Prepared<Law>& p = chunk.problems[i];
    const Solution<Law>& s = chunk.solutions[i];
    if (!fits.ok(i) || !(s.cost < kInfeasible)) continue;
    const StartRange range = descents[i].next(Law::kMoves, along_ray<Law>(fits.job()), s.converged);
    double u[Law::kParams];
    for (int k = 0; k < Law::kParams; ++k) u[k] = from_solver<Law>(k, s.t[k], p.full_anchor);
    const double* inputs = measured_inputs(chunk.columns, along_ray<Law>(fits.job())) + p.at;
    for (int k = range.from; k < range.to; ++k) {
      ProjectedTask<Law> task;
      task.problem = static_cast<int>(i);
      Law::move(k, u, inputs, p.count, p.projected_anchor, task.t);
      tasks.push_back(task);
    }
  }
}

// From the optima of problems whose descent has not ended. False when cancelled.
template <class Law, class Real, template <class, class> class Pipeline>
bool descend(Pipeline<Law, Real>& fits, Pooled<Descent>& descents) {
  Chunk<Law>& chunk = fits.chunk();
  Pooled<ProjectedTask<Law>> tasks;
  Pooled<FullTask<Law>> variations, best;
  for (;;) {
    ask_for_variations<Law>(fits, descents, tasks);
    if (tasks.empty()) break;
    if (!fits.solve_linear(tasks)) return false;
    variations.clear();
    for (const ProjectedTask<Law>& task : tasks) {
      const Prepared<Law>& p = chunk.problems[task.problem];
      FullTask<Law> f;
      f.problem = task.problem;
      start_variation<Law>(task.t, task.c, task.cost < kInfeasible, chunk.solutions[task.problem].t,
                           p.projected_anchor, p.full_anchor, f.t);
      variations.push_back(f);
    }
    if (!fits.scout(variations, Descent::options(full_options<Law>(fits.job())))) return false;
    best.clear();
    for (const FullTask<Law>& f : variations) {
      Solution<Law>& s = chunk.solutions[f.problem];
      ++s.starts;
      s.iterations += f.iterations;
      descents[f.problem].count(f.cost, s.cost);
      if (!Descent::promising(f.cost, s.cost)) continue;
      if (best.empty() || best.back().problem != f.problem)
        best.push_back(f);
      else if (f.cost < best.back().cost)
        best.back() = f;
    }
    Pooled<double> before;
    for (const FullTask<Law>& f : best) before.push_back(chunk.solutions[f.problem].cost);
    if (!fits.polish(best)) return false;
    for (size_t k = 0; k < best.size(); ++k)
      descents[best[k].problem].judge(best[k].cost, before[k]);
  }
  return true;
}

}  // namespace MS_ISA
}  // namespace megascale
