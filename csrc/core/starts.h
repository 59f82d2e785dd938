// The start strategy: where the search for one problem's optimum begins, which optima go on from
// the projected problem to the full one, and where the search goes from there.
//
// `starts_of` gives the ranks of the projected problem's starts and `start_of_rank` the point of
// the law's grid that a rank stands for; the solver runs from each of these points, and `Optima` is
// told what it found. `Descent` then asks for variations of the best optimum of the full problem.
// Every decision looks at one problem alone, so the CPU asks for a whole chunk of problems at a
// time and a CUDA thread for its own problem, with the same outcome.
#pragma once

#include "core/coordinates.h"
#include "core/law.h"
#include "core/lm.h"

namespace megascale {
inline namespace MS_ISA {

constexpr int kBestCells = 4;  // a grid search keeps so many

// The ranks [from, to); empty where from == to.
struct StartRange {
  int from, to;
};

// The projected problem's starts, given how many the caller asked for (0: as many as it takes). Of
// a law with designed starts eight where the points were smoothed along their rays, and 20 where
// they scatter about a steep curve; of a law with a grid the two best cells.
template <class Law>
MS_HD inline StartRange starts_of(int asked, bool along_ray) {
  constexpr int kSmooth = 8, kRough = 20, kCells = 2;
  if (Law::kDesignedStarts) return {0, asked > 0 ? asked : along_ray ? kSmooth : kRough};
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
    const int wanted = constrained || !same_objective ? kMost : bootstrapped ? 2 : 1;
    int found = 0;
    while (found < wanted && cost[found] < kInfeasible) ++found;
    return found;
  }
};

// The best few of many runs, each optimum once: costs in ascending order, and the runs' numbers.
template <int N>
struct Few {
  static constexpr double kNear = 1e-3;  // relative difference of costs of the same optimum
  double cost[N];
  int run[N];
  int count = 0;

  MS_HD void add(double value, int number) {
    if (!(value < kInfeasible)) return;
    int k = 0;
    while (k < count && cost[k] <= value) ++k;
    if (k > 0 && value <= cost[k - 1] * (1 + kNear)) return;
    const bool replaces = k < count && cost[k] <= value * (1 + kNear);
    if (k == N) return;
    if (!replaces) {
      if (count < N) ++count;
      for (int m = count - 1; m > k; --m) {
        cost[m] = cost[m - 1];
        run[m] = run[m - 1];
      }
    }
    cost[k] = value;
    run[k] = number;
  }
};

// How the winners of a screen (core/screen.h) are sieved. All run a few iterations in the projected
// problem. Where its objective is the one asked for, its best few run to their optima there, and
// the best of these are polished in the full problem. Elsewhere the full problem itself sorts them
// in three steps: by their costs, after a few iterations and after some more.
struct Sieve {
  static constexpr int kProjectedSame = 8, kProjected = 5;  // iterations of all
  static constexpr int kRefined = 8, kPolishedSame = 3;
  static constexpr int kBegun = 10, kFirst = 3, kHalf = 5, kSecond = 9, kPolished = 2;
  static constexpr double kTolerance = 1e-4;

  MS_HD static SolverOptions options(SolverOptions of, int steps) {
    of.tolerance = vmax(of.tolerance, kTolerance);
    of.max_iterations = of.max_iterations < steps ? of.max_iterations : steps;
    return of;
  }
};

// Whether a run of the full problem that ended at `cost` is worth BFGS: it has not converged, and
// is not far above the `best` cost.
MS_HD inline bool settles(bool converged, double cost, double best) {
  return !converged && cost < kInfeasible && cost <= 1.1 * best;
}
MS_HD inline SolverOptions settle_options(SolverOptions full) {
  full.max_iterations = 500;
  return full;
}

// Where the full problem starts from an optimum of the projected one: t and the linear
// coefficients c there.
template <class Law>
MS_HD inline void start_full(const double* t, const double* c, double projected_anchor,
                             double full_anchor, double* out) {
  double u[Law::kParams];
  Law::assemble(t, c, projected_anchor, u);
  for (int i = 0; i < Law::kParams; ++i) out[i] = start_coordinate<Law>(i, u[i], full_anchor);
}

// The local search of one problem of a law with moves: from the best optimum of the full problem
// through variations of it, `Law::move`, until none is better. The optima of a piecewise law differ
// in which points lie on which branch, and a joint moved across a point is the shortest way from
// one to the next.
//
// A round asks for variations, runs a few iterations from each and the best of them to the end. A
// problem stays in the search until enough variations have come back to its optimum, or all have
// been tried.
struct Descent {
  static constexpr int kFirst = 10, kFirstRay = 8;  // moves of the first round
  static constexpr int kRounds = 5;                 // of moves
  static constexpr int kEnough = 3;                 // variations that came back
  static constexpr int kSteps = 10;                 // iterations of a variation
  static constexpr double kTolerance = 1e-4;
  static constexpr double kNear = 1e-3;    // relative difference of costs of the same optimum
  static constexpr double kBetter = 1e-6;  // relative gain of an optimum that is another

