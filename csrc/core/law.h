// What a law must offer. One header per law; `registry.h` lists them.
//
//   kName, kParams, kParamNames, kInputs, kInputNames, kTargetName
//   coordinate(i)          how the solver's t maps to the law's coordinates u
//   kDefault               residual kind of residual="auto"
//   value(u, x, grad)      f and df/du at prepared inputs x (log f when kLogValue)
//   ray_value              the same along the ray E = B S, when kHasRay
//   kLinear, kNonlinear, owner, kPositive, shape, columns, assemble, grid
//                          the variable-projection form, see projected.h
//   full_point, projected_point   scaled point -> columns of the two problems
//   to_natural             coordinates of the scaled problem -> parameters in the user's units
//   from_natural           the inverse
//   kDerived, kDerivedNames, derived
//
// `LawDefaults` holds what most laws share.
#pragma once

#include "core/coordinates.h"
#include "core/elementary.h"
#include "core/points.h"
#include "core/status.h"

namespace megascale {
inline namespace MS_ISA {

constexpr int kMaxInputs = 4;
constexpr int kMaxParams = 8;

// How a prepared column is scaled by the geometric mean of its raw values.
enum class InputKind { kLog, kRatio };

// What a law's starts may look at: the projected inputs and the target of one prepared problem.
struct StartContext {
  const double* const* x;
  const double* y;
  int count;
  double anchor;  // upper limit of a logit coordinate
};

struct LawDefaults {
  static constexpr bool kHasRay = false;
  static constexpr bool kLogValue = false;        // value() returns log f
  static constexpr bool kPositiveTarget = true;   // y must be > 0
  static constexpr bool kLogTarget = false;       // projected form fits log y
  static constexpr bool kAlongRay = false;        // x = S, y = E, but the law is a function of E/S
  static constexpr bool kCouplesScale = false;    // box bounds do not survive scaling of the inputs
  static constexpr bool kDesignedStarts = false;  // grid points are starts, not candidates
  static constexpr Residual kDefault = Residual::kRelative;
  static constexpr Residual kRayResidual = Residual::kLog;
  static constexpr InputKind kInputKind = InputKind::kLog;

  static constexpr bool kSorted =
      false;  // points are prepared in ascending order of the first input
  static constexpr bool kAnalyticJacobian = false;  // natural_jacobian: d theta / d u, row by row
  static constexpr int kShape = 2;                  // values `shape` computes once per evaluation

  // Scaled inputs and target -> columns of the full and of the projected problem.
  static MS_HD void full_point(const double* x, double y, bool, double* out, double* target,
                               int n) {
    for (int i = 0; i < n; ++i) out[i] = x[i];
    *target = y;
  }
  static MS_HD void projected_point(const double* x, double y, double* out, double* target, int n) {
    for (int i = 0; i < n; ++i) out[i] = x[i];
    *target = y;
  }
  static MS_HD double projected_target(const double*, double log_y) { return log_y; }
  // Flags about a solution; x and y are the full problem's columns.
  static uint32_t check(const double*, const double*, const double*, int, bool) { return 0; }
  // Natural lower limit of the solver's t, below which a law degenerates.
  static MS_HD double lowest(int) { return -700; }
  static MS_HD bool convex(const double*) { return true; }

  template <class Real>
  static MS_INLINE typename RealTraits<Real>::Mask feasible(const Real*) {
    return typename RealTraits<Real>::Mask(true);
  }
};

}  // namespace MS_ISA
}  // namespace megascale
