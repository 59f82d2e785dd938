// A family of laws of whole (learning rate, batch) histories.
//
// Over the steps k of a run, with e_k the learning rate over its reference and B_k the batch:
//
//   progress   T' = e^u (B / B_ref)^r (1 + B_n / B)^(-1/2) - omega lr wd T       a step
//   signal     f(T) = ((T0 + T) / T_ref)^-p
//   noise      N = sum_k s_k (share of step k that is still remembered),
//              s_k = e_k^x (B_k / B_ref)^-q,  times (1 + g f) or f where it goes with the excess
//   loss       L = L_inf + a f(T) + c N
//
// Of runs of several sizes, L_inf, a and c (c2) are those at the reference size and go as powers
// of it: L_inf (N / N_ref)^-n_L and so on.
//
// The share of an interval [v1, v2] behind is K(v1) - K(v2), with v counted on the memory's clock:
// learning-rate-weighted steps (sum of e), progress, or steps. K is exp(-v / tau), two of them, or
// (1 + v / tau)^-kappa. `kDensity` takes the integral of (1 + v / tau)^-(kappa + 1) over the
// interval instead, which has a meaning down to kappa = -1 and is what functional scaling laws
// write (arXiv 2509.19189: x = q = 1, u = 1, r = 0).
//
// Annealing: the same sum by parts, N = s_t + sum over changes of (s_before - s_after) K(v), the
// rise from nothing at the start among them, and tau scaled by e^gamma of the rate after the
// change. With x = 1 and q = 0 that is the Multi-Power Law as its authors fit it (arXiv 2503.12811:
// L_inf = L_0, c = B lr_ref, kappa = beta, tau = lr_ref^(gamma - 1) / C). Saturated: the noise is
// at its steady level at the start; with an exponential on the clock of steps that is the law of
// arXiv 2408.11029 (L_inf + c = L_0).
#pragma once

#include <cmath>

#include "core/elementary.h"
#include "history.h"

namespace megascale {
inline namespace MS_ISA {

inline bool is_log(int k) {
  return k == kP || k == kT0 || k == kBn || k == kOmega || k == kTau || k == kTau2;
}

// The loss is linear in these, all else held; in the walk in the first alone.
inline bool is_linear(const HistoryJob& job, int k) {
  return k == kLInf || (!job.walk && (k == kA || k == kC || k == kC2));
}

inline double to_solver(int k, double value) {
  if (!is_log(k)) return value;
  if (!(value > 0)) return -700;
  return std::isinf(value) ? 700 : std::log(value);
}
inline double from_solver(int k, double t) { return is_log(k) ? vexp(t) : t; }

// Fills in parameters that follow others: theta[k] = factor x theta[tied to].
inline void follow_ties(const HistoryJob& job, double* theta) {
  if (!job.tied) return;
  for (int k = 0; k < kHistoryParams; ++k)
    if (job.tied[k] >= 0) theta[k] = job.tie_factor[k] * theta[job.tied[k]];
}

}  // namespace MS_ISA
}  // namespace megascale
