// Variable projection for any law of the form f = sum_j c_j phi_j(x; t).
//
// A law's `columns` gives phi_1..phi_L followed by one derivative column per nonlinear parameter
// (d phi_owner / d t_k). One pass over the points accumulates all inner products; the linear
// coefficients follow from an L x L system (non-negative where the law asks for it), and the
// Jacobian of the reduced problem is the derivative columns projected off the linear ones
// (Kaufman's approximation).
#pragma once

#include "core/elementary.h"
#include "core/lm.h"
#include "core/points.h"

namespace megascale {
inline namespace MS_ISA {

// min |sum_j c_j col_j - target|^2 from inner products; coefficients in `positive` stay >= 0.
// Enumerates the subsets of coefficients held at zero (at most eight for three positive ones).
// `factor` receives the Cholesky factor of the chosen subset, `held` which columns are out.
template <int L, class Real>
MS_INLINE Real linear_coefficients(const Real* gram, const Real* moment, Real target,
                                   uint32_t positive, Real* c, Real* factor) {
  using Mask = typename RealTraits<Real>::Mask;
  Real best(kInfeasible);
  for (int j = 0; j < L; ++j) c[j] = Real(0.0);
  for (int j = 0; j < packed_size(L); ++j) factor[j] = Real(0.0);
  for (uint32_t zero = 0; zero + 1 < (1u << L); ++zero) {
    if (zero & ~positive) continue;
    Real f[packed_size(L)], b[L], pivot[L];
    for (int i = 0; i < L; ++i) {
      const bool out_i = zero >> i & 1;
      b[i] = out_i ? Real(0.0) : moment[i];
      // Columns are scaled to unit norm, which keeps the pivots comparable.
      pivot[i] = Real(1.0) / vsqrt(vmax(gram[packed(i, i)], Real(1e-290)));
      for (int j = 0; j <= i; ++j) {
        const bool out = out_i || (zero >> j & 1);
        f[packed(i, j)] = out ? Real(i == j ? 1.0 : 0.0) : gram[packed(i, j)] * pivot[i] * pivot[j];
      }
      b[i] *= pivot[i];
    }
    cholesky<L>(f, Real(1e-15));
    cholesky_solve<L>(f, b);
    Mask ok(true);
    Real cost = target;
    for (int j = 0; j < L; ++j) {
      b[j] *= pivot[j];
      if (positive >> j & 1) ok = ok & (b[j] >= Real(0.0));
      cost -= b[j] * moment[j];
    }
    cost = vmax(cost, Real(0.0));
    ok = ok & (cost < best);
    for (int j = 0; j < L; ++j) c[j] = select(ok, b[j], c[j]);
    for (int i = 0; i < L; ++i)
      for (int j = 0; j <= i; ++j) {
        // Undo the scaling: row i of the factor times |column i|; a column out gets a zero row.
        const bool out = (zero >> i & 1) || (zero >> j & 1);
        const Real raw =
            out ? Real(0.0) : (i == j ? f[packed(i, i)] * pivot[i] : f[packed(i, j)] / pivot[i]);
        factor[packed(i, j)] = select(ok, raw, factor[packed(i, j)]);
      }
    best = select(ok, cost, best);
    if (zero == 0 && all(ok)) break;
  }
  return best;
}

template <class Law, class Real_>
struct Projected {
  using Real = Real_;
  static constexpr int L = Law::kLinear, P = Law::kNonlinear, M = L + P, X = Law::kInputs;
  static constexpr int kParams = P;
  ProjectedPoints<X> points;
  Real anchor = Real(1.0);  // upper limit of a logit coordinate
  bool across = false;      // lanes hold points of one problem, not one problem each

  MS_INLINE void evaluate(const Real* t, Real* cost, Real* g, Real* h) const {
    Real c[L];
    evaluate(t, cost, g, h, c);
  }

  MS_NOINLINE void evaluate(const Real* t, Real* cost, Real* g, Real* h, Real* c) const {
    constexpr int W = RealTraits<Real>::kLanes;
    Real gram[packed_size(M)], moment[M];
    for (int i = 0; i < packed_size(M); ++i) gram[i] = Real(0.0);
    for (int i = 0; i < M; ++i) moment[i] = Real(0.0);
    Real target(0.0);
    Real u[Law::kShape];
    Law::shape(t, anchor, u);
    // Lanes take a few points at a time where there are many sums: their columns first, then the
    // sums, so that each of the two loops has the registers to itself.
    constexpr int kBlock = W > 1 && M > 3 ? 4 : 1;
    Real col[kBlock][M], goal[kBlock];
    for (int from = 0; from < points.count; from += kBlock) {
      const int n = points.count - from < kBlock ? points.count - from : kBlock;
      for (int i = 0; i < n; ++i) {
        const int at = (from + i) * W;
        Real x[X];
        for (int k = 0; k < X; ++k) x[k] = load<Real>(points.x[k] + at);
        const Real w = load<Real>(points.scale + at);
        goal[i] = load<Real>(points.target + at);
        Law::columns(u, x, col[i]);
        for (int a = 0; a < M; ++a) col[i][a] *= w;
      }
      for (int i = 0; i < n; ++i) {
        for (int a = 0; a < M; ++a) {
          moment[a] += col[i][a] * goal[i];
          for (int b = 0; b <= a; ++b) gram[packed(a, b)] += col[i][a] * col[i][b];
        }
        target += goal[i] * goal[i];
      }
    }
    if (across) {
      for (int i = 0; i < packed_size(M); ++i) gram[i] = total(gram[i]);
      for (int i = 0; i < M; ++i) moment[i] = total(moment[i]);
      target = total(target);
    }
    Real factor[packed_size(L)];
    *cost = linear_coefficients<L>(gram, moment, target, Law::kPositive, c, factor);
    if constexpr (P > 0) {
      // Project the derivative columns: v_k = F^-1 (linear' d_k), so that the inner products lose
      // v_k . v_l. A coefficient held at zero has a zero row and takes no part.
      Real v[P][L];
      for (int k = 0; k < P; ++k) {
        for (int i = 0; i < L; ++i) {
          Real sum = gram[packed(L + k, i)];
          for (int j = 0; j < i; ++j) sum -= factor[packed(i, j)] * v[k][j];
          v[k][i] = sum * factor[packed(i, i)];
        }
      }
      for (int k = 0; k < P; ++k) {
        const Real ck = c[Law::owner(k)];
        Real inner = -moment[L + k];
        for (int j = 0; j < L; ++j) inner += c[j] * gram[packed(L + k, j)];
        g[k] = ck * inner;
        for (int l = 0; l <= k; ++l) {
          Real sum = gram[packed(L + k, L + l)];
          for (int j = 0; j < L; ++j) sum -= v[k][j] * v[l][j];
          h[packed(k, l)] = ck * c[Law::owner(l)] * sum;
        }
      }
    }
  }
};

// The projected problem of a law; a law with a cheaper route to the inner products specialises it.
template <class Law, class Real>
struct ProjectedForm {
  using type = Projected<Law, Real>;
};

}  // namespace MS_ISA
}  // namespace megascale
