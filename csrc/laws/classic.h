// The classic tokens-steps law (arXiv 1812.06162): (S/S_min - 1)(E/E_min - 1) = 1.
//
// As a function of S, E = E_min S / (S - S_min). Along the ray E = B S it is linear in the batch
// size, E = E_min + S_min B, which is how residual="ray" fits it: in closed form.
#pragma once

#include "core/law.h"

namespace megascale {
inline namespace MS_ISA {

struct Classic : LawDefaults {
  static constexpr const char* kName = "classic";
  static constexpr int kParams = 2, kInputs = 1, kDerived = 1;
  static constexpr const char* kParamNames[] = {"S_min", "E_min"};
  static constexpr const char* kInputNames[] = {"S"};
  static constexpr const char* kTargetName = "E";
  static constexpr const char* kDerivedNames[] = {"B_crit"};
  static constexpr MS_HD Coordinate coordinate(int i) {
    constexpr Coordinate kinds[] = {Coordinate::kLogit, Coordinate::kLog};
    return kinds[i];
  }
  static constexpr bool kHasRay = true;
  static constexpr Residual kDefault = Residual::kRay;
  static constexpr Residual kRayResidual = Residual::kRelative;
  static constexpr InputKind kInputKind = InputKind::kRatio;

  static constexpr int kLinear = 2, kNonlinear = 0, kGrid = 1;
  static constexpr MS_HD int owner(int k) {
    constexpr int owners[] = {0};
    return owners[k];
  }
  static constexpr uint32_t kPositive = 0b11;

  template <class Real>
  static MS_INLINE Real value(const Real* u, const Real* x, Real* grad) {
    const Real inverse = Real(1.0) / (x[0] - u[0]);
    const Real ratio = x[0] * inverse;
    grad[0] = u[1] * ratio * inverse;
    grad[1] = ratio;
    return u[1] * ratio;
  }
  template <class Real>
  static MS_INLINE const Real* ray_shape(const Real* u) {
    return u;
  }
  template <class Real>
  static MS_INLINE Real ray_value(const Real* u, const Real* b, Real, Real* grad) {
    grad[0] = b[0];
    grad[1] = Real(1.0);
    return u[1] + u[0] * b[0];
  }
  template <class Real>
  static MS_INLINE void shape(const Real*, Real, Real*) {}
  template <class Real>
  static MS_INLINE void columns(const Real*, const Real* b, Real* col) {
    col[0] = Real(1.0);
    col[1] = b[0];
  }
  static MS_HD void full_point(const double* s, double e, bool ray, double* x, double* y, int) {
    x[0] = ray ? e / s[0] : s[0];
    *y = e;
  }
  static MS_HD void projected_point(const double* s, double e, double* x, double* y, int) {
    x[0] = e / s[0];
    *y = e;
  }
  static MS_HD void assemble(const double*, const double* c, double, double* u) {
    u[0] = c[1];
    u[1] = c[0];
  }
  static MS_HD void grid(int, const StartContext&, double*) {}
  static MS_HD void to_natural(const double* u, const double* sx, double sy, double* theta) {
    theta[0] = u[0] * sx[0];
    theta[1] = u[1] * sy;
  }
  static MS_HD void from_natural(const double* theta, const double* sx, double sy, double* u) {
    u[0] = theta[0] / sx[0];
    u[1] = theta[1] / sy;
  }
  static constexpr bool kAnalyticJacobian = true;
  static void natural_jacobian(const double*, const double* sx, double sy, double* jacobian) {
    jacobian[0] = sx[0];
    jacobian[1] = jacobian[2] = 0;
    jacobian[3] = sy;
  }
  static void derived(const double* p, double* out) { out[0] = p[1] / p[0]; }
};

}  // namespace MS_ISA
}  // namespace megascale
