// The start strategy: where the search for one problem's optimum begins, when it has seen enough,
// and which optima go on from the projected problem to the full one.
//
// The search goes in rounds. `starts_of_round` gives the ranks of a round's starts and
// `start_of_rank` the point of the law's grid that a rank stands for; the solver runs from each of
// these points, and `Optima` is told what it found. Every decision looks at one problem alone, so
// the CPU asks for a whole chunk of problems at a time and a CUDA thread for its own problem, with
// the same outcome.
#pragma once

#include "core/coordinates.h"
#include "core/law.h"
#include "core/lm.h"

namespace megascale {
inline namespace MS_ISA {

constexpr int kStartRounds = 2;
constexpr int kBestCells = 4;  // a grid search keeps so many

// The ranks [from, to); empty where from == to.
struct StartRange {
  int from, to;
};

// The starts of a round, given how many starts the caller asked for (0: as many as it takes) and
// how many of those made so far reached the best optimum.
//
// A law with designed starts makes ten, and 24 more where fewer than three agree: some basins are
// narrow. A law with a grid starts from its two best cells.
template <class Law>
MS_HD inline StartRange starts_of_round(int round, int asked, int agreeing) {
  constexpr int kFirst = 10, kMore = 24, kEnough = 3, kCells = 2;
  if (Law::kDesignedStarts) {
    if (round == 0) return {0, asked > 0 ? asked : kFirst};
    if (asked > 0 || agreeing >= kEnough) return {0, 0};
    return {kFirst, kFirst + kMore};
  }
  if (round > 0) return {0, 0};
  return {0, asked <= 0 ? kCells : asked < kBestCells ? asked : kBestCells};
}

// The point of the law's grid that a rank stands for, or -1: a designed start is its own point; of
// a grid it is the cell of that rank in `cells`, the best ones in order of cost. A cell next to the
// best on a grid of one parameter lies in the same valley and is left out, unless asked for.
template <class Law>
MS_HD inline int start_of_rank(int rank, int asked, const int* cells) {
  if (Law::kDesignedStarts) return rank;
  const int apart = cells[rank] - cells[0];
  const bool same_valley = Law::kNonlinear == 1 && (apart == 1 || apart == -1);
  return asked <= 0 && same_valley ? -1 : cells[rank];
}

// Optima of one projected problem found so far: at most three distinct ones, best first.
template <int Q>
struct Optima {
  static constexpr int kMost = 3;
  static constexpr double kAgree = 1e-6;   // relative difference in cost of two equal optima
  static constexpr double kNoise = 1e-15;  // cost of a point below which there is only rounding

  double cost[kMost] = {kInfeasible, kInfeasible, kInfeasible};
  double t[kMost][Q > 0 ? Q : 1] = {};
  int starts = 0, agreeing = 0, iterations = 0;

  // Takes in where one start ended: its cost at `at`, after `steps` iterations on `points` points.
  MS_HD void add(double value, const double* at, int steps, int points) {
    ++starts;
    iterations += steps;
    if (!(value < kInfeasible)) return;
    const double margin = kAgree * vmin(cost[0], value) + kNoise * points;
    if (vabs(value - cost[0]) <= margin) {
      ++agreeing;
      if (value < cost[0]) put(0, value, at);
      return;
    }
    for (int k = 0; k < kMost; ++k) {
      if (cost[k] < kInfeasible && vabs(value - cost[k]) <= kAgree * cost[k]) return;
      if (!(value < cost[k])) continue;
      for (int m = kMost - 1; m > k; --m) put(m, cost[m - 1], t[m - 1]);
      put(k, value, at);
      if (k == 0) agreeing = 1;
      return;
    }
  }

  MS_HD void put(int k, double value, const double* at) {
    cost[k] = value;
    for (int i = 0; i < Q; ++i) t[k][i] = at[i];
  }

  // How many optima, best first, go on to the full problem: one where that has the same objective,
  // so that its optimum is the answer; else all, because their order may change. A bootstrap starts
  // from the runner-up too, which must then be a fit like the first.
  MS_HD int to_polish(bool same_objective, bool constrained, bool bootstrapped) const {
    if (Q == 0) return 1;
    const int wanted = !same_objective || constrained ? kMost : bootstrapped ? 2 : 1;
    int found = 0;
    while (found < wanted && cost[found] < kInfeasible) ++found;
    return found;
  }
};

// Where the full problem starts from an optimum of the projected one: t and the linear
// coefficients c there.
template <class Law>
MS_HD inline void start_full(const double* t, const double* c, double projected_anchor,
                             double full_anchor, double* out) {
  double u[Law::kParams];
  Law::assemble(t, c, projected_anchor, u);
  for (int i = 0; i < Law::kParams; ++i) out[i] = start_coordinate<Law>(i, u[i], full_anchor);
}

}  // namespace MS_ISA
}  // namespace megascale
