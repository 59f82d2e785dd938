// f = floor + a exp(-p x0) + c exp(-q x1): the shape shared by Chinchilla, L(N, D), and the loss
// surface at constant learning rate, L(S, B). Inputs are centred logarithms.
#pragma once

#include "core/law.h"

namespace megascale {
inline namespace MS_ISA {

struct TwoTerms : LawDefaults {
  static constexpr int kParams = 5, kInputs = 2;
  static constexpr bool kCouplesScale = true;
  static constexpr int kLinear = 3, kNonlinear = 2, kGrid = 144;
  static constexpr MS_HD int owner(int k) {
    constexpr int owners[] = {1, 2};
    return owners[k];
  }
  static constexpr uint32_t kPositive = 0b111;
  // Coordinates: floor, a, c, p, q.

  template <class Real>
  static MS_INLINE Real value(const Real* u, const Real* x, Real* grad) {
    const Real first = vexp(-u[3] * x[0]), second = vexp(-u[4] * x[1]);
    grad[0] = Real(1.0);
    grad[1] = first;
    grad[2] = second;
    grad[3] = -x[0] * (u[1] * first);
    grad[4] = -x[1] * (u[2] * second);
    return u[0] + u[1] * first + u[2] * second;
  }
  template <class Real>
  static MS_INLINE void columns(const Real* u, const Real* x, Real* col) {
    col[0] = Real(1.0);
    col[1] = vexp(-u[0] * x[0]);
    col[2] = vexp(-u[1] * x[1]);
    col[3] = -u[0] * x[0] * col[1];
    col[4] = -u[1] * x[1] * col[2];
  }
  template <class Real>
  static MS_INLINE void shape(const Real* t, Real, Real* u) {
    u[0] = vexp(t[0]);
    u[1] = vexp(t[1]);
  }
  static MS_HD void assemble(const double* t, const double* c, double, double* u) {
    for (int i = 0; i < 3; ++i) u[i] = c[i];
    u[3] = vexp(t[0]);
    u[4] = vexp(t[1]);
  }
  // Exponents 0.03 to 3, in equal ratios.
  static MS_HD void grid(int i, const StartContext&, double* t) {
    t[0] = -3.5 + 0.42 * (i % 12);
    t[1] = -3.5 + 0.42 * (i / 12);
  }
  static MS_HD void to_natural(const double* u, const double* sx, double sy, double* theta) {
    theta[0] = u[0] * sy;
    theta[1] = u[1] * sy * std::pow(sx[0], u[3]);
    theta[2] = u[2] * sy * std::pow(sx[1], u[4]);
    theta[3] = u[3];
    theta[4] = u[4];
  }
  static MS_HD void from_natural(const double* theta, const double* sx, double sy, double* u) {
    u[0] = theta[0] / sy;
    u[1] = theta[1] / sy * std::pow(sx[0], -theta[3]);
    u[2] = theta[2] / sy * std::pow(sx[1], -theta[4]);
    u[3] = theta[3];
    u[4] = theta[4];
  }
};

}  // namespace MS_ISA
}  // namespace megascale
