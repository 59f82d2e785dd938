// y = coefficient * x1^e1 * ... * xK^eK, linear in the logarithms: learning-rate and batch-size
// laws in any subset of (N, D, C, B).
#pragma once

#include "core/law.h"

namespace megascale {
inline namespace MS_ISA {

template <int K>
struct PowerLaw : LawDefaults {
  static_assert(K >= 1 && K <= kMaxInputs);
  static constexpr const char* kNames[] = {"power_law_1", "power_law_2", "power_law_3",
                                           "power_law_4"};
  static constexpr const char* kName = kNames[K - 1];
  static constexpr int kParams = K + 1, kInputs = K, kDerived = 0;
  static constexpr const char* kParamNames[] = {"coefficient", "exponent_1", "exponent_2",
                                                "exponent_3", "exponent_4"};
  static constexpr const char* kInputNames[] = {"x1", "x2", "x3", "x4"};
  static constexpr const char* kTargetName = "y";
  static constexpr const char* kDerivedNames[] = {""};
  static constexpr MS_HD Coordinate coordinate(int i) {
    constexpr Coordinate kinds[] = {Coordinate::kIdentity, Coordinate::kIdentity,
                                    Coordinate::kIdentity, Coordinate::kIdentity,
                                    Coordinate::kIdentity};
    return kinds[i];
  }
  static constexpr bool kLogValue = true, kLogTarget = true, kCouplesScale = true;
  static constexpr Residual kDefault = Residual::kLog;

  static constexpr int kLinear = K + 1, kNonlinear = 0, kGrid = 1;
  static constexpr MS_HD int owner(int k) {
    constexpr int owners[] = {0};
    return owners[k];
  }
  static constexpr uint32_t kPositive = 0;

  template <class Real>
  static MS_INLINE Real value(const Real* u, const Real* x, Real* grad) {
    Real f = u[0];
    grad[0] = Real(1.0);
    for (int i = 0; i < K; ++i) {
      f += u[i + 1] * x[i];
      grad[i + 1] = x[i];
    }
    return f;
  }
  template <class Real>
  static MS_INLINE void shape(const Real*, Real, Real*) {}
  template <class Real>
  static MS_INLINE void columns(const Real*, const Real* x, Real* col) {
    col[0] = Real(1.0);
    for (int i = 0; i < K; ++i) col[i + 1] = x[i];
  }
  static MS_HD void assemble(const double*, const double* c, double, double* u) {
    for (int i = 0; i <= K; ++i) u[i] = c[i];
  }
  static MS_HD void grid(int, const StartContext&, double*) {}
  static MS_HD void to_natural(const double* u, const double* sx, double sy, double* theta) {
    double log_coefficient = u[0] + vlog(sy);
    for (int i = 0; i < K; ++i) {
      log_coefficient -= u[i + 1] * vlog(sx[i]);
      theta[i + 1] = u[i + 1];
    }
    theta[0] = vexp(log_coefficient);
  }
  static MS_HD void from_natural(const double* theta, const double* sx, double sy, double* u) {
    u[0] = std::log(theta[0] / sy);
    for (int i = 0; i < K; ++i) {
      // At unit scale a held coefficient stands whatever the exponents, which may be NaN (free).
      if (sx[i] != 1) u[0] += theta[i + 1] * std::log(sx[i]);
      u[i + 1] = theta[i + 1];
    }
  }
  static void derived(const double*, double*) {}
};

}  // namespace MS_ISA
}  // namespace megascale
