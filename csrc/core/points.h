// Points as the solvers see them: scaled, transformed, and interleaved by lane.
//
// Element i of lane l of a column lies at [i * lanes + l]. Rows past the end of a lane's problem
// have zero weight and harmless values, so they add exact zeros.
#pragma once

#include "core/pack.h"
#include "core/status.h"

namespace megascale {
inline namespace MS_ISA {

// For variable projection: residual_i = scale_i * sum_j c_j phi_j(x_i) - target_i.
template <int X>
struct ProjectedPoints {
  const double* x[X];
  const double* scale;   // sqrt(weight) / y for relative residuals, sqrt(weight) otherwise
  const double* target;  // sqrt(weight) * target / (y or 1)
  int count;
};

// For the full problem: residual_i = root_i * (f(x_i) against y_i).
template <int X>
struct FullPoints {
  const double* x[X];
  const double* y;
  const double* log_y;
  const double* root;  // sqrt(weight)
  int count;
};

}  // namespace MS_ISA
}  // namespace megascale
