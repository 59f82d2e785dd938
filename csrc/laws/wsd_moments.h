// The WSD tokens-steps law (arXiv 2601.05034) by variable projection.
//
// With d = S - S_min, b = S_1 - S_min, a = S_opt - S_1, c = S_2 - S_opt, e = d - a - b the law is
// E = C phi + E_min, phi = a^2 - 2ab + 2ab^2/d | e^2 | 2ce - c^2 on its three branches. Value and
// slope match at both joints for any positive a, b, c. With
//   k = clamp(e, -a, c),  q = max(b/d, 1) - 1,  z = max(e - c, 0)
// phi = k^2 + 2cz + 2abq without a branch, and every derivative is a combination of k, q, q^2 and
// z. So sixteen moments of (k, q, q^2, z) give all inner products of the two linear columns and the
// four derivative columns; the points are read once per iteration.
#pragma once

#include "core/elementary.h"
#include "core/lm.h"
#include "core/points.h"

namespace megascale {
inline namespace MS_ISA {

template <class Real_>
struct WsdProjected {
  using Real = Real_;
  static constexpr int kParams = 4;  // logit(S_min / anchor), log b, log a, log c
  ProjectedPoints<1> points;
  Real anchor = Real(1.0);  // smallest S
  bool across = false;      // lanes hold points of one problem, not one problem each

  struct Shape {
    Real s_min, slope, b, a, c;
  };

  MS_INLINE Shape shape(const Real* t) const {
    Real u = vexp(-t[0]);
    Real sigma = Real(1.0) / (Real(1.0) + u);
    return {anchor * sigma, anchor * sigma * (u * sigma), vexp(t[1]), vexp(t[2]), vexp(t[3])};
  }

  MS_INLINE void evaluate(const Real* t, Real* cost, Real* g, Real* h) const {
    Real c[2];
    evaluate(t, cost, g, h, c);
  }

  // The cost alone, of S_min, b, a, c.
  MS_INLINE Real cost(const Real* shape) const {
    constexpr int W = RealTraits<Real>::kLanes;
    const Real s_min = shape[0], b = shape[1], a = shape[2], c = shape[3];
    const Real zero(0.0), one(1.0), two(2.0);
    const Real ab = a + b, minus_a = -a, c2 = two * c, f = two * a * b;
    Real uu = zero, uv = zero, vv = zero, u1 = zero, v1 = zero, m0 = zero;
    for (int i = 0; i < points.count; ++i) {
      const Real s = load<Real>(points.x[0] + i * W);
      const Real w = load<Real>(points.scale + i * W);
      const Real goal = load<Real>(points.target + i * W);
      const Real d = s - s_min, e = d - ab;
      const Real k = vmin(vmax(e, minus_a), c);
      const Real u = (k * k + c2 * vmax(e - c, zero) + f * (vmax(b / d, one) - one)) * w;
      uu += u * u;
      uv += u * w;
      vv += w * w;
      u1 += u * goal;
      v1 += w * goal;
      m0 += goal * goal;
    }
    if (across)
      for (Real* sum : {&uu, &uv, &vv, &u1, &v1, &m0}) *sum = total(*sum);
    const Linear found = linear(uu, uv, vv, u1, v1);
    const Real value = m0 - two * (found.C * u1 + found.E * v1) + found.C * found.C * uu +
                       two * found.C * found.E * uv + found.E * found.E * vv;
    return select(found.ok, vmax(value, zero), Real(kInfeasible));
  }

  // The best C and E_min. Where E_min would be negative it is a small part of the mean target.
  struct Linear {
    Real C, E;
    typename RealTraits<Real>::Mask ok, held;
  };
  static MS_INLINE Linear linear(Real uu, Real uv, Real vv, Real u1, Real v1) {
    const Real zero(0.0), det = uu * vv - uv * uv, inverse = Real(1.0) / det;
    const Real E = (v1 * uu - uv * u1) * inverse, least = Real(kLeastE) * v1 / vv;
    const auto held = E < least;
    const Real C = select(held, (u1 - least * uv) / uu, (u1 * vv - v1 * uv) * inverse);
    using Mask = typename RealTraits<Real>::Mask;
    const Mask ok = Mask(det > uu * vv * Real(1e-14)) && Mask(C > zero) && Mask(v1 > zero);
    return {C, select(held, least, E), ok, held};
  }
  static constexpr double kLeastE = 0.01;

  // c receives the linear pair (C, E_min).
  MS_NOINLINE void evaluate(const Real* t, Real* cost, Real* g, Real* h, Real* c) const {
    constexpr int W = RealTraits<Real>::kLanes;
    const Shape p = shape(t);
    const Real zero(0.0), one(1.0);
    Real k0 = zero, k1 = zero, k2 = zero, k3 = zero, k4 = zero, l0 = zero, l1 = zero, l2 = zero;
    Real zz = zero, zw = zero, z1 = zero, m0 = zero;
    Real qq = zero, qr = zero, rr = zero, qw = zero, rw = zero, q1 = zero, r1 = zero;
    const Real ab = p.a + p.b;
    const Real minus_a = -p.a;
    for (int i = 0; i < points.count; ++i) {
      const Real s = load<Real>(points.x[0] + i * W);
      const Real w = load<Real>(points.scale + i * W);
      const Real root = load<Real>(points.target + i * W);
      const Real d = s - p.s_min;
      const Real e = d - ab;
      const Real q = vmax(p.b / d, one) - one;
      const Real k = vmin(vmax(e, minus_a), p.c);
      const Real kw = k * w, kkw = k * kw;
      const Real z = vmax(e - p.c, zero) * w;
      const Real qv = q * w, rv = q * qv;
      k0 += w * w;
      k1 += kw * w;
      k2 += kw * kw;
      k3 += kkw * kw;
      k4 += kkw * kkw;
      l0 += w * root;
      l1 += kw * root;
      l2 += kkw * root;
      m0 += root * root;
      zz += z * z;
      zw += z * w;
      z1 += z * root;
      qq += qv * qv;
      qr += qv * rv;
      rr += rv * rv;
      qw += qv * w;
      rw += rv * w;
      q1 += qv * root;
      r1 += rv * root;
    }
    if (across) {
      for (Real* sum : {&k0, &k1, &k2, &k3, &k4, &l0, &l1, &l2, &m0, &zz, &zw, &z1, &qq, &qr, &rr,
                        &qw, &rw, &q1, &r1})
        *sum = total(*sum);
    }
    const Real two(2.0);
    const Real c2 = two * p.c, f = two * p.a * p.b, aa = p.a * p.a, cc = p.c * p.c;
    const Real uu = k4 + c2 * c2 * zz + f * f * qq + two * c2 * cc * zw + two * f * aa * qw;
    const Real uv = k2 + c2 * zw + f * qw;
    const Real u1 = l2 + c2 * z1 + f * q1;
    const Linear found = linear(uu, uv, k0, u1, l0);
    const Real C = found.C, E = found.E;
    const Real value = select(
        found.held, m0 - two * (C * u1 + E * l0) + C * C * uu + two * C * E * uv + E * E * k0,
        m0 - C * u1 - E * l0);
    *cost = select(found.ok, vmax(value, zero), Real(kInfeasible));
    c[0] = C;
    c[1] = E;
    // Basis kw, q, r = q^2, z against u, v, the target and one another.
    const Real eu[4] = {k3 + c2 * p.c * zw - f * p.a * qw, aa * qw + f * qq, aa * rw + f * qr,
                        cc * zw + c2 * zz};
    const Real ev[4] = {k1, qw, rw, zw};
    const Real e1[4] = {l1, q1, r1, z1};
    const Real kq = -p.a * qw, kr = -p.a * rw, kz = p.c * zw;
    // Columns s, b, a over (kw, q, r); column c is 2c z. Internal parameters scale each.
    const Real A[3] = {-two * p.slope, -two * p.b, -two * p.a};
    const Real B[3] = {Real(4.0) * p.a * p.slope, Real(4.0) * p.a * p.b, two * p.b * p.a};
    const Real G0 = two * p.a * p.slope;
    Real cu[4], cv[4], c1[4];
    for (int i = 0; i < 3; ++i) {
      cu[i] = A[i] * eu[0] + B[i] * eu[1];
      cv[i] = A[i] * ev[0] + B[i] * ev[1];
      c1[i] = A[i] * e1[0] + B[i] * e1[1];
    }
    cu[0] += G0 * eu[2];
    cv[0] += G0 * ev[2];
    c1[0] += G0 * e1[2];
    cu[3] = c2 * eu[3];
    cv[3] = c2 * ev[3];
    c1[3] = c2 * e1[3];
    Real full[10];
    for (int i = 0; i < 3; ++i)
      for (int j = 0; j <= i; ++j)
        full[packed(i, j)] = A[i] * A[j] * k2 + (A[i] * B[j] + A[j] * B[i]) * kq + B[i] * B[j] * qq;
    full[0] += two * G0 * (A[0] * kr + B[0] * qr) + G0 * G0 * rr;
    full[packed(1, 0)] += G0 * (A[1] * kr + B[1] * qr);
    full[packed(2, 0)] += G0 * (A[2] * kr + B[2] * qr);
    for (int j = 0; j < 3; ++j) full[packed(3, j)] = c2 * A[j] * kz;
    full[packed(3, 3)] = c2 * c2 * zz;
    // The linear columns are projected off, E_min's only where it is free.
    const Real inverse = select(found.held, one / uu, one / (uu * k0 - uv * uv));
    const Real of_uu = select(found.held, one, k0), of_uv = select(found.held, zero, uv);
    const Real of_vv = select(found.held, zero, uu);
    const Real C2 = C * C;
    for (int i = 0; i < 4; ++i) {
      g[i] = C * (C * cu[i] + E * cv[i] - c1[i]);
      const Real pu = (of_uu * cu[i] - of_uv * cv[i]) * inverse;
      const Real pv = (of_vv * cv[i] - of_uv * cu[i]) * inverse;
      for (int j = 0; j <= i; ++j)
        h[packed(i, j)] = C2 * (full[packed(i, j)] - pu * cu[j] - pv * cv[j]);
    }
  }
};

}  // namespace MS_ISA
}  // namespace megascale
