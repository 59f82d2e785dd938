// The full nonlinear problem of a law: every residual kind, weights, bounds, fixed parameters and
// the Huber loss, in the law's own coordinates.
//
// The cost is twice the robust loss, which for the squared loss is the sum of squared residuals;
// g is half its gradient and h the (reweighted) normal matrix.
#pragma once

#include "core/coordinates.h"
#include "core/lm.h"
#include "core/points.h"

namespace megascale {
inline namespace MS_ISA {

template <class Law, class Real_>
struct Full {
  using Real = Real_;
  using Mask = typename RealTraits<Real>::Mask;
  static constexpr int P = Law::kParams, X = Law::kInputs;
  static constexpr int kParams = P;
  static constexpr bool kBoxed = true;
  FullPoints<X> points;
  Residual residual = Residual::kRelative;
  bool along_ray = false;
  bool across = false;  // lanes hold points of one problem, not one problem each
  Loss loss = Loss::kSquared;
  double delta = 0;
  Real anchor = Real(1.0);           // upper limit of a logit coordinate
  Real lower[P], upper[P], free[P];  // of the solver's t; free is 0 or 1

  MS_INLINE void coordinates(const Real* t, Real* u, Real* du) const {
    for (int i = 0; i < P; ++i) {
      if (Law::coordinate(i) == Coordinate::kLog) {
        u[i] = du[i] = vexp(t[i]);
      } else if (Law::coordinate(i) == Coordinate::kLogit) {
        const Real e = vexp(-t[i]);
        const Real s = Real(1.0) / (Real(1.0) + e);
        u[i] = anchor * s;
        du[i] = u[i] * (e * s);
      } else {
        u[i] = t[i];
        du[i] = Real(1.0);
      }
    }
  }

  // Residual of one point before weighting, and the factor from df/du to dr/du.
  MS_INLINE Real against(Real f, Real y, Real log_y, Residual kind, Real* slope) const {
    if constexpr (Law::kLogValue) {
      const Real difference = f - log_y;
      if (kind == Residual::kLog) {
        *slope = Real(1.0);
        return difference;
      }
      const Real ratio = vexp(difference);
      *slope = kind == Residual::kRelative ? ratio : ratio * y;
      return kind == Residual::kRelative ? ratio - Real(1.0) : (ratio - Real(1.0)) * y;
    } else {
      if (kind == Residual::kRelative) {
        const Real inverse = Real(1.0) / y;
        *slope = inverse;
        return (f - y) * inverse;
      }
      if (kind == Residual::kLog) {
        *slope = Real(1.0) / f;
        return vlog(f) - log_y;
      }
      *slope = Real(1.0);
      return f - y;
    }
  }

  // The law's value at a point whose measured target is y.
  MS_INLINE Real predict(const Real* u, const Real* x, Real y, Real* grad) const {
    return predictor(u)(x, y, grad);
  }

  // The same for all points, with what does not depend on the point worked out once.
  template <class Shape>
  struct Predictor {
    const Real* u;
    Shape shape;
    bool along_ray;
    MS_INLINE Real operator()(const Real* x, Real y, Real* grad) const {
      if constexpr (Law::kHasRay) {
        if (along_ray) return Law::ray_value(shape, x, y, grad);
      }
      return Law::value(u, x, grad);
    }
  };
  MS_INLINE auto predictor(const Real* u) const {
    if constexpr (Law::kHasRay) {
      return Predictor<decltype(Law::ray_shape(u))>{u, Law::ray_shape(u), along_ray};
    } else {
      return Predictor<bool>{u, false, false};
    }
  }

  MS_NOINLINE void evaluate(const Real* t, Real* cost, Real* g, Real* h) const {
    constexpr int W = RealTraits<Real>::kLanes;
    Real u[P], du[P];
    coordinates(t, u, du);
    Real sum(0.0);
    for (int i = 0; i < P; ++i) g[i] = Real(0.0);
    for (int i = 0; i < packed_size(P); ++i) h[i] = Real(0.0);
    const bool robust = loss == Loss::kHuber;
    const auto law = predictor(u);
    for (int i = 0; i < points.count; ++i) {
      Real x[X], grad[P], slope;
      for (int k = 0; k < X; ++k) x[k] = load<Real>(points.x[k] + i * W);
      const Real root = load<Real>(points.root + i * W);
      const Real y = load<Real>(points.y + i * W);
      const Real f = law(x, y, grad);
      Real r = against(f, y, load<Real>(points.log_y + i * W), residual, &slope);
      Real curvature = root * root;
      Real pull = r * curvature;
      Real part = pull * r;
      if (robust) {
        const Real size = vabs(r);
        const Real weight = select(size <= Real(delta), Real(1.0), Real(delta) / size);
        part = select(size <= Real(delta), part,
                      curvature * Real(delta) * (Real(2.0) * size - Real(delta)));
        pull *= weight;
        curvature *= weight;
      }
      sum += part;
      pull *= slope;
      curvature *= slope * slope;
      for (int a = 0; a < P; ++a) {
        g[a] += pull * grad[a];
        const Real row = curvature * grad[a];
        for (int b = 0; b <= a; ++b) h[packed(a, b)] += row * grad[b];
      }
    }
    if (across) {
      sum = total(sum);
      for (int i = 0; i < P; ++i) g[i] = total(g[i]);
      for (int i = 0; i < packed_size(P); ++i) h[i] = total(h[i]);
    }
    const Mask ok = finite(sum) & Law::feasible(u);
    *cost = select(ok, sum, Real(kInfeasible));
    for (int a = 0; a < P; ++a) {
      g[a] *= du[a];
      for (int b = 0; b <= a; ++b) h[packed(a, b)] *= du[a] * du[b];
    }
  }

  MS_INLINE void clip(Real* t) const {
    for (int i = 0; i < P; ++i) t[i] = vmin(vmax(t[i], lower[i]), upper[i]);
  }

  // Takes fixed parameters, and those pushed against a bound, out of the next step.
  MS_INLINE void hold(const Real* t, Real* g, Real* h) const {
    Real keep[P];
    for (int i = 0; i < P; ++i) {
      const Mask outward =
          ((t[i] <= lower[i]) & (g[i] > Real(0.0))) | ((t[i] >= upper[i]) & (g[i] < Real(0.0)));
      keep[i] = select(outward, Real(0.0), free[i]);
      g[i] *= keep[i];
    }
    for (int i = 0; i < P; ++i) {
      for (int j = 0; j <= i; ++j) h[packed(i, j)] *= keep[i] * keep[j];
    }
  }
};

}  // namespace MS_ISA
}  // namespace megascale
