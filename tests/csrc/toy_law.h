// A law the engine does not have: y = a + b sqrt(x). Header plus one
// registration line is all.
#pragma once

#include "core/law.h"
#include "core/projected.h"

namespace megascale {
inline namespace MS_ISA {

struct ToyLaw : LawDefaults {
  static constexpr const char* kName = "toy";
  static constexpr int kParams = 2, kInputs = 1, kDerived = 1;
  static constexpr const char* kParamNames[] = {"a", "b"};
  static constexpr const char* kInputNames[] = {"x"};
  static constexpr const char* kTargetName = "y";
  static constexpr const char* kDerivedNames[] = {"ratio"};
  static constexpr InputKind kInputKind = InputKind::kRatio;
  static constexpr MS_HD Coordinate coordinate(int) { return Coordinate::kLog; }
  static constexpr int kLinear = 2, kNonlinear = 0, kGrid = 1;
  static constexpr MS_HD int owner(int) { return 0; }
  static constexpr uint32_t kPositive = 0b11;

  template <class Real>
  static MS_INLINE Real value(const Real* u, const Real* x, Real* grad) {
    grad[0] = Real(1.0);
    grad[1] = vsqrt(x[0]);
    return u[0] + u[1] * grad[1];
  }
  template <class Real>
  static MS_INLINE void shape(const Real*, Real, Real*) {}
  template <class Real>
  static MS_INLINE void columns(const Real*, const Real* x, Real* col) {
    col[0] = Real(1.0);
    col[1] = vsqrt(x[0]);
  }
  static MS_HD void assemble(const double*, const double* c, double, double* u) {
    u[0] = c[0];
    u[1] = c[1];
  }
  static MS_HD void grid(int, const StartContext&, double*) {}
  static MS_HD void to_natural(const double* u, const double* sx, double sy, double* theta) {
    theta[0] = u[0] * sy;
    theta[1] = u[1] * sy / std::sqrt(sx[0]);
  }
  static MS_HD void from_natural(const double* theta, const double* sx, double sy, double* u) {
    u[0] = theta[0] / sy;
    u[1] = theta[1] * std::sqrt(sx[0]) / sy;
  }
  static void derived(const double* p, double* out) { out[0] = p[1] / p[0]; }
};

}  // namespace MS_ISA
}  // namespace megascale

// The registration line.
#define MEGASCALE_EXTRA_LAWS(X) X(ToyLaw)
