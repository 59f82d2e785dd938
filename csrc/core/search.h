// Two more lane machines beside Levenberg-Marquardt and BFGS: the best cells of a grid of starts,
// and a single evaluation that solves for the linear coefficients.
#pragma once

#include "core/lm.h"

namespace megascale {
inline namespace MS_ISA {

// Evaluates a projected problem at `cells` points and keeps the best `kBest`, in order of cost.
// The points are the same for every lane (a law's grid does not depend on the data).
template <class Problem>
struct GridSearch {
  using Real = typename Problem::Real;
  using Mask = typename RealTraits<Real>::Mask;
  static constexpr int P = Problem::kParams, kBest = 4;

  Problem problem;
  SolverOptions options;
  const double* cells = nullptr;  // count x P
  int count = 0;
  Real t[P];
  Real best_cost[kBest], best_cell[kBest];
  Real cost = Real(0.0), iterations = Real(0.0);
  Mask done = Mask(true), converged = Mask(true);

  MS_NOINLINE void admit(Mask fresh) {
    for (int k = 0; k < kBest; ++k) {
      best_cost[k] = select(fresh, Real(kInfeasible), best_cost[k]);
      best_cell[k] = select(fresh, Real(-1.0), best_cell[k]);
    }
    done = done & !fresh;
    // All lanes share the cell index, so a newly admitted lane starts a fresh sweep for everyone;
    // the driver admits in full batches (see `kLockstep`).
    index_ = 0;
  }
  static constexpr bool kLockstep = true;

  MS_NOINLINE void iterate() {
    Real g[P], h[packed_size(P)], value;
    for (int i = 0; i < P; ++i) t[i] = Real(cells[index_ * P + i]);
    problem.evaluate(t, &value, g, h);
    value = select(value < Real(kInfeasible), value, Real(kInfeasible));
    Real cell(static_cast<double>(index_));
    for (int k = 0; k < kBest; ++k) {
      const Mask lower = value < best_cost[k];
      const Real old_cost = best_cost[k], old_cell = best_cell[k];
      best_cost[k] = select(lower, value, old_cost);
      best_cell[k] = select(lower, cell, old_cell);
      value = select(lower, old_cost, value);
      cell = select(lower, old_cell, cell);
    }
    if (++index_ == count) done = Mask(true);
  }

 private:
  int index_ = 0;
};

// One evaluation: the cost and the linear coefficients at the given t.
template <class Problem, int L>
struct LinearSolve {
  using Real = typename Problem::Real;
  using Mask = typename RealTraits<Real>::Mask;
  static constexpr int P = Problem::kParams;

  Problem problem;
  SolverOptions options;
  Real t[P > 0 ? P : 1], c[L];
  Real cost = Real(0.0), iterations = Real(0.0);
  Mask done = Mask(true), converged = Mask(true);
  static constexpr bool kLockstep = true;

  MS_NOINLINE void admit(Mask fresh) { done = done & !fresh; }
  MS_NOINLINE void iterate() {
    Real g[P > 0 ? P : 1], h[P > 0 ? packed_size(P) : 1];
    problem.evaluate(t, &cost, g, h, c);
    done = Mask(true);
  }
};

}  // namespace MS_ISA
}  // namespace megascale
