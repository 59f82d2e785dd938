// Screening: the projected problem's cost at many cells of a law's screen, without derivatives, and
// the best cell of each of several kinds. The lanes of a Pack screen a problem each, with cells
// that follow from its own points.
//
// A law with a screen has
//   kScreen           how many cells
//   kKnots, knots(context, round, out)   numbers that the cells of one problem are built from; each
//                     round has cells of its own
//   kScreenShape, cell(n, knots, shape)  the shape that the projected problem takes for cell n
//   kKinds, kinds(n, out)   the two kinds that cell n is one of
//   cell_start(n, knots, anchor, t)      the solver's start at cell n
#pragma once

#include "core/lm.h"

namespace megascale {
inline namespace MS_ISA {

template <class Problem, class Law>
struct Screen {
  using Real = typename Problem::Real;
  using Mask = typename RealTraits<Real>::Mask;
  static constexpr int P = Problem::kParams;

  Problem problem;
  SolverOptions options;
  int round = 0;
  Real knots[Law::kKnots];
  Real t[P];
  Real best_cost[Law::kKinds], best_cell[Law::kKinds];
  Real cost = Real(0.0), iterations = Real(0.0);
  Mask done = Mask(true), converged = Mask(true);
  static constexpr bool kLockstep = true;

  MS_NOINLINE void admit(Mask fresh) {
    for (int k = 0; k < Law::kKinds; ++k) {
      best_cost[k] = select(fresh, Real(kInfeasible), best_cost[k]);
      best_cell[k] = select(fresh, Real(-1.0), best_cell[k]);
    }
    done = done & !fresh;
  }

  MS_NOINLINE void iterate() {
    for (int n = 0; n < Law::kScreen; ++n) {
      Real shape[Law::kScreenShape];
      Law::cell(n, knots, shape);
      const Real value = problem.cost(shape);
      const Real cell(static_cast<double>(n));
      int kinds[2];
      Law::kinds(n, kinds);
      for (const int k : kinds) {
        const Mask lower = value < best_cost[k];
        best_cost[k] = select(lower, value, best_cost[k]);
        best_cell[k] = select(lower, cell, best_cell[k]);
      }
    }
    done = Mask(true);
  }

  // The best cells that lane l found, each once, in the order of their kinds; returns how many.
  MS_HD int winners(int l, int* out) const {
    int count = 0;
    for (int k = 0; k < Law::kKinds; ++k) {
      const int cell = static_cast<int>(lane(best_cell[k], l));
      bool seen = cell < 0;
      for (int j = 0; j < count; ++j) seen = seen || out[j] == cell;
      if (!seen) out[count++] = cell;
    }
    return count;
  }
};

}  // namespace MS_ISA
}  // namespace megascale
