// Bootstrap replicates of a fitted chunk, warm-started from each problem's optimum and runner-up.
//
// A replicate is a new target (parametric, wild) or new weights (pairs, runs: draw counts, so that
// the inputs stay in place). Its draws depend on (seed, problem, replicate) alone.
//
// Parametric noise has a scale drawn from what the residuals tell of it, s sqrt(f / chi2_f) with f
// degrees of freedom, so that percentiles are as wide as Student's t; noise of one scale s would
// cover as if s were known. A wild replicate multiplies each residual, made as large as its noise
// by the point's leverage, by Webb's random factors: of a point, or one for all points of a run.
#pragma once

#include "cpu/pipeline.h"

namespace megascale {
inline namespace MS_ISA {

constexpr int kRoots = 16;    // square roots of counts kept in a table
constexpr int kRedraws = 50;  // attempts at a resample that can determine the parameters

template <class Law, class Real>
class Bootstrapper {
 public:
  static constexpr int P = Law::kParams, X = Law::kInputs, L = Law::kLinear;
  Bootstrapper(const FitJob& job, Pipeline<Law, Real>& fitted, const std::atomic<bool>& cancel)
      : job_(job), fitted_(fitted), cancel_(cancel) {}

  // Replicates [from, to) of every problem of the chunk; false when cancelled.
  bool run(int from, int to) {
    predict_all();
    const bool linear = Law::kNonlinear == 0 && same_objective<Law>(job_);
    tasks_.clear();
    for (size_t i = 0; i < chunk().problems.size(); ++i) {
      const int64_t id = chunk().problems[i].id;
      for (int r = from; r < to; ++r) {
        const int64_t out = id * job_.replicates + r;
        job_.boot_objective[out] = kNaN;
        std::fill_n(job_.boot_params + out * P, P, kNaN);
        if (job_.boot_errors)
          std::fill_n(job_.boot_errors + out * (P + Law::kDerived), P + Law::kDerived, kNaN);
      }
      const Solution<Law>& s = chunk().solutions[i];
      if (!fitted_.ok(i) || !(s.cost < kInfeasible)) continue;
      if (draws_targets() && !(sigma_[i] >= 0)) continue;  // no freedom: nobody knows the noise
      const bool direct = linear && !chunk().problems[i].constrained;
      for (int r = from; r < to; ++r)
        for (int k = 0; k < (s.has_second && !direct ? 2 : 1); ++k)
          tasks_.push_back({static_cast<int>(i), r, k});
    }
    if (linear && !job_.lower && !job_.upper && !job_.fixed) {
      if constexpr (Law::kNonlinear == 0) {
        LinearSolve<typename ProjectedForm<Law, Real>::type, L> machine;
        fitted_.projected_lanes().reserve(std::min(chunk().longest, kWide));
        return run_tasks(machine, *this, tasks_.size());
      }
    }
    fitted_.full_lanes().reserve(std::min(chunk().longest, kWide));
    return fitted_.run_full(*this, tasks_.size());
  }

  // Full problem.
  template <class Machine>
  void load(Machine& m, size_t index, int l) {
    const Task& task = tasks_[index];
    const Prepared<Law>& p = chunk().problems[task.problem];
    draw(task, p);
    auto& lanes = fitted_.full_lanes();
    const double* from[X + 3];
    for (int k = 0; k < X; ++k) from[k] = chunk().columns.full_x[k].data() + p.at;
    from[X] = y_.data();
    from[X + 1] = log_y_.data();
    from[X + 2] = root_.data();
    const int first = held_[l] == task.problem ? X : 0;
    lanes.fill(l, p.count, from + first, first);
    held_[l] = task.problem;
    load_constraints(m, p, l);
    for (int k = 0; k < X; ++k) m.problem.points.x[k] = lanes.column(k);
    m.problem.points.y = lanes.column(X);
    m.problem.points.log_y = lanes.column(X + 1);
    m.problem.points.root = lanes.column(X + 2);
    m.problem.points.count = lanes.count();
    const Solution<Law>& s = chunk().solutions[task.problem];
    for (int i = 0; i < P; ++i) set_lane(m.t[i], l, task.start == 0 ? s.t[i] : s.second_t[i]);
  }
  template <class Problem>
  void load(LinearSolve<Problem, L>& m, size_t index, int l) {
    const Task& task = tasks_[index];
    const Prepared<Law>& p = chunk().problems[task.problem];
    draw(task, p);
    auto& lanes = fitted_.projected_lanes();
    project(p);
    const double* from[X + 2];
    for (int k = 0; k < X; ++k) from[k] = chunk().columns.projected_x[k].data() + p.projected_at;
    from[X] = scale_.data();
    from[X + 1] = target_.data();
    const int first = held_[l] == task.problem ? X : 0;
    lanes.fill(l, p.count, from + first, first);
    held_[l] = task.problem;
    set_lane(m.problem.anchor, l, p.projected_anchor);
    for (int k = 0; k < X; ++k) m.problem.points.x[k] = lanes.column(k);
    m.problem.points.scale = lanes.column(X);
    m.problem.points.target = lanes.column(X + 1);
    m.problem.points.count = lanes.count();
  }
  int points(size_t index) const { return fitted_.chunk().problems[tasks_[index].problem].count; }
  template <class Machine>
  void load_wide(Machine& m, size_t index) {
    const Task& task = tasks_[index];
    const Prepared<Law>& p = chunk().problems[task.problem];
    draw(task, p);
    pad(p.count);
    for (int k = 0; k < X; ++k) m.problem.points.x[k] = chunk().columns.full_x[k].data() + p.at;
    m.problem.points.y = y_.data();
    m.problem.points.log_y = log_y_.data();
    m.problem.points.root = root_.data();
    m.problem.points.count = vectors<Real>(p.count);
    load_constraints_wide(m, p);
    const Solution<Law>& s = chunk().solutions[task.problem];
    for (int i = 0; i < P; ++i) m.t[i] = Real(task.start == 0 ? s.t[i] : s.second_t[i]);
  }
  template <class Problem>
  void load_wide(LinearSolve<Problem, L>& m, size_t index) {
    const Task& task = tasks_[index];
    const Prepared<Law>& p = chunk().problems[task.problem];
    draw(task, p);
    project(p);
    pad(p.count);
    for (int k = 0; k < X; ++k)
      m.problem.points.x[k] = chunk().columns.projected_x[k].data() + p.projected_at;
    m.problem.points.scale = scale_.data();
    m.problem.points.target = target_.data();
    m.problem.points.count = vectors<Real>(p.count);
    m.problem.anchor = Real(p.projected_anchor);
  }
  template <class Machine>
  void store(const Machine& m, size_t index, int l) {
    double t[P];
    for (int i = 0; i < P; ++i) t[i] = lane(m.t[i], l);
    keep(tasks_[index], lane(m.cost, l), t);
  }
  template <class Problem>
  void store(const LinearSolve<Problem, L>& m, size_t index, int l) {
    const Prepared<Law>& p = chunk().problems[tasks_[index].problem];
    double c[L], u[P], t[P];
    for (int i = 0; i < L; ++i) c[i] = lane(m.c[i], l);
    Law::assemble(nullptr, c, p.projected_anchor, u);
    for (int i = 0; i < P; ++i) t[i] = to_solver<Law>(i, u[i], p.full_anchor);
    keep(tasks_[index], lane(m.cost, l), t);
  }
  bool stop() const { return cancel_.load(std::memory_order_relaxed); }

 private:
  struct Task {
    int problem, replicate, start;
    bool failed = false;
  };

  Chunk<Law>& chunk() { return fitted_.chunk(); }

  bool wild() const {
    return job_.bootstrap == Bootstrap::kWild || job_.bootstrap == Bootstrap::kWildRuns;
  }
  bool draws_targets() const { return job_.bootstrap == Bootstrap::kParametric || wild(); }

  // Scale and target of the projected form from the replicate's weights and targets.
  void project(const Prepared<Law>& p) {
    for (int i = 0; i < p.count; ++i) {
      if (Law::kLogTarget) {
        double x[X];
        for (int k = 0; k < X; ++k) x[k] = chunk().columns.projected_x[k][p.projected_at + i];
        scale_[i] = root_[i];
        target_[i] = root_[i] * Law::projected_target(x, log_y_[i]);
      } else if (Law::kDefault == Residual::kAbsolute) {
        scale_[i] = root_[i];
        target_[i] = root_[i] * y_[i];
      } else {
        scale_[i] = root_[i] / y_[i];
        target_[i] = root_[i];
      }
    }
  }

  void pad(int n) {
    for (int i = n; i % 8 != 0; ++i) {
      y_[i] = 1;
      log_y_[i] = root_[i] = scale_[i] = target_[i] = 0;
    }
  }

  // Fitted values and residual standard deviations at the optimum.
  void predict_all() {
    const size_t n = chunk().columns.size();
    fitted_y_.resize(n);
    residual_.resize(wild() ? n : 0);
    sigma_.resize(chunk().problems.size());
    // Padded to whole vectors: a row past the problem has zero weight and a harmless target.
    for (auto* v : {&y_, &log_y_, &root_, &scale_, &target_}) v->assign(chunk().longest + 8, 0.0);
    count_.resize(chunk().longest);
    index_.resize(chunk().longest);
    copied_ = -1;
    for (int i = 0; i < kRoots; ++i) roots_[i] = std::sqrt(double(i));
    for (size_t i = 0; i < chunk().problems.size(); ++i) {
      const Prepared<Law>& p = chunk().problems[i];
      const Solution<Law>& s = chunk().solutions[i];
      if (!fitted_.ok(i) || !(s.cost < kInfeasible)) continue;
      Full<Law, double> one;
      one.along_ray = along_ray<Law>(job_);
      one.anchor = p.full_anchor;
      double u[P], du[P], x[X], grad[P];
      one.coordinates(s.t, u, du);
      double influence[3] = {};
      if (job_.loss == Loss::kHuber) fitted_.influences(static_cast<int>(i), influence);
      sigma_[i] = std::sqrt(residual_variance(job_, p, influence, s.cost, p.free_count));
      if (job_.known_noise && !wild()) sigma_[i] = 1 / std::sqrt(unit(p));
      bool active[P];
      free_of_bounds(p, s.t, active);
      const NormalFactor<P> normal(s.h, active);
      for (int k = 0; k < p.count; ++k) {
        for (int c = 0; c < X; ++c) x[c] = chunk().columns.full_x[c][p.at + k];
        const double f = one.predict(u, x, chunk().columns.y[p.at + k], grad);
        fitted_y_[p.at + k] = f;
        if (!wild()) continue;
        for (int a = 0; a < P; ++a) grad[a] *= du[a];
        residual_[p.at + k] = own_noise(one, p, k, f, grad, normal);
      }
    }
  }

  // What lies between the fitted and the measured value of a point, in the residual's metric and
  // over the root of one minus the leverage; `grad` by the solver's coordinates.
  double own_noise(const Full<Law, double>& one, const Prepared<Law>& p, int k, double f,
                   const double* grad, const NormalFactor<P>& normal) {
    const Residual kind = full_residual<Law>(job_);
    const double y = chunk().columns.y[p.at + k], log_y = chunk().columns.log_y[p.at + k];
    const double root = chunk().columns.root[p.at + k];
    double slope, white[P], leverage = 0;
    one.against(f, y, log_y, kind, &slope);
    normal.whiten(grad, white);
    for (int a = 0; a < P; ++a) leverage += white[a] * white[a];
    leverage *= root * root * slope * slope;
    const double grown = 1 / std::sqrt(std::max(1 - leverage, 1e-3));
    const double value = Law::kLogValue ? std::exp(f) : f;
    const double ratio = y / value;
    if (kind == Residual::kRelative) return (ratio - 1) * grown;
    return (kind == Residual::kLog ? std::log(ratio) : y - value) * grown;
  }

  // Squared size of the solver's unit of a residual.
  double unit(const Prepared<Law>& p) const {
    return full_residual<Law>(job_) == Residual::kAbsolute ? p.sy * p.sy : 1.0;
  }

  void free_of_bounds(const Prepared<Law>& p, const double* t, bool* active) const {
    for (int i = 0; i < P; ++i)
      active[i] = p.free[i] != 0 && t[i] > p.lower[i] && t[i] < p.upper[i];
  }

  // Standard errors of a replicate's parameters and derived quantities, from its own residuals.
  void keep_errors(const Task& task, const double* t, double cost, int64_t out) {
    constexpr int K = Law::kDerived;
    const Prepared<Law>& p = chunk().problems[task.problem];
    draw(task, p);
    Full<Law, double> one;
    one.residual = full_residual<Law>(job_);
    one.along_ray = along_ray<Law>(job_);
    one.loss = job_.loss;
    one.delta = job_.delta;
    one.anchor = p.full_anchor;
    for (int k = 0; k < X; ++k) one.points.x[k] = chunk().columns.full_x[k].data() + p.at;
    one.points.y = y_.data();
    one.points.log_y = log_y_.data();
    one.points.root = root_.data();
    one.points.count = p.count;
    double at, g[P], h[packed_size(P)], u[P], jacobian[P * P], white[P];
    one.evaluate(t, &at, g, h);
    bool active[P];
    free_of_bounds(p, t, active);
    const NormalFactor<P> normal(h, active);
    for (int i = 0; i < P; ++i) u[i] = from_solver<Law>(i, t[i], p.full_anchor);
    jacobian_of(p, t, u, jacobian);
    const double variance = job_.known_noise ? 1 / unit(p) : cost / (p.count - p.free_count);
    double* errors = job_.boot_errors + out * (P + K);
    for (int i = 0; i < P; ++i) {
      normal.whiten(jacobian + i * P, white);
      double sum = 0;
      for (int a = 0; a < P; ++a) sum += white[a] * white[a];
      const bool lost = p.free[i] != 0 && normal.norm[i] == 0;
      errors[i] = lost ? kNaN : std::sqrt(sum * variance);
    }
    derived_errors(p, t, normal, variance, errors + P);
  }

  void draw(Task task, const Prepared<Law>& p) {
    Draws draws(job_.seed, static_cast<uint64_t>(job_.first_problem + p.id),
                static_cast<uint32_t>(task.replicate));
    const double* y = chunk().columns.y.data() + p.at;
    const double* log_y = chunk().columns.log_y.data() + p.at;
    const double* root = chunk().columns.root.data() + p.at;
    const int n = p.count;
    if (draws_targets()) {
      const double* f = fitted_y_.data() + p.at;
      const bool as_fitted = job_.known_noise || wild();
      const int freedom = p.count - p.free_count;
      const double sigma =
          sigma_[task.problem] *
          (as_fitted ? 1.0 : std::sqrt(freedom / std::max(draws.chi_squared(freedom), 1e-300)));
      const bool by_run = job_.bootstrap == Bootstrap::kWildRuns;
      if (by_run) draw_factors(draws, p);
      const int32_t* group = by_run ? chunk().columns.group.data() + p.at : nullptr;
      auto fresh = [&](int i) {
        if (!wild()) return sigma * draws.normal() / root[i];
        return residual_[p.at + i] * (by_run ? factors_[group[i]] : draws.webb());
      };
      const Residual kind = full_residual<Law>(job_);
      for (int i = 0; i < n; ++i) {
        double noise = fresh(i);
        root_[i] = root[i];
        if (Law::kLogValue) {
          if (kind == Residual::kRelative) {
            while (noise <= -0.99) noise = wild() ? -0.99 + 1e-9 : fresh(i);
            log_y_[i] = f[i] + vlog(1 + noise);
          } else if (kind == Residual::kLog) {
            log_y_[i] = f[i] + noise;
          } else {
            log_y_[i] = vlog(vmax(vexp(f[i]) + noise, 1e-300));
          }
          y_[i] = vexp(log_y_[i]);
          continue;
        }
        if (kind == Residual::kRelative) {
          while (noise <= -0.99) noise = wild() ? -0.99 + 1e-9 : fresh(i);
          y_[i] = f[i] * (1 + noise);
        } else {
          y_[i] = kind == Residual::kLog ? f[i] * vexp(noise) : f[i] + noise;
        }
        log_y_[i] = kind == Residual::kLog ? vlog(y_[i]) : 0;
      }
      return;
    }
    if (copied_ != task.problem) {
      std::copy(y, y + n, y_.begin());
      std::copy(log_y, log_y + n, log_y_.begin());
      copied_ = task.problem;
    }
    int* count = count_.data();
    for (int attempt = 0; attempt < kRedraws; ++attempt) {
      if (job_.bootstrap == Bootstrap::kPairs) {
        std::fill(count, count + n, 0);
        draws.below(n, n, index_.data());
        for (int i = 0; i < n; ++i) ++count[index_[i]];
      } else {
        draw_runs(draws, p);
      }
      int distinct = 0;
      for (int i = 0; i < n; ++i) distinct += count[i] > 0;
      if (distinct > p.free_count || distinct == n) break;
    }
    double* out = root_.data();
    int most = 0;
    for (int i = 0; i < n; ++i) most = std::max(most, count[i]);
    if (most < kRoots) {
      for (int i = 0; i < n; ++i) out[i] = root[i] * roots_[count[i]];
    } else {
      for (int i = 0; i < n; ++i) out[i] = root[i] * std::sqrt(double(count[i]));
    }
  }

  void draw_runs(Draws& draws, const Prepared<Law>& p) {
    const int32_t* group = chunk().columns.group.data() + p.at;
    const int groups = 1 + *std::max_element(group, group + p.count);
    runs_.assign(groups, 0);
    for (int g = 0; g < groups; ++g) ++runs_[draws.below(groups)];
    for (int i = 0; i < p.count; ++i) count_[i] = runs_[group[i]];
  }

  void draw_factors(Draws& draws, const Prepared<Law>& p) {
    const int32_t* group = chunk().columns.group.data() + p.at;
    factors_.resize(1 + *std::max_element(group, group + p.count));
    for (double& factor : factors_) factor = draws.webb();
  }

  // The better of a replicate's two starts; on a tie the first.
  void keep(const Task& task, double cost, const double* t) {
    if (!(cost < kInfeasible)) return;
    const Prepared<Law>& p = chunk().problems[task.problem];
    const int64_t out = p.id * job_.replicates + task.replicate;
    const double objective = cost * unit(p) * (job_.loss == Loss::kSquared ? 1.0 : 0.5);
    double& best = job_.boot_objective[out];
    if (!std::isnan(best) && (best < objective || (best == objective && task.start > 0))) return;
    best = objective;
    natural_params(p, t, job_.boot_params + out * P);
    for (int i = 0; i < P; ++i)
      if (p.free[i] == 0) job_.boot_params[out * P + i] = job_.fixed[p.id * P + i];
    if (job_.boot_errors && draws_targets()) keep_errors(task, t, cost, out);
  }

  const FitJob& job_;
  Pipeline<Law, Real>& fitted_;
  const std::atomic<bool>& cancel_;
  Pooled<Task> tasks_;
  Pooled<double> fitted_y_, residual_, factors_, sigma_, y_, log_y_, root_, scale_, target_;
  Pooled<int> count_, runs_;
  Pooled<uint32_t> index_;
  double roots_[kRoots];
  int copied_ = -1;  // the problem whose targets y_ and log_y_ hold
  HeldProblems<RealTraits<Real>::kLanes> held_;
};

}  // namespace MS_ISA
}  // namespace megascale
