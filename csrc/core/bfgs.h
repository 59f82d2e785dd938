// BFGS with Armijo backtracking, one function evaluation per lane and iteration. For losses whose
// curvature the normal matrix does not describe (Huber with a small delta).
//
// The first estimate of the inverse Hessian is the inverse of the problem's reweighted normal
// matrix, which makes the method indifferent to the scale of the parameters.
#pragma once

#include "core/lm.h"

namespace megascale {
inline namespace MS_ISA {

template <class Problem>
struct Bfgs {
  using Real = typename Problem::Real;
  using Mask = typename RealTraits<Real>::Mask;
  static constexpr int P = Problem::kParams;
  static constexpr int H = packed_size(P);
  static constexpr double kArmijo = 1e-4, kMaxStep = 2.0;

  Problem problem;
  SolverOptions options;
  Real t[P], g[P], h[H];  // h: the problem's normal matrix at t
  Real inverse[H], direction[P];
  Real cost, slope, length, iterations, quiet;
  Mask done = Mask(true), converged = Mask(false);

  MS_NOINLINE void admit(Mask fresh) {
    Real cost0, g0[P], h0[H];
    problem.clip(t);
    problem.evaluate(t, &cost0, g0, h0);
    for (int i = 0; i < P; ++i) g[i] = select(fresh, g0[i], g[i]);
    for (int i = 0; i < H; ++i) h[i] = select(fresh, h0[i], h[i]);
    cost = select(fresh, cost0, cost);
    iterations = select(fresh, Real(0.0), iterations);
    quiet = select(fresh, Real(0.0), quiet);
    converged = converged & !fresh;
    done = (done & !fresh) | (fresh & !(cost < Real(kInfeasible)));
    restart(fresh);
  }

  // Takes the inverse Hessian from the normal matrix, regularised by a thousandth of its diagonal.
  MS_NOINLINE void restart(Mask fresh) {
    Real factor[H], top(0.0);
    for (int i = 0; i < P; ++i) top = vmax(top, h[packed(i, i)]);
    for (int i = 0; i < H; ++i) factor[i] = h[i];
    for (int i = 0; i < P; ++i)
      factor[packed(i, i)] = h[packed(i, i)] * Real(1.001) + top * Real(1e-8) + Real(1e-280);
    cholesky<P>(factor, top * Real(1e-12) + Real(1e-280));
    Real first[H];
    cholesky_inverse<P>(factor, first);
    for (int i = 0; i < H; ++i) inverse[i] = select(fresh, first[i], inverse[i]);
    point_downhill(fresh);
  }

  // Sets a new descent direction and its slope for the lanes in `which`.
  MS_NOINLINE void point_downhill(Mask which) {
    Real d[P], largest(0.0), s(0.0);
    for (int i = 0; i < P; ++i) {
      d[i] = Real(0.0);
      for (int j = 0; j < P; ++j) d[i] -= inverse[packed(i, j)] * g[j] * problem.free[j];
      d[i] *= problem.free[i];
      largest = vmax(largest, vabs(d[i]));
      s += d[i] * g[i];
    }
    for (int i = 0; i < P; ++i) direction[i] = select(which, d[i], direction[i]);
    slope = select(which, Real(2.0) * s, slope);
    length = select(which, select(largest > Real(kMaxStep), Real(kMaxStep) / largest, Real(1.0)),
                    length);
  }

  MS_NOINLINE void iterate() {
    Real next[P], cost1, g1[P], h1[H];
    for (int i = 0; i < P; ++i) next[i] = t[i] + length * direction[i];
    problem.evaluate(next, &cost1, g1, h1);
    const Mask active = !done;
    const Mask accept =
        active & (cost1 <= cost + Real(kArmijo) * length * slope) & (slope < Real(0.0));
    // The update of the inverse Hessian, on the accepted lanes where the curvature is positive.
    Real s[P], y[P], sy(0.0), ss(0.0), yy(0.0);
    for (int i = 0; i < P; ++i) {
      s[i] = length * direction[i];
      y[i] = (g1[i] - g[i]) * problem.free[i];
      sy += s[i] * y[i];
      ss += s[i] * s[i];
      yy += y[i] * y[i];
    }
    const Mask curved = accept & (sy > Real(1e-10) * vsqrt(ss * yy));
    const Real rho = Real(1.0) / select(curved, sy, Real(1.0));
    Real iy[P], yiy(0.0);
    for (int i = 0; i < P; ++i) {
      iy[i] = Real(0.0);
      for (int j = 0; j < P; ++j) iy[i] += inverse[packed(i, j)] * y[j];
      yiy += y[i] * iy[i];
    }
    const Real scale = (Real(1.0) + rho * yiy) * rho;
    for (int i = 0; i < P; ++i)
      for (int j = 0; j <= i; ++j) {
        const Real updated =
            inverse[packed(i, j)] + scale * s[i] * s[j] - rho * (iy[i] * s[j] + s[i] * iy[j]);
        inverse[packed(i, j)] = select(curved, updated, inverse[packed(i, j)]);
      }
    const Real drop = cost - cost1;
    // Converged after three consecutive accepted steps without a relative decrease, or when even a
    // tiny step along a descent direction gains nothing.
    const Mask flat = accept & (drop <= Real(options.tolerance) * cost);
    quiet = select(accept, select(flat, quiet + Real(1.0), Real(0.0)), quiet);
    for (int i = 0; i < P; ++i) {
      t[i] = select(accept, next[i], t[i]);
      g[i] = select(accept, g1[i], g[i]);
    }
    for (int i = 0; i < H; ++i) h[i] = select(accept, h1[i], h[i]);
    cost = select(accept, cost1, cost);
    iterations = select(active, iterations + Real(1.0), iterations);
    // Rejected: the minimum of the parabola through the slope and both costs, within [0.1, 0.5].
    const Real bend = Real(2.0) * (cost1 - cost - length * slope);
    const Real ideal =
        select(bend > Real(0.0), -slope * length * length / bend, Real(0.1) * length);
    const Real shorter = vmin(vmax(ideal, Real(0.1) * length), Real(0.5) * length);
    length = select(active & !accept, shorter, length);
    point_downhill(accept);
    const Mask tiny =
        active & ((Real(-1.0) * length * slope <= Real(0.01 * options.tolerance) * cost) |
                  (cost <= Real(options.floor)));
    const Mask finished = (quiet >= Real(3.0)) | tiny;
    converged = converged | (active & finished);
    done = done | finished | (iterations >= Real(static_cast<double>(options.max_iterations)));
  }
};

}  // namespace MS_ISA
}  // namespace megascale
