// What a job asks of the solvers of one law. Host only.
#pragma once

#include <algorithm>

#include "core/law.h"
#include "core/lm.h"
#include "engine.h"

namespace megascale {
inline namespace MS_ISA {

// The residual that the full problem minimises.
template <class Law>
inline Residual full_residual(const FitJob& job) {
  if (job.residual != Residual::kRay) return job.residual;
  return Law::kRayResidual;
}

// Whether the full problem compares S at given B = E/S, instead of E at given S.
template <class Law>
inline bool along_ray(const FitJob& job) {
  return Law::kHasRay && job.residual == Residual::kRay;
}

// Whether the projected problem compares y itself, else y relative to its size. (Or its logarithm:
// Law::kLogTarget.)
template <class Law>
inline bool projected_absolute(const FitJob& job) {
  if (Law::kDefault == Residual::kAbsolute) return true;
  return Law::kNonlinear > 0 && !Law::kLogTarget && job.residual == Residual::kAbsolute;
}

// True where the projected objective is the requested one, so that its optimum is the answer.
template <class Law>
inline bool same_objective(const FitJob& job) {
  if (job.loss != Loss::kSquared) return false;
  const Residual kind = full_residual<Law>(job);
  if (Law::kHasRay && along_ray<Law>(job) != (Law::kNonlinear == 0)) return false;
  if (Law::kLogTarget) return kind == Residual::kLog;
  return kind == (projected_absolute<Law>(job) ? Residual::kAbsolute : Residual::kRelative);
}

// Whether the search goes on from the optimum found: not where the caller chose the starts.
inline bool descends(const FitJob& job) {
  return !job.initial && !job.compatibility_grid && job.starts == 0;
}

// Whether BFGS goes on where Levenberg-Marquardt has not converged.
inline bool settles(const FitJob& job) {
  return job.loss == Loss::kSquared && job.max_iterations <= 0;
}

// For the projected problem, which only has to lead the full one to its optimum.
inline SolverOptions projected_options(const FitJob& job) {
  SolverOptions o;
  o.tolerance = std::max(job.tolerance, 1e-8);
  o.max_iterations = job.max_iterations > 0 ? job.max_iterations : 200;
  o.floor = 1e-15;
  return o;
}

template <class Law>
SolverOptions full_options(const FitJob& job) {
  SolverOptions o;
  o.tolerance = job.tolerance;
  // A law with moves has kinks, where BFGS goes on sooner.
  const int usual = job.loss == Loss::kHuber ? 500 : Law::kMoves > 0 ? 60 : 200;
  o.max_iterations = job.max_iterations > 0 ? job.max_iterations : usual;
  o.floor = 1e-27;  // residuals of 1e-14: exact data
  // A polish starts next to its optimum.
  if (same_objective<Law>(job) && !job.initial) o.start_damping = 1e-6;
  return o;
}

}  // namespace MS_ISA
}  // namespace megascale
