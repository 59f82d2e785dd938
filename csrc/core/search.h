// Two more lane machines beside Levenberg-Marquardt and BFGS: the best cells of a grid of starts,
// and a single evaluation that solves for the linear coefficients.
#pragma once

#include "core/lm.h"
#include "core/starts.h"

namespace megascale {
inline namespace MS_ISA {

// Evaluates a projected problem at every cell of a grid and keeps the best `kBestCells`, in order
// of cost. The cells are the same for every lane (a law's grid does not depend on the data):
// `cells.count()` says how many there are, `cells.at(n, t)` writes the coordinates of one.
template <class Problem, class Cells>
struct GridSearch {
  using Real = typename Problem::Real;
  using Mask = typename RealTraits<Real>::Mask;
  static constexpr int P = Problem::kParams;

  Problem problem;
  SolverOptions options;
  Cells cells;
  Real t[P];
  Real best_cost[kBestCells], best_cell[kBestCells];
  Real cost = Real(0.0), iterations = Real(0.0);
  Mask done = Mask(true), converged = Mask(true);

  MS_NOINLINE void admit(Mask fresh) {
    for (int k = 0; k < kBestCells; ++k) {
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
    double cell_t[P];
    cells.at(index_, cell_t);
    for (int i = 0; i < P; ++i) t[i] = Real(cell_t[i]);
    problem.evaluate(t, &value, g, h);
    value = select(value < Real(kInfeasible), value, Real(kInfeasible));
    Real cell(static_cast<double>(index_));
    for (int k = 0; k < kBestCells; ++k) {
      const Mask lower = value < best_cost[k];
      const Real old_cost = best_cost[k], old_cell = best_cell[k];
      best_cost[k] = select(lower, value, old_cost);
      best_cell[k] = select(lower, cell, old_cell);
      value = select(lower, old_cost, value);
      cell = select(lower, old_cell, cell);
    }
    if (++index_ == cells.count()) done = Mask(true);
  }

  // The best cells that lane l found, best first; -1 where there are fewer.
  MS_HD void best_cells(int l, int* out) const {
    for (int k = 0; k < kBestCells; ++k)
      out[k] = lane(best_cost[k], l) < kInfeasible ? static_cast<int>(lane(best_cell[k], l)) : -1;
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
