// The search of a law with a screen (core/screen.h), for all problems of a chunk at a time: rounds
// of screening, sieving the winners (core/starts.h, Sieve), polishing, and a local search.
#pragma once

#include "core/screen.h"
#include "cpu/descend.h"

namespace megascale {
inline namespace MS_ISA {

// The tasks of one problem lie together: keeps the best N distinct of each.
template <int N, class Task>
void keep_best(Pooled<Task>& tasks) {
  Pooled<Task> kept;
  for (size_t from = 0, to; from < tasks.size(); from = to) {
    Few<N> best;
    for (to = from; to < tasks.size() && tasks[to].problem == tasks[from].problem; ++to)
      best.add(tasks[to].cost, static_cast<int>(to - from));
    for (int k = 0; k < best.count; ++k) kept.push_back(tasks[from + best.run[k]]);
  }
  tasks.swap(kept);
}

template <class Law, class Real, template <class, class> class Pipeline>
class ScreenedSearch {
 public:
  using Fits = Pipeline<Law, Real>;
  explicit ScreenedSearch(Fits& fits) : fits_(fits), chunk_(fits.chunk()) {}

  // False when cancelled.
  bool run() {
    Pooled<Verdict> verdicts(chunk_.problems.size());
    Pooled<Descent> descents;
    for (int round = 0; round < Verdict::kRounds; ++round) {
      Pooled<ProjectedTask<Law>> open;
      for (size_t i = 0; i < chunk_.problems.size(); ++i) {
        if (!fits_.ok(i) || verdicts[i].settled()) continue;
        open.emplace_back();
        open.back().problem = static_cast<int>(i);
      }
      if (open.empty()) break;
      Pooled<FullTask<Law>> full;
      if (!screen(round, open) || !sieve(open, full)) return false;
      Pooled<double> before;
      for (const Solution<Law>& s : chunk_.solutions) before.push_back(s.cost);
      if (!fits_.polish(full)) return false;
      descents.assign(chunk_.problems.size(), Descent());
      for (Descent& d : descents) d.ended = true;
      judge(full, before, verdicts, descents);
      if (!descend(fits_, descents)) return false;
      for (size_t i = 0; i < chunk_.problems.size(); ++i) {
        Solution<Law>& s = chunk_.solutions[i];
        if (descents[i].rounds > 0)
          verdicts[i].settle(descents[i].agreeing, descents[i].improved, s.converged);
        s.agreeing = verdicts[i].agreeing();
      }
    }
    return true;
  }

 private:
  // Replaces one task a problem by its starts.
  bool screen(int round, Pooled<ProjectedTask<Law>>& tasks) {
    Screen<typename Fits::ProjectedProblem, Law> machine;
    machine.round = round;
    if (!fits_.run_projected(machine, tasks)) return false;
    Pooled<ProjectedTask<Law>> starts;
    for (const ProjectedTask<Law>& screened : tasks) {
      const Prepared<Law>& p = chunk_.problems[screened.problem];
      double knots[Law::kKnots];
      Law::knots(fits_.context(p), round, knots);
      for (const int cell : screened.cells) {
        if (cell < 0) break;
        starts.emplace_back();
        starts.back().problem = screened.problem;
        Law::cell_start(cell, knots, p.projected_anchor, starts.back().t);
      }
    }
    tasks.swap(starts);
    return true;
  }

  bool scout_projected(Pooled<ProjectedTask<Law>>& tasks, SolverOptions options) {
    LevenbergMarquardt<typename Fits::ProjectedProblem> machine;
    machine.options = options;
    if (!fits_.run_projected(machine, tasks)) return false;
    for (const ProjectedTask<Law>& task : tasks)
      chunk_.solutions[task.problem].iterations += task.iterations;
    return true;
  }

  bool scout_full(Pooled<FullTask<Law>>& tasks, int steps) {
    if (!fits_.scout(tasks, Sieve::options(full_options<Law>(fits_.job()), steps))) return false;
    for (const FullTask<Law>& task : tasks)
      chunk_.solutions[task.problem].iterations += task.iterations;
    return true;
  }

  // From starts of the projected problem to starts of the full one that are worth a polish.
  bool sieve(Pooled<ProjectedTask<Law>>& starts, Pooled<FullTask<Law>>& full) {
    const SolverOptions projected = projected_options(fits_.job());
    const bool same = same_objective<Law>(fits_.job());
    for (const ProjectedTask<Law>& start : starts) ++chunk_.solutions[start.problem].starts;
    Pooled<ProjectedTask<Law>> exact, other;
    for (const ProjectedTask<Law>& start : starts)
      (same && !chunk_.problems[start.problem].constrained ? exact : other).push_back(start);
    if (!scout_projected(exact, Sieve::options(projected, Sieve::kProjectedSame))) return false;
    if (!scout_projected(other, Sieve::options(projected, Sieve::kProjected))) return false;
    keep_best<Sieve::kRefined>(exact);
    if (!scout_projected(exact, projected)) return false;
    keep_best<Sieve::kPolishedSame>(exact);
    Pooled<FullTask<Law>> scouts;
    if (!place(exact, full) || !place(other, scouts)) return false;
    if (!scout_full(scouts, 0)) return false;
    keep_best<Sieve::kBegun>(scouts);
    if (!scout_full(scouts, Sieve::kFirst)) return false;
    keep_best<Sieve::kHalf>(scouts);
    if (!scout_full(scouts, Sieve::kSecond)) return false;
    keep_best<Sieve::kPolished>(scouts);
    full.insert(full.end(), scouts.begin(), scouts.end());
    return true;
  }

  // Points of the projected problem as starts of the full one.
  bool place(Pooled<ProjectedTask<Law>>& tasks, Pooled<FullTask<Law>>& full) {
    if (!fits_.solve_linear(tasks)) return false;
    for (const ProjectedTask<Law>& task : tasks) {
      if (!(task.cost < kInfeasible)) continue;
      const Prepared<Law>& p = chunk_.problems[task.problem];
      full.emplace_back();
      full.back().problem = task.problem;
      start_full<Law>(task.t, task.c, p.projected_anchor, p.full_anchor, full.back().t);
    }
    return true;
  }

  // What the polished optima of a round say; opens the descent of those that are better.
  void judge(const Pooled<FullTask<Law>>& full, const Pooled<double>& before,
             Pooled<Verdict>& verdicts, Pooled<Descent>& descents) {
    for (size_t from = 0, to; from < full.size(); from = to) {
      const int i = full[from].problem;
      const double best = chunk_.solutions[i].cost;
      double lowest = kInfeasible;
      for (to = from; to < full.size() && full[to].problem == i; ++to) {
        lowest = std::min(lowest, full[to].cost);
        verdicts[i].compare(full[to].cost, best);
      }
      if (verdicts[i].judge(lowest, before[i])) descents[i].ended = false;
    }
  }

  Fits& fits_;
  Chunk<Law>& chunk_;
};

}  // namespace MS_ISA
}  // namespace megascale
