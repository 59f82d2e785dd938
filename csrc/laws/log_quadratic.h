// Loss against log learning rate (arXiv 2601.05049, equation 2), and against log learning rate and
// log batch size.
//
//   log_quadratic_1  L = L_min + C (log eta - log eta_opt)^2
//   log_quadratic_2  L = L_min + c_ee x^2 + c_eb x y + c_bb y^2,
//                    x = log(eta / eta_opt), y = log(B / B_opt)
//
// Both are linear in the polynomial's coefficients; the optimum is the vertex. Without convexity
// there is no minimum: the vertex is reported with `kNotConvex` and status `kNoFit`.
#pragma once

#include "core/law.h"

namespace megascale {
inline namespace MS_ISA {

struct LogQuadratic1 : LawDefaults {
  static constexpr const char* kName = "log_quadratic_1";
  static constexpr int kParams = 3, kInputs = 1, kDerived = 0;
  static constexpr const char* kParamNames[] = {"L_min", "eta_opt", "C"};
  static constexpr const char* kInputNames[] = {"eta"};
  static constexpr const char* kTargetName = "L";
  static constexpr const char* kDerivedNames[] = {""};
  static constexpr MS_HD Coordinate coordinate(int i) {
    constexpr Coordinate kinds[] = {Coordinate::kIdentity, Coordinate::kIdentity,
                                    Coordinate::kIdentity};
    return kinds[i];
  }
  static constexpr bool kPositiveTarget = false;
  static constexpr Residual kDefault = Residual::kAbsolute;
  static constexpr int kLinear = 3, kNonlinear = 0, kGrid = 1;
  static constexpr MS_HD int owner(int k) {
    constexpr int owners[] = {0};
    return owners[k];
  }
  static constexpr uint32_t kPositive = 0;

  template <class Real>
  static MS_INLINE Real value(const Real* u, const Real* x, Real* grad) {
    const Real d = x[0] - u[1];
    grad[0] = Real(1.0);
    grad[1] = Real(-2.0) * u[2] * d;
    grad[2] = d * d;
    return u[0] + u[2] * d * d;
  }
  template <class Real>
  static MS_INLINE void shape(const Real*, Real, Real*) {}
  template <class Real>
  static MS_INLINE void columns(const Real*, const Real* x, Real* col) {
    col[0] = Real(1.0);
    col[1] = x[0];
    col[2] = x[0] * x[0];
  }
  static MS_HD void assemble(const double*, const double* c, double, double* u) {
    u[2] = c[2];
    u[1] = -0.5 * c[1] / c[2];
    u[0] = c[0] + 0.5 * c[1] * u[1];
  }
  static MS_HD bool convex(const double* u) { return u[2] > 0; }
  static MS_HD void grid(int, const StartContext&, double*) {}
  static MS_HD void to_natural(const double* u, const double* sx, double sy, double* theta) {
    theta[0] = u[0] * sy;
    theta[1] = std::exp(u[1]) * sx[0];
    theta[2] = u[2] * sy;
  }
  static MS_HD void from_natural(const double* theta, const double* sx, double sy, double* u) {
    u[0] = theta[0] / sy;
    u[1] = std::log(theta[1] / sx[0]);
    u[2] = theta[2] / sy;
  }
  static void derived(const double*, double*) {}
};

struct LogQuadratic2 : LawDefaults {
  static constexpr const char* kName = "log_quadratic_2";
  static constexpr int kParams = 6, kInputs = 2, kDerived = 0;
  static constexpr const char* kParamNames[] = {"L_min", "eta_opt", "B_opt",
                                                "c_ee",  "c_eb",    "c_bb"};
  static constexpr const char* kInputNames[] = {"eta", "B"};
  static constexpr const char* kTargetName = "L";
  static constexpr const char* kDerivedNames[] = {""};
  static constexpr MS_HD Coordinate coordinate(int i) {
    constexpr Coordinate kinds[] = {Coordinate::kIdentity, Coordinate::kIdentity,
                                    Coordinate::kIdentity, Coordinate::kIdentity,
                                    Coordinate::kIdentity, Coordinate::kIdentity};
    return kinds[i];
  }
  static constexpr bool kPositiveTarget = false;
  static constexpr Residual kDefault = Residual::kAbsolute;
  static constexpr int kLinear = 6, kNonlinear = 0, kGrid = 1;
  static constexpr MS_HD int owner(int k) {
    constexpr int owners[] = {0};
    return owners[k];
  }
  static constexpr uint32_t kPositive = 0;

  template <class Real>
  static MS_INLINE Real value(const Real* u, const Real* x, Real* grad) {
    const Real d = x[0] - u[1], e = x[1] - u[2];
    grad[0] = Real(1.0);
    grad[1] = -(Real(2.0) * u[3] * d + u[4] * e);
    grad[2] = -(Real(2.0) * u[5] * e + u[4] * d);
    grad[3] = d * d;
    grad[4] = d * e;
    grad[5] = e * e;
    return u[0] + u[3] * grad[3] + u[4] * grad[4] + u[5] * grad[5];
  }
  template <class Real>
  static MS_INLINE void shape(const Real*, Real, Real*) {}
  template <class Real>
  static MS_INLINE void columns(const Real*, const Real* x, Real* col) {
    col[0] = Real(1.0);
    col[1] = x[0];
    col[2] = x[1];
    col[3] = x[0] * x[0];
    col[4] = x[0] * x[1];
    col[5] = x[1] * x[1];
  }
  static MS_HD void assemble(const double*, const double* c, double, double* u) {
    const double det = 4 * c[3] * c[5] - c[4] * c[4];
    u[1] = (c[4] * c[2] - 2 * c[5] * c[1]) / det;
    u[2] = (c[4] * c[1] - 2 * c[3] * c[2]) / det;
    u[0] = c[0] + 0.5 * (c[1] * u[1] + c[2] * u[2]);
    for (int i = 3; i < 6; ++i) u[i] = c[i];
  }
  static MS_HD bool convex(const double* u) { return u[3] > 0 && 4 * u[3] * u[5] > u[4] * u[4]; }
  static MS_HD void grid(int, const StartContext&, double*) {}
  static MS_HD void to_natural(const double* u, const double* sx, double sy, double* theta) {
    theta[0] = u[0] * sy;
    theta[1] = std::exp(u[1]) * sx[0];
    theta[2] = std::exp(u[2]) * sx[1];
    for (int i = 3; i < 6; ++i) theta[i] = u[i] * sy;
  }
  static MS_HD void from_natural(const double* theta, const double* sx, double sy, double* u) {
    u[0] = theta[0] / sy;
    u[1] = std::log(theta[1] / sx[0]);
    u[2] = std::log(theta[2] / sx[1]);
    for (int i = 3; i < 6; ++i) u[i] = theta[i] / sy;
  }
  static void derived(const double*, double*) {}
};

}  // namespace MS_ISA
}  // namespace megascale
