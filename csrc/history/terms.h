// A kernel as a sum of exponentials, so that a memory of any length is a recursion.
//
//   (1 + z)^-kappa = 1/Gamma(kappa) int exp(kappa s - e^s) exp(-z e^s) ds
//
// by the trapezoid rule with step h: nodes of geometric rates e^s. Its error is of the order of
// |Gamma(kappa + 2 pi i / h)| / Gamma(kappa): below 1e-7 at h = 0.5 and kappa up to one, 1e-5 at
// three. Nodes too slow to forget anything over the longest history are merged into one term with
// the same first and second moment of the rate, which is what small rates are felt by.
#pragma once

#include <cmath>

#include "history/family.h"

namespace megascale {
inline namespace MS_ISA {

constexpr int kMaxTerms = 64;
constexpr double kNodeStep = 0.5;
constexpr double kFastest = 3.6;    // e^s of the fastest node: exp(-36) is nothing
constexpr double kMerged = 0.02;    // nodes with rate x longest clock below it are merged
constexpr double kSmallest = 0.01;  // and e^s too

struct Terms {
  int count = 0;  // a multiple of the lanes; the rest has no weight
  alignas(64) double rate[kMaxTerms], weight[kMaxTerms];
  alignas(64) double weight_kappa[kMaxTerms], rate_kappa[kMaxTerms];  // derivatives
  double weight_tau = 0;  // d log weight / d tau, the same for all
};

inline double digamma(double z) {
  double sum = 0;
  for (; z < 8; z += 1) sum -= 1 / z;
  const double w = 1 / (z * z);
  return sum + std::log(z) - 0.5 / z -
         w * (1.0 / 12 - w * (1.0 / 120 - w * (1.0 / 252 - w * (1.0 / 240 - w / 132))));
}

// sum over n >= 0 of exp(z (s - n h)), and its derivative by z.
inline void geometric(double z, double s, double* sum, double* slope) {
  const double ratio = std::exp(-z * kNodeStep);
  *sum = std::exp(z * s) / (1 - ratio);
  *slope = *sum * (s - kNodeStep * ratio / (1 - ratio));
}

template <class Real>
void pad(Terms& out) {
  constexpr int W = RealTraits<Real>::kLanes;
  while (out.count % W != 0) {
    out.rate[out.count] = out.weight[out.count] = 0;
    out.weight_kappa[out.count] = out.rate_kappa[out.count] = 0;
    ++out.count;
  }
}

template <class Real>
void power_terms(bool density, double tau, double kappa, double longest, Terms& out) {
  const double gamma_at = density ? kappa + 1 : kappa;
  const double scale = kNodeStep * (density ? tau : 1.0) * std::exp(-std::lgamma(gamma_at));
  const double psi = digamma(gamma_at);
  const double least = std::fmin(kMerged * tau / std::fmax(longest, 1e-300), kSmallest);
  out.count = 0;
  out.weight_tau = density ? 1 / tau : 0;
  double s = kFastest;
  for (; std::exp(s) > least && out.count < kMaxTerms - 9; s -= kNodeStep) {
    const int m = out.count++;
    out.rate[m] = std::exp(s) / tau;
    out.weight[m] = scale * std::exp(kappa * s - std::exp(s));
    out.weight_kappa[m] = out.weight[m] * (s - psi);
    out.rate_kappa[m] = 0;
  }
  // exp(-e^s) is 1 - e^s + e^2s / 2 here.
  double g1, g2, g3, d1, d2, d3;
  geometric(kappa + 1, s, &g1, &d1);
  geometric(kappa + 2, s, &g2, &d2);
  geometric(kappa + 3, s, &g3, &d3);
  const double m1 = g1 - g2 + 0.5 * g3, n1 = d1 - d2 + 0.5 * d3;
  const double m2 = g2 - g3, n2 = d2 - d3;
  const int m = out.count++;
  out.rate[m] = m2 / m1 / tau;
  out.weight[m] = scale * m1 * m1 / m2;
  out.weight_kappa[m] = out.weight[m] * (2 * n1 / m1 - n2 / m2 - psi);
  out.rate_kappa[m] = out.rate[m] * (n2 / m2 - n1 / m1);
  pad<Real>(out);
}

// One or two exponentials; the weight of the second is c2 over c, which the caller sees to.
template <class Real>
void exponential_terms(double tau, double tau2, bool two, Terms& out) {
  out.count = two ? 2 : 1;
  out.rate[0] = 1 / tau;
  out.rate[1] = 1 / tau2;
  out.weight_tau = 0;
  for (int m = 0; m < out.count; ++m) {
    out.weight[m] = 1;
    out.weight_kappa[m] = out.rate_kappa[m] = 0;
  }
  pad<Real>(out);
}

}  // namespace MS_ISA
}  // namespace megascale
