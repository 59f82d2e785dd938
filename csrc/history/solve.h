// The fit of one law to many runs: Levenberg-Marquardt from many starts, and a bootstrap that draws
// whole runs. Each start and each replicate is on its own, so the numbers do not depend on threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <vector>

#include "core/lm.h"
#include "core/rng.h"
#include "history/evaluate.h"
#include "history/whitening.h"

namespace megascale {
inline namespace MS_ISA {

// Residuals L - y of all runs, in the solver's coordinates of the free parameters.
template <class Wide>
class HistoryProblem {
 public:
  using Real = double;
  static constexpr int kParams = kMaxFreeHistory;
  static constexpr bool kBoxed = true;

  HistoryProblem(const HistoryFit& fit, const Prepared& prepared)
      : fit_(fit), at_(prepared), whitening_(fit), evaluator_(prepared), count_(fit.job.runs, 1.0) {
    longest_ = 0;
    for (int64_t r = 0; r < fit.job.runs; ++r) {
      const int64_t n = fit.job.point_offsets[r + 1] - fit.job.point_offsets[r];
      longest_ = std::max<int64_t>(longest_, (n + 7) / 8 * 8);
    }
    value_.resize(longest_);
    own_.resize(kHistoryParams * longest_);
    residual_.assign(longest_, 0.0);
    jacobian_.assign(kParams * longest_, 0.0);
    for (int k = 0; k < kHistoryParams; ++k) {
      column_[k] = own_.data() + k * longest_;
      fixed_[k] = fit.fixed[k];
      const bool tied = fit.job.tied && fit.job.tied[k] >= 0;
      if (std::isnan(fit.fixed[k]) && !tied) param_[free_++] = k;
    }
    for (int i = 0; i < kParams; ++i) {
      lower_[i] = i < free_ ? to_solver(param_[i], fit.lower[param_[i]]) : 0;
      upper_[i] = i < free_ ? to_solver(param_[i], fit.upper[param_[i]]) : 0;
    }
    wanted_ = 0;
    for (int k = 0; k < kHistoryParams; ++k) {
      const int from = fit.job.tied && fit.job.tied[k] >= 0 ? fit.job.tied[k] : k;
      if (std::isnan(fixed_[from])) wanted_ |= 1u << k;
    }
  }

  int free() const { return free_; }
  // How often each run counts; a bootstrap draws them.
  void draw(const std::vector<double>& count) { count_ = count; }

  void natural(const double* t, double* theta) const {
    for (int k = 0; k < kHistoryParams; ++k) theta[k] = std::isnan(fixed_[k]) ? 0 : fixed_[k];
    for (int i = 0; i < free_; ++i) theta[param_[i]] = from_solver(param_[i], t[i]);
    follow_ties(fit_.job, theta);
  }
  void coordinates(const double* theta, double* t) const {
    for (int i = 0; i < kParams; ++i) t[i] = i < free_ ? to_solver(param_[i], theta[param_[i]]) : 0;
    clip(t);
  }
  void clip(double* t) const {
    for (int i = 0; i < kParams; ++i) t[i] = std::min(std::max(t[i], lower_[i]), upper_[i]);
  }
  void hold(const double* t, double* g, double* h) const {
    for (int i = 0; i < kParams; ++i) {
      const bool out = (t[i] <= lower_[i] && g[i] > 0) || (t[i] >= upper_[i] && g[i] < 0);
      if (i < free_ && !out) continue;
      g[i] = 0;
      for (int j = 0; j < kParams; ++j) h[packed(i, j)] = 0;
    }
  }

  void evaluate(const double* t, double* cost, double* g, double* h) {
    double theta[kHistoryParams];
    natural(t, theta);
    evaluator_.set(theta, wanted_);
    std::fill_n(g, kParams, 0.0);
    std::fill_n(h, packed_size(kParams), 0.0);
    double sum = 0;
    for (int64_t r = 0; r < fit_.job.runs; ++r) {
      const int64_t begin = fit_.job.point_offsets[r], n = fit_.job.point_offsets[r + 1] - begin;
      if (count_[r] == 0 || n == 0) continue;
      evaluator_.run(r, value_.data(), column_);
      for (int64_t j = 0; j < n; ++j) {
        const double w = count_[r] * (fit_.weights ? fit_.weights[begin + j] : 1);
        residual_[j] = std::sqrt(w) * (value_[j] - fit_.y[begin + j]);
      }
      whitening_.apply(begin, n, residual_.data());
      for (int i = 0; i < free_; ++i) collect(r, begin, n, i, theta);
      accumulate(n, &sum, g, h);
    }
    if (fit_.prior_weight) {
      for (int i = 0; i < free_; ++i) {
        const double w = fit_.prior_weight[param_[i]];
        if (!(w > 0)) continue;
        const double off = t[i] - fit_.prior[param_[i]];
        sum += w * off * off;
        g[i] += w * off;
        h[packed(i, i)] += w;
      }
    }
    *cost = finite(sum) ? sum : kInfeasible;
  }

  // Sets the linear parameters to their best values given the others: least squares over every set
  // of them that are at zero, as none but L_inf and few others are.
  void solve_linear(double* t) {
    double theta[kHistoryParams], cost, g[kParams], h[packed_size(kParams)];
    int linear[4], many = 0;
    for (int i = 0; i < free_; ++i)
      if (is_linear(fit_.job, param_[i])) linear[many++] = i;
    natural(t, theta);
    for (int i = 0; i < many; ++i) t[linear[i]] = 0;
    clip(t);
    evaluate(t, &cost, g, h);
    double best = 0, chosen[4] = {0, 0, 0, 0};
    for (int set = 1; set < 1 << many; ++set) {
      double a[packed_size(4)] = {}, b[4] = {0, 0, 0, 0};
      int in[4], size = 0;
      for (int i = 0; i < many; ++i)
        if (set >> i & 1) in[size++] = linear[i];
      double trace = 0;
      for (int i = 0; i < size; ++i) {
        for (int j = 0; j <= i; ++j) a[packed(i, j)] = h[packed(in[i], in[j])];
        b[i] = -g[in[i]];
        trace += a[packed(i, i)];
      }
      for (int i = size; i < 4; ++i) a[packed(i, i)] = 1;
      cholesky<4>(a, 1e-14 * trace + 1e-280);
      cholesky_solve<4>(a, b);
      double gain = 0;
      bool legal = true;
      for (int i = 0; i < size; ++i) {
        const double to = t[in[i]] + b[i];
        legal &= to >= lower_[in[i]] && to <= upper_[in[i]];
        gain -= g[in[i]] * b[i];
      }
      if (!legal || !(gain > best)) continue;
      best = gain;
      std::fill_n(chosen, 4, 0.0);
      for (int i = 0; i < size; ++i)
        for (int l = 0; l < many; ++l)
          if (linear[l] == in[i]) chosen[l] = b[i];
    }
    for (int i = 0; i < many; ++i) t[linear[i]] += chosen[i];
  }

 private:
  // The column of free parameter i: its own derivative, and those of what follows it.
  void collect(int64_t r, int64_t begin, int64_t n, int i, const double* theta) {
    const int k = param_[i];
    const double slope = is_log(k) ? theta[k] : 1;
    double* to = jacobian_.data() + i * longest_;
    for (int64_t j = 0; j < n; ++j) to[j] = column_[k][j] * slope;
    if (fit_.job.tied) {
      for (int other = 0; other < kHistoryParams; ++other) {
        if (fit_.job.tied[other] != k) continue;
        const double factor = fit_.job.tie_factor[other] * slope;
        for (int64_t j = 0; j < n; ++j) to[j] += column_[other][j] * factor;
      }
    }
    const double count = count_[r];
    if (fit_.weights) {
      for (int64_t j = 0; j < n; ++j) to[j] *= std::sqrt(count * fit_.weights[begin + j]);
    } else if (count != 1) {
      const double root = std::sqrt(count);
      for (int64_t j = 0; j < n; ++j) to[j] *= root;
    }
    whitening_.apply(begin, n, to);
    for (int64_t j = n; j < (n + 7) / 8 * 8; ++j) to[j] = 0;
  }

  MS_NOINLINE void accumulate(int64_t n, double* sum, double* g, double* h) {
    constexpr int W = RealTraits<Wide>::kLanes;
    for (int64_t j = n; j < (n + 7) / 8 * 8; ++j) residual_[j] = 0;
    auto dot = [&](const double* a, const double* b) {
      Wide part(0.0);
      for (int64_t j = 0; j < n; j += W) part += load<Wide>(a + j) * load<Wide>(b + j);
      return lane(total(part), 0);
    };
    *sum += dot(residual_.data(), residual_.data());
    for (int i = 0; i < free_; ++i) {
      const double* column = jacobian_.data() + i * longest_;
      g[i] += dot(column, residual_.data());
      for (int j = 0; j <= i; ++j) h[packed(i, j)] += dot(column, jacobian_.data() + j * longest_);
    }
  }

  const HistoryFit& fit_;
  const Prepared& at_;
  Whitening whitening_;
  Evaluator<Wide> evaluator_;
  std::vector<double> count_, value_, own_, residual_, jacobian_;
  double* column_[kHistoryParams];
  double fixed_[kHistoryParams], lower_[kParams], upper_[kParams];
  int param_[kParams] = {}, free_ = 0;
  uint32_t wanted_ = 0;
  int64_t longest_ = 0;
};

// The machine of core/lm.h on a problem that it does not own: evaluation needs room of its own.
template <class Wide>
struct HistoryView {
  using Real = double;
  static constexpr int kParams = kMaxFreeHistory;
  static constexpr bool kBoxed = true;
  HistoryProblem<Wide>* of = nullptr;
  void evaluate(const double* t, double* cost, double* g, double* h) const {
    of->evaluate(t, cost, g, h);
  }
  void clip(double* t) const { of->clip(t); }
  void hold(const double* t, double* g, double* h) const { of->hold(t, g, h); }
};

template <class Wide>
HistoryEnd run_from(HistoryProblem<Wide>& problem, const HistoryFit& fit, const double* theta,
                    bool solve, const std::atomic<bool>& cancel) {
  LevenbergMarquardt<HistoryView<Wide>> machine;
  machine.problem.of = &problem;
  machine.options.tolerance = fit.tolerance;
  machine.options.max_iterations = fit.max_iterations;
  problem.coordinates(theta, machine.t);
  if (solve) problem.solve_linear(machine.t);
  machine.admit(true);
  while (!machine.done && !cancel) machine.iterate();
  HistoryEnd end;
  end.cost = machine.cost;
  problem.natural(machine.t, end.theta);
  end.iterations = static_cast<int>(machine.iterations);
  end.status = !(machine.cost < kInfeasible)                  ? kInfeasible_
               : machine.converged                            ? kConverged
               : machine.iterations >= fit.max_iterations - 1 ? kMaxIterations
                                                              : kStalled;
  return end;
}

// How often replicate `number` draws each run.
inline std::vector<double> drawn(uint64_t seed, int64_t runs, int number) {
  std::vector<double> count(runs, 0.0);
  Draws draws(seed, 0, static_cast<uint32_t>(number));
  for (int64_t i = 0; i < runs; ++i) count[draws.below(static_cast<uint32_t>(runs))] += 1;
  return count;
}

}  // namespace MS_ISA
}  // namespace megascale
