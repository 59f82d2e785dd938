// Optimal learning rate against batch size from the gradient noise scale.
//
//   noise_sgd   eta_max / (1 + B_noise/B)                                  (arXiv 1812.06162)
//   noise_sign  eta_max / [(sqrt(B_noise/B) + sqrt(B/B_noise)) / 2]        (arXiv 2405.14578)
//   noise_muon  eta_max / sqrt(1 + B_noise/B)                              (kexue.fm 11285)
//
// noise_muon is also the mean-field law of sign descent with a diagonal Hessian.
#pragma once

#include "core/law.h"

namespace megascale {
inline namespace MS_ISA {

struct NoiseScaleBase : LawDefaults {
  static constexpr int kParams = 2, kInputs = 1, kDerived = 0;
  static constexpr const char* kParamNames[] = {"eta_max", "B_noise"};
  static constexpr const char* kInputNames[] = {"B"};
  static constexpr const char* kTargetName = "eta";
  static constexpr const char* kDerivedNames[] = {""};
  static constexpr MS_HD Coordinate coordinate(int i) {
    constexpr Coordinate kinds[] = {Coordinate::kLog, Coordinate::kLog};
    return kinds[i];
  }
  static constexpr Residual kDefault = Residual::kLog;
  static constexpr InputKind kInputKind = InputKind::kRatio;
  static constexpr int kLinear = 1, kNonlinear = 1, kGrid = 24;
  static constexpr MS_HD int owner(int k) {
    constexpr int owners[] = {0};
    return owners[k];
  }
  static constexpr uint32_t kPositive = 0b1;

  template <class Real>
  static MS_INLINE void shape(const Real* t, Real, Real* u) {
    u[0] = vexp(t[0]);
  }
  static MS_HD void assemble(const double* t, const double* c, double, double* u) {
    u[0] = c[0];
    u[1] = vexp(t[0]);
  }
  static MS_HD void grid(int i, const StartContext&, double* t) { t[0] = -11.5 + 1.0 * i; }
  static MS_HD void to_natural(const double* u, const double* sx, double sy, double* theta) {
    theta[0] = u[0] * sy;
    theta[1] = u[1] * sx[0];
  }
  static MS_HD void from_natural(const double* theta, const double* sx, double sy, double* u) {
    u[0] = theta[0] / sy;
    u[1] = theta[1] / sx[0];
  }
  static void derived(const double*, double*) {}
};

// Adds value and columns from Form::phi(B, noise, &d phi / d noise).
template <class Form>
struct NoiseScale : NoiseScaleBase {
  template <class Real>
  static MS_INLINE Real value(const Real* u, const Real* x, Real* grad) {
    Real slope;
    const Real phi = Form::phi(x[0], u[1], &slope);
    grad[0] = phi;
    grad[1] = u[0] * slope;
    return u[0] * phi;
  }
  template <class Real>
  static MS_INLINE void columns(const Real* u, const Real* x, Real* col) {
    Real slope;
    col[0] = Form::phi(x[0], u[0], &slope);
    col[1] = u[0] * slope;
  }
};

struct SgdForm {
  template <class Real>
  static MS_INLINE Real phi(Real b, Real noise, Real* slope) {
    const Real inverse = Real(1.0) / (b + noise);
    *slope = -b * inverse * inverse;
    return b * inverse;
  }
};
struct SignForm {
  template <class Real>
  static MS_INLINE Real phi(Real b, Real noise, Real* slope) {
    const Real inverse = Real(1.0) / (b + noise);
    const Real root = vsqrt(b * noise);
    *slope = root * inverse * (Real(1.0) / noise - Real(2.0) * inverse);
    return Real(2.0) * root * inverse;
  }
};
struct MuonForm {
  template <class Real>
  static MS_INLINE Real phi(Real b, Real noise, Real* slope) {
    const Real inverse = Real(1.0) / (b + noise);
    const Real phi = vsqrt(b * inverse);
    *slope = Real(-0.5) * phi * inverse;
    return phi;
  }
};

struct NoiseSgd : NoiseScale<SgdForm> {
  static constexpr const char* kName = "noise_sgd";
};
struct NoiseSign : NoiseScale<SignForm> {
  static constexpr const char* kName = "noise_sign";
};
struct NoiseMuon : NoiseScale<MuonForm> {
  static constexpr const char* kName = "noise_muon";
};

}  // namespace MS_ISA
}  // namespace megascale
