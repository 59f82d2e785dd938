// E(B) = S_min B (1 - (B_min/B)^q)^(-1/p), the tokens-steps law of a loss with a bias term S^-p and
// a noise floor B^-q at constant learning rate; E(S) = B_min S / (1 - (S_min/S)^p)^(1/q).
//
// log(E/B) = log S_min - (1/p) log(1 - (B_min/B)^q) is linear in (log S_min, 1/p).
#pragma once

#include "core/law.h"

namespace megascale {
inline namespace MS_ISA {

struct NoiseFloor : LawDefaults {
  static constexpr const char* kName = "noise_floor";
  static constexpr int kParams = 4, kInputs = 1, kDerived = 3;
  static constexpr const char* kParamNames[] = {"S_min", "B_min", "p", "q"};
  static constexpr const char* kInputNames[] = {"S"};
  static constexpr const char* kTargetName = "E";
  static constexpr const char* kDerivedNames[] = {"B_opt", "E_min", "S_opt"};
  static constexpr MS_HD Coordinate coordinate(int i) {
    constexpr Coordinate kinds[] = {Coordinate::kLog, Coordinate::kLogit, Coordinate::kLog,
                                    Coordinate::kLog};
    return kinds[i];
  }
  static constexpr bool kAlongRay = true, kLogValue = true, kLogTarget = true;
  static constexpr Residual kDefault = Residual::kRay;

  static constexpr int kLinear = 2, kNonlinear = 2, kGrid = 48;
  static constexpr MS_HD int owner(int k) {
    constexpr int owners[] = {1, 1};
    return owners[k];
  }
  static constexpr uint32_t kPositive = 0b10;

  // x[0] = log B; the anchor (smallest B) bounds B_min.
  template <class Real>
  static MS_INLINE Real value(const Real* u, const Real* x, Real* grad) {
    const Real gap = vlog(u[1]) - x[0];
    const Real v = vexp(u[3] * gap);
    const Real left = vmax(Real(1.0) - v, Real(1e-300));
    const Real inverse_p = Real(1.0) / u[2];
    const Real log_left = vlog(left);
    const Real dv = inverse_p / left;
    grad[0] = Real(1.0) / u[0];
    grad[1] = dv * v * u[3] / u[1];
    grad[2] = inverse_p * inverse_p * log_left;
    grad[3] = dv * v * gap;
    return vlog(u[0]) + x[0] - inverse_p * log_left;
  }
  // Nonlinear: logit of B_min below the smallest B, log q.
  static constexpr int kShape = 3;
  template <class Real>
  static MS_INLINE void shape(const Real* t, Real anchor, Real* u) {
    const Real e = vexp(-t[0]);
    const Real s = Real(1.0) / (Real(1.0) + e);
    u[0] = vlog(anchor * s);
    u[1] = vexp(t[1]);
    u[2] = e * s;  // d log B_min / dt
  }
  template <class Real>
  static MS_INLINE void columns(const Real* u, const Real* x, Real* col) {
    const Real gap = u[0] - x[0];
    const Real v = vexp(u[1] * gap);
    const Real left = vmax(Real(1.0) - v, Real(1e-300));
    const Real dv = v / left;
    col[0] = Real(1.0);
    col[1] = -vlog(left);
    col[2] = dv * u[1] * u[2];
    col[3] = dv * u[1] * gap;
  }
  // The projected target is log(E/B).
  static MS_HD double projected_target(const double* x, double log_y) { return log_y - x[0]; }
  static MS_HD void assemble(const double* t, const double* c, double anchor, double* u) {
    u[0] = vexp(c[0]);
    u[1] = anchor / (1 + vexp(-t[0]));
    u[2] = 1 / vmax(c[1], 1e-9);
    u[3] = vexp(t[1]);
  }
  static MS_HD void grid(int i, const StartContext&, double* t) {
    t[0] = -4.0 + 1.2 * (i % 8);
    t[1] = -2.0 + 0.7 * (i / 8);
  }
  static MS_HD void to_natural(const double* u, const double* sx, double sy, double* theta) {
    theta[0] = u[0] * sy / sx[0];
    theta[1] = u[1] * sx[0];
    theta[2] = u[2];
    theta[3] = u[3];
  }
  static MS_HD void from_natural(const double* theta, const double* sx, double sy, double* u) {
    u[0] = theta[0] * sx[0] / sy;
    u[1] = theta[1] / sx[0];
    u[2] = theta[2];
    u[3] = theta[3];
  }
  // Below q = 0.05 the floor is a logarithm in all but name and the parameters run away.
  static MS_HD double lowest(int i) { return i == 3 ? -3.0 : -700.0; }
  static void derived(const double* p, double* out) {
    const double ratio = p[3] / p[2];
    out[0] = p[1] * std::pow(1 + ratio, 1 / p[3]);
    out[1] = p[0] * out[0] * std::pow(1 - std::pow(p[1] / out[0], p[3]), -1 / p[2]);
    out[2] = out[1] / out[0];
  }
};

}  // namespace MS_ISA
}  // namespace megascale
