// One chunk of problems of one law through all stages:
//
//   prepare -> starts (grid or designed) -> projected Levenberg-Marquardt -> linear coefficients
//           -> full problem (Levenberg-Marquardt, or BFGS for Huber) -> finish
//
// A law with a screen searches in rounds instead (cpu/screened.h).
//
// Everything a stage decides about a problem depends on that problem alone, so results do not
// depend on how problems are grouped into chunks or which thread runs them.
#pragma once

#include "cpu/classic_batch.h"
#include "cpu/screened.h"
#include "cpu/sources.h"

namespace megascale {
inline namespace MS_ISA {

template <class Law, class Real>
class Pipeline {
 public:
  static constexpr int P = Law::kParams, Q = Law::kNonlinear, L = Law::kLinear, X = Law::kInputs;
  using ProjectedProblem = typename ProjectedForm<Law, Real>::type;
  using FullProblem = Full<Law, Real>;

  Pipeline(const FitJob& job, const std::atomic<bool>& cancel) : job_(job), cancel_(cancel) {}

  // Fits problems [begin, end) and, if asked, writes their results; false when cancelled.
  bool run(int64_t begin, int64_t end, bool write = true) {
    if constexpr (std::is_same_v<Law, Classic>) {
      if (write && classic_batch_applies(job_)) return run_classic(begin, end);
    }
    return run_generic(begin, end, write);
  }

  bool run_generic(int64_t begin, int64_t end, bool write) {
    load(begin, end);
    if (!solve()) return false;
    for (size_t i = 0; write && i < chunk_.problems.size(); ++i) {
      double influence[3] = {};
      if (job_.loss == Loss::kHuber) influences(static_cast<int>(i), influence);
      finish(job_, chunk_.problems[i], chunk_.solutions[i], chunk_.columns, influence);
    }
    return true;
  }

  void load(int64_t begin, int64_t end) {
    chunk_.columns.clear();
    chunk_.columns.reserve(job_.offsets[end] - job_.offsets[begin] + 8 * (end - begin));
    chunk_.problems.resize(end - begin);
    chunk_.solutions.assign(end - begin, Solution<Law>());
    chunk_.longest = 1;
    for (int64_t id = begin; id < end; ++id) {
      Prepared<Law>& p = chunk_.problems[id - begin];
      prepare<Law, Real>(job_, id, p, chunk_.columns);
      if (p.status != kConverged) continue;
      chunk_.longest = std::max(chunk_.longest, p.count);
    }
  }

  Chunk<Law>& chunk() { return chunk_; }
  LaneColumns<Real, X + 2, 2>& projected_lanes() { return projected_lanes_; }
  LaneColumns<Real, X + 3, 1>& full_lanes() { return full_lanes_; }

  template <class Machine>
  void configure(Machine& m) const {
    m.problem.residual = full_residual<Law>(job_);
    m.problem.along_ray = along_ray<Law>(job_);
    m.problem.loss = job_.loss;
    m.problem.delta = job_.delta;
  }

  bool run_full(Pooled<FullTask<Law>>& tasks) {
    FullSource<Law, Real> source(chunk_, tasks, full_lanes_, cancel_);
    return run_full(source, tasks.size());
  }

  template <class Source>
  bool run_full(Source& source, size_t tasks) {
    if (job_.loss == Loss::kHuber && !job_.lower && !job_.upper) {
      Bfgs<FullProblem> machine;
      machine.options = full_options<Law>(job_);
      configure(machine);
      return run_tasks(machine, source, tasks);
    }
    LevenbergMarquardt<FullProblem> machine;
    machine.options = full_options<Law>(job_);
    configure(machine);
    return run_tasks(machine, source, tasks);
  }

  bool ok(size_t i) const { return chunk_.problems[i].status == kConverged; }

  // Sums the Huber error estimate needs: squared influence, points of full weight, squared
  // residual.
  void influences(int i, double* out) {
    if (!ok(i)) return;
    const Prepared<Law>& p = chunk_.problems[i];
    const Solution<Law>& s = chunk_.solutions[i];
    Full<Law, double> one;
    one.residual = full_residual<Law>(job_);
    one.along_ray = along_ray<Law>(job_);
    one.anchor = p.full_anchor;
    double u[P], du[P];
    one.coordinates(s.t, u, du);
    for (int n = 0; n < p.count; ++n) {
      double x[X], grad[P], slope;
      for (int k = 0; k < X; ++k) x[k] = chunk_.columns.full_x[k][p.at + n];
      const double r = one.against(one.predict(u, x, chunk_.columns.y[p.at + n], grad),
                                   chunk_.columns.y[p.at + n], chunk_.columns.log_y[p.at + n],
                                   one.residual, &slope);
      const double w = chunk_.columns.root[p.at + n] * chunk_.columns.root[p.at + n];
      const double clipped = std::min(std::fabs(r), job_.delta);
      out[0] += w * clipped * clipped;
      out[1] += std::fabs(r) <= job_.delta ? 1 : 0;
      out[2] += w * r * r;
    }
  }

  // Starts of the full problem, run to the end; what is better than what there was is kept.
  bool polish(Pooled<FullTask<Law>>& full) {
    hold_fixed(full);
    if (!run_full(full) || !settle(full)) return false;
    const bool counted = job_.initial || job_.compatibility_grid;
    for (const FullTask<Law>& f : full) {
      Solution<Law>& s = chunk_.solutions[f.problem];
      s.iterations += f.iterations;
      if (counted) ++s.starts;
      const double margin = Optima<Q>::kAgree * std::min(s.cost, f.cost);
      if (counted && std::fabs(s.cost - f.cost) <= margin) ++s.agreeing;
      if (counted && f.cost < s.cost - margin) s.agreeing = 1;
      const bool first = !(s.cost < kInfeasible);
      if (f.cost < s.cost) {
        if (!first && f.cost < s.cost - margin) keep_second(s, s.t);
        s.cost = f.cost;
        std::copy(f.t, f.t + P, s.t);
        std::copy(f.h, f.h + packed_size(P), s.h);
        s.converged = f.converged;
        s.exhausted = f.exhausted;
      } else if (f.cost < kInfeasible && f.cost > s.cost + margin && !s.has_second) {
        keep_second(s, f.t);
      }
    }
    return true;
  }

  // BFGS from where Levenberg-Marquardt ended without an optimum: where large residuals meet kinks,
  // the curvature is not that of the normal matrix.
  bool settle(Pooled<FullTask<Law>>& full) {
    if (!settles(job_)) return true;
    Pooled<FullTask<Law>> left;
    Pooled<size_t> at;
    for (size_t i = 0; i < full.size(); ++i) {
      const FullTask<Law>& f = full[i];
      if (!settles(f.converged, f.cost, chunk_.solutions[f.problem].cost) ||
          chunk_.problems[f.problem].bounded)
        continue;
      at.push_back(i);
      left.push_back(f);
    }
    Bfgs<FullProblem> machine;
    machine.options = settle_options(full_options<Law>(job_));
    configure(machine);
    FullSource<Law, Real> source(chunk_, left, full_lanes_, cancel_);
    if (!run_tasks(machine, source, left.size())) return false;
    for (size_t i = 0; i < left.size(); ++i) {
      if (!(left[i].cost <= full[at[i]].cost)) continue;
      left[i].iterations += full[at[i]].iterations;
      full[at[i]] = left[i];
    }
    return true;
  }

  // A few iterations of Levenberg-Marquardt; nothing is kept.
  bool scout(Pooled<FullTask<Law>>& full, const SolverOptions& options) {
    hold_fixed(full);
    FullSource<Law, Real> source(chunk_, full, full_lanes_, cancel_);
    LevenbergMarquardt<FullProblem> machine;
    machine.options = options;
    configure(machine);
    return run_tasks(machine, source, full.size());
  }

  template <class Machine>
  bool run_projected(Machine& machine, Pooled<ProjectedTask<Law>>& tasks) {
    ProjectedSource<Law, Real> source(chunk_, tasks, projected_lanes_, cancel_);
    return run_tasks(machine, source, tasks.size());
  }

  // The linear coefficients at points of the projected problem.
  bool solve_linear(Pooled<ProjectedTask<Law>>& tasks) {
    LinearSolve<ProjectedProblem, L> machine;
    return run_projected(machine, tasks);
  }

  StartContext context(const Prepared<Law>& p) {
    for (int k = 0; k < X; ++k)
      pointers_[k] = chunk_.columns.projected_x[k].data() + p.projected_at;
    return {pointers_, chunk_.columns.projected_y.data() + p.projected_at, p.projected_count,
            p.projected_anchor};
  }
  const FitJob& job() const { return job_; }

 private:
  void hold_fixed(Pooled<FullTask<Law>>& full) const {
    for (FullTask<Law>& f : full) {
      const Prepared<Law>& p = chunk_.problems[f.problem];
      for (int i = 0; i < P; ++i)
        if (p.free[i] == 0) f.t[i] = p.held[i];
    }
  }

  // Whole vectors of classic problems in closed form; the rest one at a time.
  bool run_classic(int64_t begin, int64_t end) {
    constexpr int W = RealTraits<Real>::kLanes;
    for (int64_t id = begin; id < end;) {
      if (id + W <= end && classic_batch<Real>(job_, id)) {
        id += W;
        continue;
      }
      const int64_t stop = std::min(end, id + W);
      if (!run_generic(id, stop, true)) return false;
      id = stop;
    }
    return true;
  }

  bool solve() {
    if constexpr (Law::kKinds > 0) {
      if (descends(job_)) return ScreenedSearch(*this).run();
    }
    Pooled<FullTask<Law>> full;
    if (job_.initial) {
      given_starts(full);
    } else if (job_.compatibility_grid) {
      compatibility_starts(full);
    } else if (!projected_starts(full)) {
      return false;
    }
    if (!polish(full)) return false;
    return true;
  }

  static void keep_second(Solution<Law>& s, const double* t) {
    std::copy(t, t + P, s.second_t);
    s.has_second = true;
  }

  void given_starts(Pooled<FullTask<Law>>& full) {
    for (size_t i = 0; i < chunk_.problems.size(); ++i) {
      if (!ok(i)) continue;
      const Prepared<Law>& p = chunk_.problems[i];
      FullTask<Law> f;
      f.problem = static_cast<int>(i);
      start_from_natural(p, job_.initial + p.id * P, f.t);
      full.push_back(f);
    }
  }

  // The 4,500 starts of arXiv 2404.10102, in the user's units.
  void compatibility_starts(Pooled<FullTask<Law>>& full) {
    if constexpr (Q == 2 && P == 5) {
      for (size_t i = 0; i < chunk_.problems.size(); ++i) {
        if (!ok(i)) continue;
        const Prepared<Law>& p = chunk_.problems[i];
        for (int n = 0; n < 4500; ++n) {
          const double theta[5] = {std::exp(-1 + 0.5 * (n % 5)), std::exp(5.0 * (n / 5 % 6)),
                                   std::exp(5.0 * (n / 30 % 6)), 0.5 * (n / 180 % 5),
                                   0.5 * (n / 900)};
          FullTask<Law> f;
          f.problem = static_cast<int>(i);
          start_from_natural(p, theta, f.t);
          full.push_back(f);
        }
      }
    }
  }

  // The law's grid, worked out once for a chunk.
  struct CellTable {
    const double* t = nullptr;
    int count() const { return Law::kGrid; }
    void at(int n, double* out) const { std::copy_n(t + n * Q, Q, out); }
  };

  // Sweeps the grid for every problem: `best` receives kBestCells cells a problem.
  bool search_grid(const CellTable& cells, Pooled<int>& best) {
    best.assign(chunk_.problems.size() * kBestCells, -1);
    Pooled<ProjectedTask<Law>> sweeps;
    for (size_t i = 0; i < chunk_.problems.size(); ++i) {
      if (!ok(i)) continue;
      ProjectedTask<Law> sweep;
      sweep.problem = static_cast<int>(i);
      sweeps.push_back(sweep);
    }
    GridSearch<ProjectedProblem, CellTable> machine;
    machine.cells = cells;
    ProjectedSource<Law, Real> source(chunk_, sweeps, projected_lanes_, cancel_);
    if (!run_tasks(machine, source, sweeps.size())) return false;
    for (const ProjectedTask<Law>& sweep : sweeps)
      std::copy_n(sweep.cells, kBestCells, best.data() + size_t(sweep.problem) * kBestCells);
    return true;
  }

  // Runs the starts of every problem.
  bool search(Pooled<Optima<Q>>& optima) {
    Pooled<double> grid;
    Pooled<int> best;
    CellTable cells;
    if constexpr (!Law::kDesignedStarts) {
      grid.resize(size_t(Law::kGrid) * Q);
      for (int n = 0; n < Law::kGrid; ++n) Law::grid(n, StartContext{}, grid.data() + n * Q);
      cells.t = grid.data();
      if (!search_grid(cells, best)) return false;
    }
    Pooled<ProjectedTask<Law>> tasks;
    const StartRange ranks = starts_of<Law>(job_.starts, along_ray<Law>(job_));
    for (size_t i = 0; i < chunk_.problems.size(); ++i) {
      if (!ok(i)) continue;
      const StartContext at = context(chunk_.problems[i]);
      const int* best_cells = Law::kDesignedStarts ? nullptr : best.data() + i * kBestCells;
      for (int rank = ranks.from; rank < ranks.to; ++rank) {
        const int point = start_of_rank<Law>(rank, job_.starts, best_cells);
        if (point < 0) continue;
        ProjectedTask<Law> task;
        task.problem = static_cast<int>(i);
        if constexpr (Law::kDesignedStarts)
          Law::grid(point, at, task.t);
        else
          cells.at(point, task.t);
        tasks.push_back(task);
      }
    }
    LevenbergMarquardt<ProjectedProblem> machine;
    machine.options = projected_options(job_);
    if (!run_projected(machine, tasks)) return false;
    for (const ProjectedTask<Law>& task : tasks)
      optima[task.problem].add(task.cost, task.t, task.iterations,
                               chunk_.problems[task.problem].count);
    return true;
  }

  bool projected_starts(Pooled<FullTask<Law>>& full) {
    Pooled<Optima<Q>> optima(chunk_.problems.size());
    if constexpr (Q > 0) {
      if (!search(optima)) return false;
    }
    Pooled<ProjectedTask<Law>> tasks;
    // Linear coefficients at the optima that go on to the full problem.
    const bool same = same_objective<Law>(job_);
    for (size_t i = 0; i < chunk_.problems.size(); ++i) {
      if (!ok(i)) continue;
      Solution<Law>& s = chunk_.solutions[i];
      s.starts = Q > 0 ? optima[i].starts : 1;
      s.agreeing = Q > 0 ? optima[i].agreeing : 1;
      s.iterations = optima[i].iterations;
      const int polished = optima[i].to_polish(same, chunk_.problems[i].constrained,
                                               job_.bootstrap != Bootstrap::kNone);
      for (int k = 0; k < polished; ++k) {
        ProjectedTask<Law> task;
        task.problem = static_cast<int>(i);
        if constexpr (Q > 0) std::copy_n(optima[i].t[k], Q, task.t);
        tasks.push_back(task);
      }
    }
    if (!solve_linear(tasks)) return false;
    for (const ProjectedTask<Law>& task : tasks) {
      const Prepared<Law>& p = chunk_.problems[task.problem];
      FullTask<Law> f;
      f.problem = task.problem;
      start_full<Law>(task.t, task.c, p.projected_anchor, p.full_anchor, f.t);
      full.push_back(f);
    }
    return true;
  }

  const FitJob& job_;
  const std::atomic<bool>& cancel_;
  Chunk<Law> chunk_;
  LaneColumns<Real, X + 2, 2> projected_lanes_;
  LaneColumns<Real, X + 3, 1> full_lanes_;
  const double* pointers_[X];
};

}  // namespace MS_ISA
}  // namespace megascale
