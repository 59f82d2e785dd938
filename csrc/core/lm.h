// Levenberg-Marquardt on the normal equations, one iteration for all lanes at a time.
//
// A problem offers
//   using Real; static constexpr int kParams;
//   void evaluate(const Real* t, Real* cost, Real* g, Real* h) const;
// with cost = sum of squared residuals r, g = J'r and h = J'J (packed). An infeasible point has
// cost `kInfeasible`; its g and h are ignored. A problem with bounds adds `kBoxed`, `clip`, `hold`.
#pragma once

#include <type_traits>

#include "core/dense.h"

namespace megascale {
inline namespace MS_ISA {

constexpr double kInfeasible = 1e300;

struct SolverOptions {
  double tolerance = 1e-10;  // stop when the predicted relative decrease of the cost is below it
  double floor = 0;          // per point: costs below it are zero in working precision
  int max_iterations = 200;
  double start_damping = 1e-2;
};

template <class Problem, class = void>
struct IsBoxed : std::false_type {};
template <class Problem>
struct IsBoxed<Problem, std::void_t<decltype(Problem::kBoxed)>> : std::true_type {};

template <class Problem>
struct LevenbergMarquardt {
  using Real = typename Problem::Real;
  using Mask = typename RealTraits<Real>::Mask;
  static constexpr int P = Problem::kParams;
  static constexpr int H = packed_size(P);
  // The damping follows how much of the predicted decrease came true: a step that overshoots a
  // curved valley still lowers the cost, and shrinking the damping then would only make the
  // iterates zigzag.
  static constexpr double kGood = 0.75, kPoor = 0.25, kShrink = 0.1, kGrow = 6.0;
  static constexpr double kMaxStep = 2.0;  // per iteration, in logarithmic coordinates

  Problem problem;
  SolverOptions options;
  Real t[P], g[P], h[H];
  Real cost = Real(1.0), damping = Real(1.0), iterations = Real(0.0);
  Mask done = Mask(true), converged = Mask(false), starting = Mask(false);

  // Starts the lanes in `fresh` at their t; the next iteration evaluates them there, beside the
  // trial steps of the other lanes.
  MS_INLINE void admit(Mask fresh) {
    starting = starting | fresh;
    damping = select(fresh, Real(options.start_damping), damping);
    iterations = select(fresh, Real(-1.0), iterations);
    cost = select(fresh, Real(kInfeasible), cost);
    for (int i = 0; i < P; ++i) g[i] = select(fresh, Real(0.0), g[i]);
    for (int i = 0; i < H; ++i) h[i] = select(fresh, Real(0.0), h[i]);
    converged = converged & !fresh;
    done = done & !fresh;
  }

  // One trial step. Lanes that are done keep their state.
  MS_NOINLINE void iterate() {
    Real slope[P], factor[H], step[P], next[P];
    for (int i = 0; i < P; ++i) slope[i] = g[i];
    for (int i = 0; i < H; ++i) factor[i] = h[i];
    if constexpr (IsBoxed<Problem>::value) problem.hold(t, slope, factor);
    Real trace(0.0);
    for (int i = 0; i < P; ++i) trace += factor[packed(i, i)];
    const Real floor = trace * Real(1e-9) + Real(1e-280);
    Real diagonal[P];
    for (int i = 0; i < P; ++i) {
      diagonal[i] = factor[packed(i, i)];
      factor[packed(i, i)] += damping * vmax(diagonal[i], floor);
      step[i] = -slope[i];
    }
    cholesky<P>(factor, floor * Real(1e-6));
    cholesky_solve<P>(factor, step);
    Real largest(0.0);
    for (int i = 0; i < P; ++i) largest = vmax(largest, vabs(step[i]));
    const Real shorten = select(largest > Real(kMaxStep), Real(kMaxStep) / largest, Real(1.0));
    for (int i = 0; i < P; ++i) next[i] = select(starting, t[i], t[i] + step[i] * shorten);
    if constexpr (IsBoxed<Problem>::value) problem.clip(next);
    Real predicted(0.0);
    for (int i = 0; i < P; ++i) step[i] = next[i] - t[i];
    for (int i = 0; i < P; ++i) {
      Real row = Real(0.5) * h[packed(i, i)] * step[i];
      for (int j = 0; j < i; ++j) row += h[packed(i, j)] * step[j];
      predicted -= step[i] * (Real(2.0) * slope[i] + Real(2.0) * row);
    }
    Real cost1, g1[P], h1[H];
    problem.evaluate(next, &cost1, g1, h1);
    const Mask active = !done;
    const Mask better = active & (cost1 < cost);
    // A small prediction counts only while the damping is not what makes it small.
    const Mask small = active & !starting &
                       (((predicted <= Real(options.tolerance) * cost) & (damping <= Real(1.0))) |
                        (cost <= Real(options.floor)));
    const Mask lost = starting & !(cost1 < Real(kInfeasible));
    const Real gained = cost - cost1;
    const Real change = select(gained > Real(kGood) * predicted, Real(kShrink),
                               select(gained > Real(kPoor) * predicted, Real(1.0), Real(kGrow)));
    for (int i = 0; i < P; ++i) {
      t[i] = select(better, next[i], t[i]);
      g[i] = select(better, g1[i], g[i]);
    }
    for (int i = 0; i < H; ++i) h[i] = select(better, h1[i], h[i]);
    cost = select(better, cost1, cost);
    damping = select(active & !starting, vmax(damping * change, Real(1e-12)), damping);
    iterations = select(active, iterations + Real(1.0), iterations);
    converged = converged | small;
    starting = Mask(false);
    done = done | small | lost | (damping > Real(1e12)) |
           (iterations >= Real(static_cast<double>(options.max_iterations)));
  }
};

}  // namespace MS_ISA
}  // namespace megascale
