// Task sources: how a problem's columns and start get into a lane, and its result out of it.
#pragma once

#include <cstring>

#include "core/bfgs.h"
#include "core/full.h"
#include "core/projected.h"
#include "core/rng.h"
#include "core/screen.h"
#include "core/search.h"
#include "cpu/lanes.h"
#include "problem/finish.h"

namespace megascale {
inline namespace MS_ISA {

// Interleaved columns of W problems. Rows past a lane's problem repeat its first row, except for
// the last `kZeroed` columns (weights), which are zero there; `count` is the longest problem any
// lane has held since the last reset.
template <class Real, int kColumns, int kZeroed>
class LaneColumns {
 public:
  static constexpr int W = RealTraits<Real>::kLanes;

  void reserve(int capacity) {
    if (capacity > capacity_) {
      capacity_ = capacity;
      storage_.assign(size_t(capacity_) * W * kColumns + 8, 0.0);
      const auto address = reinterpret_cast<uintptr_t>(storage_.data());
      base_ = storage_.data() + ((64 - address % 64) % 64) / 8;
    }
    count_ = 0;
    for (int l = 0; l < W; ++l) filled_[l] = 0;
  }
  double* column(int c) { return base_ + size_t(c) * capacity_ * W; }
  int count() const { return count_; }

  // Copies `n` rows of each source column, from column `first` on, into lane l.
  void fill(int l, int n, const double* const* sources, int first = 0) {
    for (int c = first; c < kColumns; ++c) {
      double* to = column(c) + l;
      const double* from = sources[c - first];
      for (int i = 0; i < n; ++i) to[size_t(i) * W] = from[i];
    }
    filled_[l] = n;
    if (n > count_) {
      count_ = n;
      for (int k = 0; k < W; ++k) pad(k);
    } else {
      pad(l);
    }
  }

 private:
  // Zero weight rows up to the common count. Columns 0 .. kColumns - 2 repeat a valid row.
  void pad(int l) {
    const int n = filled_[l];
    for (int c = 0; c < kColumns; ++c) {
      double* to = column(c) + l;
      const double value = c < kColumns - kZeroed ? to[0] : 0.0;
      for (int i = n; i < count_; ++i) to[size_t(i) * W] = value;
    }
  }

  Pooled<double> storage_;
  double* base_ = nullptr;
  int capacity_ = 0, count_ = 0;
  int filled_[W] = {};
};

// Which problem's columns each lane holds; -1: none yet.
template <int W>
struct HeldProblems {
  int problem[W];
  HeldProblems() { std::fill(problem, problem + W, -1); }
  int& operator[](int l) { return problem[l]; }
};

template <class Law>
struct Chunk {
  Pooled<Prepared<Law>> problems;
  Pooled<Solution<Law>> solutions;
  Columns<Law> columns;
  int longest = 0;
};

// Vectors that hold n points; columns are padded to whole vectors of eight.
template <class Real>
int vectors(int n) {
  constexpr int W = RealTraits<Real>::kLanes;
  return (n + W - 1) / W;
}

// A projected start or its result.
template <class Law>
struct ProjectedTask {
  int problem = 0;
  double t[Law::kNonlinear > 0 ? Law::kNonlinear : 1] = {};
  double cost = kInfeasible;
  double c[Law::kLinear] = {};
  int iterations = 0;
  // Of a grid search, best first, or of a screen; -1 where there are fewer.
  int cells[Law::kKinds > kBestCells ? Law::kKinds : kBestCells] = {};
};

// A start of the full problem or its result.
template <class Law>
struct FullTask {
  int problem = 0;
  double t[Law::kParams] = {};
  double cost = kInfeasible;
  double h[packed_size(Law::kParams)] = {};
  int iterations = 0;
  bool converged = false, exhausted = false;
};

template <class Law, class Real>
class ProjectedSource {
 public:
  static constexpr int X = Law::kInputs, P = Law::kNonlinear;
  ProjectedSource(const Chunk<Law>& chunk, Pooled<ProjectedTask<Law>>& tasks,
                  LaneColumns<Real, X + 2, 2>& lanes, const std::atomic<bool>& cancel)
      : chunk_(chunk), tasks_(tasks), lanes_(lanes), cancel_(cancel) {
    lanes_.reserve(std::min(chunk.longest, kWide));
  }
  template <class Machine>
  void load(Machine& m, size_t task, int l) {
    const ProjectedTask<Law>& start = tasks_[task];
    const Prepared<Law>& p = chunk_.problems[start.problem];
    if (held_[l] != start.problem) {
      const double* from[X + 2];
      for (int k = 0; k < X; ++k) from[k] = chunk_.columns.projected_x[k].data() + p.projected_at;
      from[X] = chunk_.columns.scale.data() + p.projected_at;
      from[X + 1] = chunk_.columns.target.data() + p.projected_at;
      lanes_.fill(l, p.projected_count, from);
      set_lane(m.problem.anchor, l, p.projected_anchor);
      held_[l] = start.problem;
    }
    for (int k = 0; k < X; ++k) m.problem.points.x[k] = lanes_.column(k);
    m.problem.points.scale = lanes_.column(X);
    m.problem.points.target = lanes_.column(X + 1);
    m.problem.points.count = lanes_.count();
    for (int i = 0; i < P; ++i) set_lane(m.t[i], l, start.t[i]);
    place(m, p, l);
  }
  int points(size_t task) const { return chunk_.problems[tasks_[task].problem].projected_count; }
  template <class Machine>
  void load_wide(Machine& m, size_t task) {
    const ProjectedTask<Law>& start = tasks_[task];
    const Prepared<Law>& p = chunk_.problems[start.problem];
    for (int k = 0; k < X; ++k)
      m.problem.points.x[k] = chunk_.columns.projected_x[k].data() + p.projected_at;
    m.problem.points.scale = chunk_.columns.scale.data() + p.projected_at;
    m.problem.points.target = chunk_.columns.target.data() + p.projected_at;
    m.problem.points.count = vectors<Real>(p.projected_count);
    m.problem.anchor = Real(p.projected_anchor);
    for (int i = 0; i < P; ++i) m.t[i] = Real(start.t[i]);
    for (int l = 0; l < RealTraits<Real>::kLanes; ++l) place(m, p, l);
  }
  template <class Machine>
  void store(const Machine& m, size_t task, int l) {
    ProjectedTask<Law>& out = tasks_[task];
    out.cost = lane(m.cost, l);
    out.iterations = static_cast<int>(lane(m.iterations, l));
    if constexpr (P > 0)
      for (int i = 0; i < P; ++i) out.t[i] = lane(m.t[i], l);
    keep(m, out, l);
  }
  bool stop() const { return cancel_.load(std::memory_order_relaxed); }

 private:
  template <class Machine>
  static void place(Machine&, const Prepared<Law>&, int) {}
  template <class Problem>
  void place(Screen<Problem, Law>& m, const Prepared<Law>& p, int l) {
    const double* x[X];
    for (int k = 0; k < X; ++k) x[k] = chunk_.columns.projected_x[k].data() + p.projected_at;
    double knots[Law::kKnots];
    Law::knots({x, nullptr, p.projected_count, p.projected_anchor}, m.round, knots);
    for (int k = 0; k < Law::kKnots; ++k) set_lane(m.knots[k], l, knots[k]);
  }
  template <class Problem>
  static void keep(const Screen<Problem, Law>& m, ProjectedTask<Law>& out, int l) {
    std::fill_n(out.cells, Law::kKinds, -1);
    m.winners(l, out.cells);
  }
  template <class Problem, class Cells>
  static void keep(const GridSearch<Problem, Cells>& m, ProjectedTask<Law>& out, int l) {
    m.best_cells(l, out.cells);
  }
  template <class Problem, int L>
  static void keep(const LinearSolve<Problem, L>& m, ProjectedTask<Law>& out, int l) {
    for (int k = 0; k < L; ++k) out.c[k] = lane(m.c[k], l);
  }
  template <class Problem>
  static void keep(const LevenbergMarquardt<Problem>&, ProjectedTask<Law>&, int) {}

  const Chunk<Law>& chunk_;
  Pooled<ProjectedTask<Law>>& tasks_;
  LaneColumns<Real, X + 2, 2>& lanes_;
  const std::atomic<bool>& cancel_;
  HeldProblems<RealTraits<Real>::kLanes> held_;
};

// Writes a problem's constraints and constants into lane l of a full machine.
template <class Law, class Machine>
void load_constraints(Machine& m, const Prepared<Law>& p, int l) {
  for (int i = 0; i < Law::kParams; ++i) {
    set_lane(m.problem.lower[i], l, p.lower[i]);
    set_lane(m.problem.upper[i], l, p.upper[i]);
    set_lane(m.problem.free[i], l, p.free[i]);
  }
  set_lane(m.problem.anchor, l, p.full_anchor);
}

template <class Law, class Machine>
void load_constraints_wide(Machine& m, const Prepared<Law>& p) {
  for (int l = 0; l < RealTraits<typename Machine::Real>::kLanes; ++l) load_constraints(m, p, l);
}

template <class Law, class Real>
class FullSource {
 public:
  static constexpr int X = Law::kInputs, P = Law::kParams;
  FullSource(const Chunk<Law>& chunk, Pooled<FullTask<Law>>& tasks,
             LaneColumns<Real, X + 3, 1>& lanes, const std::atomic<bool>& cancel)
      : chunk_(chunk), tasks_(tasks), lanes_(lanes), cancel_(cancel) {
    lanes_.reserve(std::min(chunk.longest, kWide));
  }
  template <class Machine>
  void load(Machine& m, size_t task, int l) {
    const FullTask<Law>& start = tasks_[task];
    const Prepared<Law>& p = chunk_.problems[start.problem];
    if (held_[l] != start.problem) {
      const double* from[X + 3];
      for (int k = 0; k < X; ++k) from[k] = chunk_.columns.full_x[k].data() + p.at;
      from[X] = chunk_.columns.y.data() + p.at;
      from[X + 1] = chunk_.columns.log_y.data() + p.at;
      from[X + 2] = chunk_.columns.root.data() + p.at;
      lanes_.fill(l, p.count, from);
      load_constraints(m, p, l);
      held_[l] = start.problem;
    }
    attach(m);
    for (int i = 0; i < P; ++i) set_lane(m.t[i], l, start.t[i]);
  }
  int points(size_t task) const { return chunk_.problems[tasks_[task].problem].count; }
  template <class Machine>
  void load_wide(Machine& m, size_t task) {
    const FullTask<Law>& start = tasks_[task];
    const Prepared<Law>& p = chunk_.problems[start.problem];
    for (int k = 0; k < X; ++k) m.problem.points.x[k] = chunk_.columns.full_x[k].data() + p.at;
    m.problem.points.y = chunk_.columns.y.data() + p.at;
    m.problem.points.log_y = chunk_.columns.log_y.data() + p.at;
    m.problem.points.root = chunk_.columns.root.data() + p.at;
    m.problem.points.count = vectors<Real>(p.count);
    load_constraints_wide(m, p);
    for (int i = 0; i < P; ++i) m.t[i] = Real(start.t[i]);
  }
  template <class Machine>
  void attach(Machine& m) {
    for (int k = 0; k < X; ++k) m.problem.points.x[k] = lanes_.column(k);
    m.problem.points.y = lanes_.column(X);
    m.problem.points.log_y = lanes_.column(X + 1);
    m.problem.points.root = lanes_.column(X + 2);
    m.problem.points.count = lanes_.count();
  }
  template <class Machine>
  void store(const Machine& m, size_t task, int l) {
    FullTask<Law>& out = tasks_[task];
    out.cost = lane(m.cost, l);
    out.iterations = static_cast<int>(lane(m.iterations, l));
    out.converged = lane(m.converged, l);
    out.exhausted = out.iterations >= m.options.max_iterations;
    for (int i = 0; i < P; ++i) out.t[i] = lane(m.t[i], l);
    for (int i = 0; i < packed_size(P); ++i) out.h[i] = lane(m.h[i], l);
  }
  bool stop() const { return cancel_.load(std::memory_order_relaxed); }

 private:
  const Chunk<Law>& chunk_;
  Pooled<FullTask<Law>>& tasks_;
  LaneColumns<Real, X + 3, 1>& lanes_;
  const std::atomic<bool>& cancel_;
  HeldProblems<RealTraits<Real>::kLanes> held_;
};

}  // namespace MS_ISA
}  // namespace megascale
