// One problem of a chunk as a thread sees it, and the runs of the full problem there.
#pragma once

#include "core/bfgs.h"
#include "core/full.h"
#include "core/law.h"
#include "core/lm.h"
#include "core/starts.h"

namespace megascale {
inline namespace MS_ISA {

// Columns of all problems of a chunk and the facts about one of them; plain pointers, so that the
// same structs serve device memory.
template <class Law>
struct ThreadColumns {
  const double* full_x[Law::kInputs];
  const double* projected_x[Law::kInputs];
  const double *y, *log_y, *root, *projected_y, *scale, *target;
};

template <class Law>
struct ThreadProblem {
  static constexpr int P = Law::kParams;
  int64_t at, projected_at;
  int32_t count, projected_count, valid, constrained, bounded;
  double projected_anchor, full_anchor;
  double lower[P], upper[P], free[P], start[P];
};

struct ThreadOptions {
  Residual residual;
  bool along_ray, given_start;
  bool same_objective;  // the projected problem's is the one asked for
  bool descends;        // the search is the law's own: the caller chose no starts
  bool settles;         // BFGS goes on where Levenberg-Marquardt has not converged
  int starts;
  SolverOptions projected, full;
};

template <class Law>
struct ThreadResult {
  double cost;
  double t[Law::kParams];
  double h[packed_size(Law::kParams)];
  int32_t iterations, starts, agreeing;
  int32_t converged, exhausted;
};

template <class Machine>
MS_HD inline void run_to_end(Machine& machine) {
  machine.admit(true);
  while (!machine.done) machine.iterate();
}

// Sets the parameters that are held fixed.
template <class Law>
MS_HD void hold_fixed(const ThreadProblem<Law>& p, double* t) {
  for (int i = 0; i < Law::kParams; ++i)
    if (p.free[i] == 0) t[i] = p.lower[i];
}

// Runs the full problem from machine.t to the end, with BFGS where Levenberg-Marquardt ends without
// an optimum and not far above the `best` cost, and keeps the outcome if it is the best so far.
template <class Law, class Machine>
MS_HD void polish(Machine& machine, double best, const ThreadProblem<Law>& p,
                  const ThreadOptions& options, ThreadResult<Law>* out) {
  machine.options = options.full;
  run_to_end(machine);
  out->iterations += static_cast<int>(machine.iterations);
  bool exhausted = machine.iterations >= machine.options.max_iterations;
  if (options.settles && !p.bounded && settles(machine.converged, machine.cost, best)) {
    Bfgs<Full<Law, double>> further;
    further.problem = machine.problem;
    further.options = settle_options(options.full);
    for (int i = 0; i < Law::kParams; ++i) further.t[i] = machine.t[i];
    run_to_end(further);
    if (further.cost <= machine.cost) {
      out->iterations += static_cast<int>(further.iterations);
      machine.cost = further.cost;
      machine.converged = further.converged;
      exhausted = further.iterations >= further.options.max_iterations;
      for (int i = 0; i < Law::kParams; ++i) machine.t[i] = further.t[i];
      for (int i = 0; i < packed_size(Law::kParams); ++i) machine.h[i] = further.h[i];
    }
  }
  if (!(machine.cost < out->cost)) return;
  out->cost = machine.cost;
  for (int i = 0; i < Law::kParams; ++i) out->t[i] = machine.t[i];
  for (int i = 0; i < packed_size(Law::kParams); ++i) out->h[i] = machine.h[i];
  out->converged = machine.converged;
  out->exhausted = exhausted;
}

}  // namespace MS_ISA
}  // namespace megascale
