// From a solution in solver coordinates to parameters, covariance, diagnostics and flags. Host
// only.
#pragma once

#include "problem/prepare.h"

namespace megascale {
inline namespace MS_ISA {

// What the solvers leave of one problem.
template <class Law>
struct Solution {
  static constexpr int P = Law::kParams;
  double cost = INFINITY;
  double t[P] = {};
  double h[packed_size(P)] = {};
  double second_t[P] = {};  // another local optimum, for warm bootstraps
  bool has_second = false;
  bool converged = false, exhausted = false;
  int iterations = 0, starts = 0, agreeing = 0;
};

template <class Law>
void natural_params(const Prepared<Law>& p, const double* t, double* theta) {
  double u[Law::kParams];
  for (int i = 0; i < Law::kParams; ++i) u[i] = from_solver<Law>(i, t[i], p.full_anchor);
  Law::to_natural(u, p.sx, p.sy, theta);
}

// d theta / d t, row by row. A law without `natural_jacobian` is differentiated by central
// differences, which on these analytic maps leaves a relative error of about 1e-10.
template <class Law>
void jacobian_of(const Prepared<Law>& p, const double* t, const double* u, double* jacobian) {
  constexpr int P = Law::kParams;
  if constexpr (Law::kAnalyticJacobian) {
    Law::natural_jacobian(u, p.sx, p.sy, jacobian);
    for (int i = 0; i < P; ++i) {
      const Coordinate kind = Law::coordinate(i);
      const double du = kind == Coordinate::kIdentity ? 1.0
                        : kind == Coordinate::kLog    ? u[i]
                                                      : u[i] * (1 - u[i] / p.full_anchor);
      for (int j = 0; j < P; ++j) jacobian[j * P + i] *= du;
    }
  } else {
    double at[P], up[P], down[P];
    std::copy(t, t + P, at);
    for (int i = 0; i < P; ++i) {
      const bool linear = Law::coordinate(i) == Coordinate::kIdentity;
      const double step = 6e-6 * (linear ? std::max(1.0, std::fabs(t[i])) : 1.0);
      at[i] = t[i] + step;
      natural_params(p, at, up);
      at[i] = t[i] - step;
      natural_params(p, at, down);
      at[i] = t[i];
      for (int j = 0; j < P; ++j) jacobian[j * P + i] = (up[j] - down[j]) / (2 * step);
    }
  }
}

// The free, unbound block of h as the Cholesky factor of a correlation matrix.
template <int P>
struct NormalFactor {
  double factor[packed_size(P)], norm[P];  // norm is 0 where a parameter takes no part
  double inflation = 1;  // largest variance inflation, infinite if the block is singular

  NormalFactor(const double* h, const bool* active) {
    bool singular = false;
    for (int i = 0; i < P; ++i) {
      const double d = h[packed(i, i)];
      norm[i] = active[i] && d > 0 ? 1 / std::sqrt(d) : 0.0;
      singular = singular || (active[i] && norm[i] == 0);
    }
    for (int i = 0; i < P; ++i)
      for (int j = 0; j <= i; ++j)
        factor[packed(i, j)] = i == j && norm[i] == 0 ? 1.0 : h[packed(i, j)] * norm[i] * norm[j];
    cholesky<P>(factor, 1e-14);
    double inverse[packed_size(P)];
    cholesky_inverse<P>(factor, inverse);
    for (int i = 0; i < P; ++i)
      if (active[i]) inflation = std::max(inflation, inverse[packed(i, i)]);
    if (singular) inflation = INFINITY;
  }

  // out with out'out the variance of a quantity of this gradient, per variance of one residual: a
  // sum of squares, which no cancellation can turn into 0.
  void whiten(const double* gradient, double* out) const {
    for (int i = 0; i < P; ++i) {
      double sum = gradient[i] * norm[i];
      for (int k = 0; k < i; ++k) sum -= factor[packed(i, k)] * out[k];
      out[i] = sum * factor[packed(i, i)];
    }
  }
};

// Standard errors of what a law derives, from differences in the solver's coordinates: there its
// quantities are products, where in the user's units they are differences of close numbers. NaN
// where all that a quantity depends on has no error of its own.
template <class Law>
void derived_errors(const Prepared<Law>& p, const double* t, const NormalFactor<Law::kParams>& h,
                    double variance, double* errors) {
  constexpr int P = Law::kParams, K = Law::kDerived;
  if constexpr (K > 0) {
    double at[P], theta[P], up[K], down[K], gradient[K][P], white[P];
    std::copy(t, t + P, at);
    for (int i = 0; i < P; ++i) {
      const bool linear = Law::coordinate(i) == Coordinate::kIdentity;
      const double step = 6e-6 * (linear ? std::max(1.0, std::fabs(t[i])) : 1.0);
      at[i] = t[i] + step;
      natural_params(p, at, theta);
      Law::derived(theta, up);
      at[i] = t[i] - step;
      natural_params(p, at, theta);
      Law::derived(theta, down);
      at[i] = t[i];
      for (int k = 0; k < K; ++k) gradient[k][i] = (up[k] - down[k]) / (2 * step);
    }
    for (int k = 0; k < K; ++k) {
      h.whiten(gradient[k], white);
      double sum = 0, lost = 0;
      for (int i = 0; i < P; ++i) {
        sum += white[i] * white[i];
        if (p.free[i] != 0 && h.norm[i] == 0) lost += std::fabs(gradient[k][i]);
      }
      errors[k] = sum == 0 && lost > 0 ? kNaN : std::sqrt(sum * variance);
    }
  }
}

// Variance of one residual. For the Huber loss: mean squared influence over the squared share of
// points with a full weight (Huber 1981, section 7.6).
template <class Law>
double residual_variance(const FitJob& job, const Prepared<Law>& p, const double* influence,
                         double cost, int free_count) {
  const double freedom = p.count - free_count;
  if (freedom <= 0) return kNaN;
  if (job.loss == Loss::kSquared) return cost / freedom;
  const double share = std::max(influence[1], 1.0) / p.count;
  return influence[0] / freedom / (share * share);
}

template <class Law>
void finish(const FitJob& job, const Prepared<Law>& p, const Solution<Law>& s,
            const Columns<Law>& columns, const double* influence) {
  constexpr int P = Law::kParams;
  const int64_t id = p.id;
  double* params = job.params + id * P;
  double* covariance = job.covariance + id * packed_size(P);
  std::fill(params, params + P, kNaN);
  std::fill(covariance, covariance + packed_size(P), kNaN);
  if (job.derived_errors) std::fill_n(job.derived_errors + id * Law::kDerived, Law::kDerived, kNaN);
  job.objective[id] = job.rms[id] = job.r_squared[id] = kNaN;
  job.points[id] = p.count;
  job.free_params[id] = p.free_count;
  job.iterations[id] = s.iterations;
  job.starts_used[id] = s.starts;
  job.agreeing[id] = s.agreeing;
  job.bad_row[id] = p.bad_row;
  job.flags[id] = p.flags;
  job.status[id] = p.status;
  if (p.status != kConverged) return;
  if (!(s.cost < kInfeasible)) {
    job.status[id] = kInfeasible_;
    return;
  }
  uint32_t flags = p.flags;
  double u[P];
  for (int i = 0; i < P; ++i) u[i] = from_solver<Law>(i, s.t[i], p.full_anchor);
  Law::to_natural(u, p.sx, p.sy, params);
  bool active[P];
  int free_count = 0;
  for (int i = 0; i < P; ++i) {
    active[i] = p.free[i] != 0;
    if (!active[i]) {
      params[i] = job.fixed[id * P + i];
      continue;
    }
    ++free_count;
    const bool low = s.t[i] <= p.lower[i], high = s.t[i] >= p.upper[i];
    if (low && job.lower && job.lower[id * P + i] > -INFINITY) params[i] = job.lower[id * P + i];
    if (high && job.upper && job.upper[id * P + i] < INFINITY) params[i] = job.upper[id * P + i];
    const bool vanished = Law::coordinate(i) != Coordinate::kIdentity && s.t[i] < -18.0;
    if (low || high || vanished) {
      flags |= kAtBound | kWeakParameter << i;
      active[i] = false;
    }
  }
  const NormalFactor<P> normal(s.h, active);
  const double inflation = normal.inflation;
  if (!(inflation < 1e10)) flags |= kIllConditioned;
  const double variance = residual_variance(job, p, influence, s.cost, free_count);
  if (p.count <= free_count) flags |= kNoFreedom;
  double jacobian[P * P], white[P][P];
  jacobian_of(p, s.t, u, jacobian);
  // A parameter on a bound, and one without effect, has no error.
  bool lost[P];
  for (int i = 0; i < P; ++i) {
    normal.whiten(jacobian + i * P, white[i]);
    lost[i] = p.free[i] != 0 && normal.norm[i] == 0;
  }
  for (int i = 0; i < P; ++i)
    for (int j = 0; j <= i; ++j) {
      double sum = 0;
      for (int k = 0; k < P; ++k) sum += white[i][k] * white[j][k];
      covariance[packed(i, j)] = lost[i] || lost[j] ? kNaN : sum * variance;
    }
  if (job.derived_errors)
    derived_errors(p, s.t, normal, variance, job.derived_errors + id * Law::kDerived);
  for (int i = 0; i < P; ++i) {
    if (p.free[i] == 0) continue;
    const double error = std::sqrt(covariance[packed(i, i)]);
    if (!(error <= 0.5 * std::fabs(params[i])) && (p.count > free_count || !(inflation < 1e10)))
      flags |= kWeakParameter << i;
  }
  flags |= Law::check(u, columns.full_x[0].data() + p.at, columns.y.data() + p.at, p.count,
                      along_ray<Law>(job));
  if (s.starts > 1 && s.agreeing < 2) flags |= kStartsDisagree;
  // The target is scaled by sy, so absolute residuals are too.
  const Residual kind = full_residual<Law>(job);
  const double unit = kind == Residual::kAbsolute ? p.sy * p.sy : 1.0;
  const double squared = job.loss == Loss::kSquared ? s.cost : influence[2];
  job.objective[id] = job.loss == Loss::kSquared ? s.cost * unit : 0.5 * s.cost * unit;
  job.rms[id] = std::sqrt(squared * unit / p.weight_sum);
  job.r_squared[id] = p.total > 0 ? 1 - squared / p.total : kNaN;
  job.flags[id] = flags;
  job.status[id] = s.converged ? kConverged : (s.exhausted ? kMaxIterations : kStalled);
  if (!Law::convex(u)) {
    job.flags[id] |= kNotConvex;
    job.status[id] = kNoFit;
  }
}

}  // namespace MS_ISA
}  // namespace megascale
