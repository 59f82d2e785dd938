// The classic law along the ray for W problems of equal length at once, in closed form and straight
// from the caller's arrays: E_min / E + S_min / S = 1 at every point, weighted alike.
#pragma once

#include "core/dense.h"
#include "laws/classic.h"
#include "problem/finish.h"

namespace megascale {
inline namespace MS_ISA {

inline bool classic_batch_applies(const FitJob& job) {
  return job.residual == Residual::kRay && job.loss == Loss::kSquared && !job.weights &&
         !job.lower && !job.upper && !job.fixed && !job.initial &&
         job.bootstrap == Bootstrap::kNone;
}

// False, with nothing written, where any of the problems needs the general path: unequal lengths,
// bad input, no positive solution.
template <class Real>
bool classic_batch(const FitJob& job, int64_t first) {
  using Mask = typename RealTraits<Real>::Mask;
  constexpr int W = RealTraits<Real>::kLanes, kMost = 64;
  const int64_t count = job.offsets[first + 1] - job.offsets[first];
  if (count < 3 || count > kMost) return false;
  for (int l = 1; l < W; ++l)
    if (job.offsets[first + l + 1] - job.offsets[first + l] != count) return false;
  const double *s[W], *e[W];
  for (int l = 0; l < W; ++l) {
    s[l] = job.x[0] + job.offsets[first + l];
    e[l] = job.y + job.offsets[first + l];
  }
  const Real zero(0.0), one(1.0);
  Real a[kMost], b[kMost];
  Real aa = zero, ab = zero, bb = zero, a1 = zero, b1 = zero;
  Mask ok(true);
  Real low_ratio(INFINITY), high_ratio = zero, low_e(INFINITY), high_e = zero;
  for (int i = 0; i < count; ++i) {
    double buffer_s[W], buffer_e[W];
    for (int l = 0; l < W; ++l) {
      buffer_s[l] = s[l][i];
      buffer_e[l] = e[l][i];
    }
    const Real steps = load<Real>(buffer_s), tokens = load<Real>(buffer_e);
    ok = ok & (steps > zero) & (tokens > zero);
    const Real inverse = one / (steps * tokens);
    a[i] = steps * inverse;
    b[i] = tokens * inverse;
    low_ratio = vmin(low_ratio, steps);
    high_ratio = vmax(high_ratio, steps);
    low_e = vmin(low_e, tokens);
    high_e = vmax(high_e, tokens);
    aa += a[i] * a[i];
    ab += a[i] * b[i];
    bb += b[i] * b[i];
    a1 += a[i];
    b1 += b[i];
  }
  const Real n(static_cast<double>(count));
  const Real det = aa * bb - ab * ab;
  const Real inverse = one / det;
  const Real e_min = (a1 * bb - b1 * ab) * inverse;
  const Real s_min = (b1 * aa - a1 * ab) * inverse;
  ok = ok & (det > aa * bb * Real(1e-10)) & (e_min > zero) & (s_min > zero) & finite(e_min) &
       finite(s_min) & (high_ratio > low_ratio) & (high_e > low_e) & finite(aa) & finite(bb) &
       (aa > Real(1e-290)) & (bb > Real(1e-290));
  if (!all(ok)) return false;
  Real cost = zero;
  for (int i = 0; i < count; ++i) {
    const Real r = e_min * a[i] + s_min * b[i] - one;
    cost += r * r;
  }
  const Real variance = cost / (n - Real(2.0)) * inverse;
  const Real spread = n - a1 * a1 / aa;
  const Real r2 = select(spread > zero, one - cost / spread, Real(kNaN));
  const Real rms = vsqrt(cost / n);
  for (int l = 0; l < W; ++l) {
    const int64_t id = first + l;
    const double S = lane(s_min, l), E = lane(e_min, l), v = lane(variance, l);
    job.params[2 * id] = S;
    job.params[2 * id + 1] = E;
    const double ss = v * lane(aa, l), se = -v * lane(ab, l), ee = v * lane(bb, l);
    job.covariance[3 * id] = ss;
    job.covariance[3 * id + 1] = se;
    job.covariance[3 * id + 2] = ee;
    if (job.derived_errors)  // of E_min / S_min
      job.derived_errors[id] = std::sqrt(ee - 2 * (E / S) * se + (E / S) * (E / S) * ss) / S;
    job.objective[id] = lane(cost, l);
    job.rms[id] = lane(rms, l);
    job.r_squared[id] = lane(r2, l);
    job.points[id] = static_cast<int32_t>(count);
    job.free_params[id] = 2;
    job.iterations[id] = 0;
    job.starts_used[id] = job.agreeing[id] = 1;
    job.status[id] = kConverged;
    job.flags[id] =
        (ss > 0.25 * S * S ? kWeakParameter : 0u) | (ee > 0.25 * E * E ? kWeakParameter << 1 : 0u);
    job.bad_row[id] = -1;
  }
  return true;
}

}  // namespace MS_ISA
}  // namespace megascale