  int agreeing = 1, rounds = 0, tried = 0;
  bool moved = false, improved = false, ended = false;

  // The moves to try now; empty at the end. `converged`: whether the optimum is one.
  MS_HD StartRange next(int moves, bool along_ray, bool converged) {
    const bool settled = !moved && agreeing >= kEnough && converged;
    if (ended || (rounds > 0 && settled) || (!moved && tried >= moves) || rounds >= kRounds) {
      ended = true;
      return {0, 0};
    }
    const StartRange range = {moved ? 0 : tried, rounds > 0  ? moves
                                                 : along_ray ? kFirstRay
                                                             : kFirst};
    tried = range.to;
    ++rounds;
    moved = false;
    return range;
  }

  // One variation ended at `cost`; the optimum before this round is `best`.
  MS_HD void count(double cost, double best) {
    if (vabs(cost - best) <= kNear * best) ++agreeing;
  }

  // Whether the best variation is worth running to the end.
  MS_HD static bool promising(double cost, double best) { return cost < best * (1 + kNear); }

  // Where it ended.
  MS_HD void judge(double cost, double best) {
    moved = cost < best * (1 - kBetter);
    improved = improved || moved;
    if (cost < best * (1 - kNear)) agreeing = 1;
  }

  MS_HD static SolverOptions options(SolverOptions full) {
    full.tolerance = vmax(full.tolerance, kTolerance);
    full.max_iterations = full.max_iterations < kSteps ? full.max_iterations : kSteps;
    return full;
  }
};

// Whether one problem's search may end: rounds of screening, each followed by a local search where
// it found a better optimum. Rounds are independent of one another, so an optimum that two of them
// find is taken for the lowest. One round is enough where the local search kept coming back and no
// other optimum is of comparable cost.
struct Verdict {
  static constexpr int kRounds = 4;
  static constexpr double kSame = 1e-4;  // relative difference of costs of one optimum
  static constexpr double kRival = 1.1;  // an optimum of less than this many times the best cost

  int rounds = 0, found = 0, returned = 1;
  bool easy = false, rival = false;

  // A polished optimum of the round beside the best one.
  MS_HD void compare(double cost, double best) {
    rival = rival || (cost > best * (1 + kSame) && cost < kRival * best);
  }
  // The round's lowest cost beside the best of the rounds before; whether it is an improvement.
  MS_HD bool judge(double cost, double before) {
    ++rounds;
    const bool better = cost < before * (1 - kSame);
    if (better)
      found = 1;
    else if (cost <= before * (1 + kSame))
      ++found;
    return better;
  }
  // After the local search: how many variations came back to its optimum.
  MS_HD void settle(int variations, bool moved, bool converged) {
    returned = variations;
    easy = rounds == 1 && returned >= Descent::kEnough && converged && !rival;
    if (moved) found = 1;
  }
  MS_HD bool settled() const { return easy || found > 1 || rounds >= kRounds; }
  // For the result: how often the optimum was found, one if it may not be the lowest.
  MS_HD int agreeing() const { return easy ? returned : found; }
};

// Where the full problem starts from a variation t of an optimum `best`, with the linear
// coefficients c that the projected problem has there, or the optimum's own where it has none.
template <class Law>
MS_HD inline void start_variation(const double* t, const double* c, bool solved, const double* best,
                                  double projected_anchor, double full_anchor, double* out) {
  constexpr int P = Law::kParams, L = Law::kLinear;
  start_full<Law>(t, c, projected_anchor, full_anchor, out);
  for (int j = 0; !solved && j < L; ++j) out[P - L + j] = best[P - L + j];
}

}  // namespace MS_ISA
}  // namespace megascale
