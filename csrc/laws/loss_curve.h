// L(D) = L0 + A D^-gamma: one run's loss against tokens at constant learning rate
// (arXiv 2601.05049, equation 4).
#pragma once

#include "core/law.h"

namespace megascale {
inline namespace MS_ISA {

struct LossCurve : LawDefaults {
  static constexpr const char* kName = "loss_curve";
  static constexpr int kParams = 3, kInputs = 1, kDerived = 0;
  static constexpr const char* kParamNames[] = {"L0", "A", "gamma"};
  static constexpr const char* kInputNames[] = {"D"};
  static constexpr const char* kTargetName = "L";
  static constexpr const char* kDerivedNames[] = {""};
  static constexpr MS_HD Coordinate coordinate(int i) {
    constexpr Coordinate kinds[] = {Coordinate::kLog, Coordinate::kLog, Coordinate::kLog};
    return kinds[i];
  }
  static constexpr bool kCouplesScale = true;

  static constexpr int kLinear = 2, kNonlinear = 1, kGrid = 8;
  static constexpr MS_HD int owner(int k) {
    constexpr int owners[] = {1};
    return owners[k];
  }
  static constexpr uint32_t kPositive = 0b11;

  template <class Real>
  static MS_INLINE Real value(const Real* u, const Real* x, Real* grad) {
    const Real power = vexp(-u[2] * x[0]);
    const Real term = u[1] * power;
    grad[0] = Real(1.0);
    grad[1] = power;
    grad[2] = -x[0] * term;
    return u[0] + term;
  }
  template <class Real>
  static MS_INLINE void shape(const Real* t, Real, Real* u) {
    u[0] = vexp(t[0]);
  }
  template <class Real>
  static MS_INLINE void columns(const Real* u, const Real* x, Real* col) {
    const Real power = vexp(-u[0] * x[0]);
    col[0] = Real(1.0);
    col[1] = power;
    col[2] = -u[0] * x[0] * power;
  }
  static MS_HD void assemble(const double* t, const double* c, double, double* u) {
    u[0] = c[0];
    u[1] = c[1];
    u[2] = vexp(t[0]);
  }
  static MS_HD void grid(int i, const StartContext&, double* t) { t[0] = -3.5 + 0.7 * i; }
  static MS_HD void to_natural(const double* u, const double* sx, double sy, double* theta) {
    theta[0] = u[0] * sy;
    theta[1] = u[1] * sy * std::pow(sx[0], u[2]);
    theta[2] = u[2];
  }
  static MS_HD void from_natural(const double* theta, const double* sx, double sy, double* u) {
    u[0] = theta[0] / sy;
    u[1] = theta[1] / sy * std::pow(sx[0], -theta[2]);
    u[2] = theta[2];
  }
  static constexpr bool kAnalyticJacobian = true;
  static void natural_jacobian(const double* u, const double* sx, double sy, double* jacobian) {
    const double power = sy * std::pow(sx[0], u[2]);
    const double rows[9] = {sy, 0, 0, 0, power, u[1] * power * std::log(sx[0]), 0, 0, 1};
    for (int i = 0; i < 9; ++i) jacobian[i] = rows[i];
  }
  static void derived(const double*, double*) {}
};

}  // namespace MS_ISA
}  // namespace megascale
