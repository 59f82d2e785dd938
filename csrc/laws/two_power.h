// E(B) = a B^-u + c B^w: tokens to a target loss against the batch size B = E/S.
//
// The first term counts steps (small batches waste none), the second the noise floor's opposite:
// it has an interior minimum B_opt = (a u / (c w))^(1/(u+w)), and no finite B_min.
#pragma once

#include "core/law.h"

namespace megascale {
inline namespace MS_ISA {

struct TwoPower : LawDefaults {
  static constexpr const char* kName = "two_power";
  static constexpr int kParams = 4, kInputs = 1, kDerived = 3;
  static constexpr const char* kParamNames[] = {"a", "c", "u", "w"};
  static constexpr const char* kInputNames[] = {"S"};
  static constexpr const char* kTargetName = "E";
  static constexpr const char* kDerivedNames[] = {"B_opt", "E_min", "S_opt"};
  static constexpr MS_HD Coordinate coordinate(int i) {
    constexpr Coordinate kinds[] = {Coordinate::kLog, Coordinate::kLog, Coordinate::kLog,
                                    Coordinate::kLog};
    return kinds[i];
  }
  static constexpr bool kAlongRay = true, kCouplesScale = true;
  static constexpr Residual kDefault = Residual::kRay;

  static constexpr int kLinear = 2, kNonlinear = 2, kGrid = 64;
  static constexpr MS_HD int owner(int k) {
    constexpr int owners[] = {0, 1};
    return owners[k];
  }
  static constexpr uint32_t kPositive = 0b11;

  template <class Real>
  static MS_INLINE Real value(const Real* u, const Real* x, Real* grad) {
    const Real down = vexp(-u[2] * x[0]), up = vexp(u[3] * x[0]);
    grad[0] = down;
    grad[1] = up;
    grad[2] = -x[0] * (u[0] * down);
    grad[3] = x[0] * (u[1] * up);
    return u[0] * down + u[1] * up;
  }
  template <class Real>
  static MS_INLINE void shape(const Real* t, Real, Real* u) {
    u[0] = vexp(t[0]);
    u[1] = vexp(t[1]);
  }
  template <class Real>
  static MS_INLINE void columns(const Real* u, const Real* x, Real* col) {
    col[0] = vexp(-u[0] * x[0]);
    col[1] = vexp(u[1] * x[0]);
    col[2] = -u[0] * x[0] * col[0];
    col[3] = u[1] * x[0] * col[1];
  }
  static MS_HD void assemble(const double* t, const double* c, double, double* u) {
    u[0] = c[0];
    u[1] = c[1];
    u[2] = vexp(t[0]);
    u[3] = vexp(t[1]);
  }
  static MS_HD void grid(int i, const StartContext&, double* t) {
    t[0] = -3.0 + 0.6 * (i % 8);
    t[1] = -3.0 + 0.6 * (i / 8);
  }
  static MS_HD void to_natural(const double* u, const double* sx, double sy, double* theta) {
    theta[0] = u[0] * sy * std::pow(sx[0], u[2]);
    theta[1] = u[1] * sy * std::pow(sx[0], -u[3]);
    theta[2] = u[2];
    theta[3] = u[3];
  }
  static MS_HD void from_natural(const double* theta, const double* sx, double sy, double* u) {
    u[0] = theta[0] / sy * std::pow(sx[0], -theta[2]);
    u[1] = theta[1] / sy * std::pow(sx[0], theta[3]);
    u[2] = theta[2];
    u[3] = theta[3];
  }
  static void derived(const double* p, double* out) {
    const double best = std::pow(p[0] * p[2] / (p[1] * p[3]), 1 / (p[2] + p[3]));
    out[0] = best;
    out[1] = p[0] * std::pow(best, -p[2]) + p[1] * std::pow(best, p[3]);
    out[2] = out[1] / best;
  }
};

}  // namespace MS_ISA
}  // namespace megascale
