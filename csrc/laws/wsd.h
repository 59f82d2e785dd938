// The WSD tokens-steps law (arXiv 2601.05034): tokens E to reach a target loss in S steps at
// constant learning rate, inverse-linear, then quadratic, then linear in S, with equal value and
// slope at both joints.
//
//   S < S_1          B_-1/(S - S_min) + B_0
//   S_1 <= S <= S_2  C (S - S_opt)^2 + E_min
//   S > S_2          A_1 S + A_0
//
// Coordinates: S_min, b = S_1 - S_min, a = S_opt - S_1, c = S_2 - S_opt, C, E_min, which are free
// of ordering constraints. `Wsd<true>` has the six natural parameters as coordinates instead, for
// box bounds and fixed values on S_1, S_opt and S_2.
#pragma once

#include "core/law.h"
#include "core/projected.h"
#include "laws/wsd_moments.h"

namespace megascale {
inline namespace MS_ISA {

template <bool kNatural>
struct Wsd : LawDefaults {
  static constexpr const char* kName = kNatural ? "wsd_natural" : "wsd";
  static constexpr int kParams = 6, kInputs = 1, kDerived = 6;
  static constexpr const char* kParamNames[] = {"S_min", "S_1", "S_opt", "S_2", "C", "E_min"};
  static constexpr const char* kInputNames[] = {"S"};
  static constexpr const char* kTargetName = "E";
  static constexpr const char* kDerivedNames[] = {"B_min", "B_opt", "B_m1", "B_0", "A_1", "A_0"};
  static constexpr MS_HD Coordinate coordinate(int i) {
    constexpr Coordinate kinds[] = {Coordinate::kLogit, Coordinate::kLog, Coordinate::kLog,
                                    Coordinate::kLog,   Coordinate::kLog, Coordinate::kLog};
    return kinds[i];
  }
  static constexpr bool kHasRay = true, kSorted = true, kDesignedStarts = true;
  static constexpr Residual kDefault = Residual::kRay;
  static constexpr InputKind kInputKind = InputKind::kRatio;

  // Along a ray: B - dE/dS is never taken for smaller than this part of B, and the stand-in for a
  // ray that misses moves by this multiple of the miss.
  static constexpr double kSteepest = 1e-6, kAway = 10;

  static constexpr int kLinear = 2, kNonlinear = 4, kGrid = 1 << 20;
  static constexpr MS_HD int owner(int k) {
    constexpr int owners[] = {0, 0, 0, 0};
    return owners[k];
  }
  static constexpr uint32_t kPositive = 0b11;

  template <class Real>
  struct Shape {
    Real s_min, b, a, c, curvature, e_min;
  };
  template <class Real>
  static MS_INLINE Shape<Real> parts(const Real* u) {
    if constexpr (kNatural)
      return {u[0], u[1] - u[0], u[2] - u[1], u[3] - u[2], u[4], u[5]};
    else
      return {u[0], u[1], u[2], u[3], u[4], u[5]};
  }
  template <class Real>
  static MS_INLINE typename RealTraits<Real>::Mask feasible(const Real* u) {
    const Shape<Real> p = parts(u);
    return (p.b > Real(0.0)) & (p.a > Real(0.0)) & (p.c > Real(0.0));
  }

  // E(S), its gradient, and dE/dS.
  template <class Real>
  static MS_INLINE Real tokens(const Shape<Real>& p, Real s, Real* grad, Real* slope) {
    const Real one(1.0), two(2.0), zero(0.0);
    const Real d = s - p.s_min, e = d - p.a - p.b;
    const Real ratio = vmax(p.b / d, one);
    const Real q = ratio - one;
    const Real k = vmin(vmax(e, -p.a), p.c);
    const Real z = vmax(e - p.c, zero);
    const Real phi = k * k + two * (p.c * z + p.a * p.b * q);
    const Real base = Real(-2.0) * k, aq = p.a * q, C = p.curvature;
    Real by_min = C * (base + two * aq * (q + two));
    Real by_b = C * (base + Real(4.0) * aq);
    Real by_a = C * (base + two * p.b * q);
    Real by_c = C * two * z;
    *slope = -by_min;
    if constexpr (kNatural) {
      grad[0] = by_min - by_b;
      grad[1] = by_b - by_a;
      grad[2] = by_a - by_c;
      grad[3] = by_c;
    } else {
      grad[0] = by_min;
      grad[1] = by_b;
      grad[2] = by_a;
      grad[3] = by_c;
    }
    grad[4] = phi;
    grad[5] = one;
    return C * phi + p.e_min;
  }

  template <class Real>
  static MS_INLINE Real value(const Real* u, const Real* x, Real* grad) {
    Real slope;
    return tokens(parts(u), x[0], grad, &slope);
  }

  // The step count where the ray E = B S meets the law, and its gradient: the law is convex and
  // lies above the ray until they cross, so each branch gives the smaller root, in closed form.
  //
  // A ray below the law's lowest slope from the origin meets nothing. The point that stands in for
  // it starts where the lowest ray that does touches the law and moves away from the `measured`
  // one, to the side where it already is, the farther the more the ray falls short: the residual
  // never shrinks as the miss grows, so that no fit gains by missing a ray.
  template <class Real>
  struct Ray {
    Shape<Real> p;
    Real s1, s_opt, s2, a1, a0, e1, e2, Q, inner, touch, lowest;
    typename RealTraits<Real>::Mask open;  // whether the right branch meets rays
  };
  template <class Real>
  static MS_INLINE Ray<Real> ray_shape(const Real* u) {
    Ray<Real> r;
    const Shape<Real> p = r.p = parts(u);
    const Real two(2.0), C = p.curvature;
    r.s1 = p.s_min + p.b;
    r.s_opt = r.s1 + p.a;
    r.s2 = r.s_opt + p.c;
    r.a1 = two * C * p.c;
    r.e1 = C * p.a * p.a + p.e_min;
    r.e2 = C * p.c * p.c + p.e_min;
    r.a0 = p.e_min - C * p.c * (p.c + two * r.s_opt);
    r.open = r.a0 > Real(0.0);
    r.Q = two * C * p.a * p.b * p.b;
    r.inner = C * p.a * (p.a - two * p.b) + p.e_min;
    // The lowest ray is the tangent from the origin, or where the right branch is too far away;
    // there a part of B is added.
    r.touch = vsqrt(r.s_opt * r.s_opt + p.e_min / C);
    r.lowest = select(r.open, r.a1, two * C * (r.touch - r.s_opt));
    return r;
  }
  template <class Real>
  static MS_INLINE Real ray_value(const Ray<Real>& shape, const Real* ray, Real measured,
                                  Real* grad) {
    using Mask = typename RealTraits<Real>::Mask;
    const Shape<Real>& p = shape.p;
    const Real B = ray[0], two(2.0), four(4.0), zero(0.0);
    const Real s_opt = shape.s_opt, C = p.curvature, Q = shape.Q, a0 = shape.a0;
    const Real least = B * Real(kSteepest);
    const Mask is_left = B * shape.s1 > shape.e1;
    const Mask is_right = (B * shape.s2 <= shape.e2) & shape.open;
    // All three roots are origin + top / bottom, two of them with a square root in one of these.
    //   left    B d^2 + (B S_min - K) d - Q = 0 in d = S - S_min
    //   middle  C e^2 - B e + (E_min - B S_opt) = 0 in e = S - S_opt
    //   right   S = A_0 / (B - A_1)
    const Real linear = B * p.s_min - shape.inner;
    const Real excess = p.e_min - B * s_opt;
    const Real root = vsqrt(
        select(is_left, linear * linear + four * B * Q, vmax(B * B - four * C * excess, zero)));
    const Mask near = linear > zero;
    const Real top =
        select(is_left, select(near, two * Q, root - linear), select(is_right, a0, two * excess));
    const Real bottom = select(is_left, select(near, vmax(root + linear, Real(1e-300)), two * B),
                               select(is_right, vmax(B - shape.a1, least), B + root));
    const Real origin = select(is_left, p.s_min, select(is_right, zero, s_opt));
    Real s = origin + top / bottom;
    s = select(is_right & !is_left, vmax(s, shape.s2), s);
    Real slope;
    tokens(p, s, grad, &slope);
    const Real inverse = Real(1.0) / vmax(B - slope, least);
    for (int i = 0; i < 6; ++i) grad[i] *= inverse;
    const Real lowest = shape.lowest + select(shape.open, least, zero);
    const Mask missed = (B < lowest) & !is_left;
    if (any(missed)) {
      Real away[6];
      const Real stand_in = beyond_reach(p, B, measured, shape.touch, lowest, shape.open, away);
      s = select(missed, stand_in, s);
      for (int i = 0; i < 6; ++i) grad[i] = select(missed, away[i], grad[i]);
    }
    return s;
  }

  // The stand-in for a ray that misses, and its gradient. It starts where the lowest ray ends, at
  // `last`, and is last (1 + kAway short_of) or last / (1 + kAway short_of).
  template <class Real, class Mask>
  static MS_NOINLINE Real beyond_reach(const Shape<Real>& p, Real B, Real measured, Real touch,
                                       Real lowest, Mask open, Real* grad) {
    const Real one(1.0), two(2.0), zero(0.0);
    const Real C = p.curvature, s_opt = p.s_min + p.b + p.a, s2 = s_opt + p.c;
    const Real a1 = two * C * p.c, a0 = p.e_min - C * p.c * (p.c + two * s_opt);
    const Real far_off = one / (B * Real(kSteepest));
    const Real last = select(open, vmax(a0 * far_off, s2), touch);
    const Mask beyond = last >= measured;
    const Real stretch = one + Real(kAway) * (lowest - B) / B;
    const Real s = select(beyond, last * stretch, last / stretch);
    const Real size = s / last;
    const Real pull = select(beyond, s, -s) * (Real(kAway) / (B * stretch));
    const Mask falling = a0 * far_off > s2;
    const Real opt = select(open, size * select(falling, -a1 * far_off, one),
                            size * s_opt / touch + pull * two * C * (s_opt / touch - one));
    const Real c = select(
        open, size * select(falling, -two * C * (p.c + s_opt) * far_off, one) + pull * two * C,
        zero);
    grad[4] = select(
        open, size * select(falling, -p.c * (p.c + two * s_opt) * far_off, zero) + pull * two * p.c,
        -size * Real(0.5) * p.e_min / (C * C * touch) +
            pull * (two * (touch - s_opt) - p.e_min / (C * touch)));
    grad[5] = select(open, size * select(falling, far_off, zero),
                     size * Real(0.5) / (C * touch) + pull / touch);
    grad[0] = grad[1] = kNatural ? zero : opt;
    grad[2] = kNatural ? opt - c : opt;
    grad[3] = c;
    return s;
  }

  static MS_HD void full_point(const double* s, double e, bool ray, double* x, double* y, int) {
    x[0] = ray ? e / s[0] : s[0];
    *y = ray ? s[0] : e;
  }
  static MS_HD void assemble(const double* t, const double* c, double anchor, double* u) {
    u[0] = anchor / (1 + vexp(-t[0]));
    for (int i = 1; i < 4; ++i) u[i] = vexp(t[i]) + (kNatural ? u[i - 1] : 0.0);
    u[4] = c[0];
    u[5] = c[1];
  }

  // Starts. The objective has one basin with a wide middle branch and one with S_1 close to S_opt,
  // besides those of S_2; the first twelve starts cover their combinations, later ones are a
  // low-discrepancy sequence over the same ranges.
  static MS_HD void grid(int i, const StartContext& at, double* t) {
    constexpr double kLeft[12] = {.9, .35, .9, .35, .9, .6, .35, .9, .9, .97, .2, .9};
    constexpr double kPole[12] = {.8, .8, .93, .93, .6, .8, .9, .8, .8, .9, .85, .93};
    constexpr double kRight[12] = {.4, .4, .4, .4, .3, .15, .6, .6, .15, .2, .3, .4};
    constexpr int kShift[12] = {0, 0, 0, 0, 1, 0, -1, -1, 1, 0, 0, 1};
    constexpr double kStride[4] = {.8566748838545029, .733891856627126, .6287067210378087,
                                   .5385972572236101};
    const double* s = at.x[0];
    int best = 0;
    for (int j = 1; j < at.count; ++j) best = at.y[j] < at.y[best] ? j : best;
    double pole, left, right, jitter = 1;
    int shift;
    if (i < 12) {
      pole = kPole[i];
      left = kLeft[i];
      right = kRight[i];
      shift = kShift[i];
    } else {
      double v[4];
      for (int k = 0; k < 4; ++k) {
        v[k] = 0.5 + kStride[k] * (i - 11);
        v[k] -= std::floor(v[k]);
      }
      pole = 1 - vexp(-3.5 + 3.14 * v[0]);
      shift = i % 3 - 1;
      jitter = vexp(0.2 * (v[1] - 0.5));
      left = v[2] < 0.5 ? 0.15 + 1.2 * v[2] : 0.62 + 0.36 * v[2];
      right = vexp(-3.0 * v[3]);
    }
    int at_min = best + shift;
    at_min = at_min > at.count - 2 ? at.count - 2 : at_min;
    at_min = at_min < 1 ? 1 : at_min;
    const double first = s[0], last = s[at.count - 1];
    const double s_min = first * pole;
    double s_opt = s[at_min] * jitter;
    s_opt = s_opt > s_min * 1.02 ? s_opt : s_min * 1.02;
    double s2 = s_opt + (last - s_opt) * right;
    s2 = s2 > s_opt * 1.01 ? s2 : s_opt * 1.01;
    const double s1 = s_min + (s_opt - s_min) * left;
    const double share = s_min / at.anchor;
    t[0] = vlog(share / (1 - share));
    t[1] = vlog(s1 - s_min);
    t[2] = vlog(s_opt - s1);
    t[3] = vlog(s2 - s_opt);
  }

  // The screen: S_opt at places between the points, S_min near and far below them, S_1 anywhere
  // between, and a middle branch that ends at once or lasts.
  static constexpr int kPlaces = 11, kPoles = 4, kShares = 3, kRights = 4, kRounds = 4;
  static constexpr int kScreen = kPlaces * kPoles * kShares * kRights, kScreenShape = 4;
  static constexpr int kKinds = kPlaces + kPoles * kShares;
  static constexpr int kFirst = kPlaces, kLast = kFirst + 1, kPole = kLast + 1;
  static constexpr int kShare = kPole + kPoles, kRight = kShare + kShares;
  static constexpr int kKnots = kRight + kRights;
  static MS_HD void knots(const StartContext& at, int round, double* out) {
    constexpr double kBetween[kRounds] = {.5, .2, .8, .35};
    constexpr double kPoleOf[kRounds][kPoles] = {{.998, .96, .75, .02},
                                                 {.99999, .985, .88, .4},
                                                 {.99, .93, .6, .001},
                                                 {.9995, .97, .82, .2}};
    constexpr double kShareOf[kRounds][kShares] = {
        {.05, .5, .92}, {.01, .3, .75}, {.15, .65, .97}, {.02, .4, .85}};
    // S_2 - S_opt: two as parts of S_opt - S_1, two of what lies beyond S_opt.
    constexpr double kRightOf[kRounds][kRights] = {
        {.004, .06, .1, .5}, {.001, .02, .05, .3}, {.0003, .2, .2, .8}, {.01, .1, .02, .4}};
    const double* s = at.x[0];
    const int gaps = at.count - 1;
    for (int k = 0; k < kPlaces; ++k) {
      double place = gaps > kPlaces ? (k + kBetween[round]) * gaps / kPlaces
                                    : (k < gaps ? k : gaps - 1) + kBetween[round];
      const int below = place > 0 ? static_cast<int>(place) : 0;
      place = gaps > 0 ? place - below : 0;
      out[k] = place > 0 ? s[below] * (1 - place) + s[below + 1] * place : s[below];
    }
    out[kFirst] = s[0];
    out[kLast] = s[gaps];
    for (int k = 0; k < kPoles; ++k) out[kPole + k] = s[0] * kPoleOf[round][k];
    for (int k = 0; k < kShares; ++k) out[kShare + k] = kShareOf[round][k];
    for (int k = 0; k < kRights; ++k) out[kRight + k] = kRightOf[round][k];
  }
  template <class Real>
  static MS_INLINE void cell(int n, const Real* knots, Real* shape) {
    const int right = n % kRights;
    const Real share = knots[kShare + n / kRights % kShares];
    const Real s_opt = knots[n / (kRights * kShares * kPoles)];
    const Real reach = s_opt - knots[kPole + n / (kRights * kShares) % kPoles];
    const Real rest = vmax(knots[kLast] - s_opt, reach * Real(0.01));
    shape[0] = s_opt - reach;
    shape[1] = reach * share;
    shape[2] = reach * (Real(1.0) - share);
    shape[3] = knots[kRight + right] * (right < 2 ? shape[2] : rest);
  }
  static MS_HD void kinds(int n, int* out) {
    out[0] = n / (kRights * kShares * kPoles);
    out[1] = kPlaces + n / kRights % (kShares * kPoles);
  }
  static MS_HD void cell_start(int n, const double* knots, double anchor, double* t) {
    double shape[kScreenShape];
    cell(n, knots, shape);
    const double share = shape[0] / anchor;
    t[0] = vlog(share / (1 - share));
    for (int i = 1; i < 4; ++i) t[i] = vlog(shape[i]);
  }

  // Variations: a joint moved across points, the left and the middle branch made wide or narrow.
  static constexpr int kMoves = 19;
  static MS_HD void move(int k, const double* u, const double* s, int n, double anchor, double* t) {
    const Shape<double> p = parts(u);
    double s_min = p.s_min, s1 = s_min + p.b, s_opt = s1 + p.a, s2 = s_opt + p.c;
    int left = 0, inner = 0;  // points below S_1, and below S_2
    for (int i = 0; i < n; ++i) {
      left += s[i] < s1;
      inner += s[i] < s2;
    }
    const double reach = s_opt - s_min, rest = s[n - 1] - s_opt;
    // clang-format off
    switch (k) {
      case 0: s1 = s_min + 0.3 * reach; break;
      case 1: s1 = after(s, n, left - 1); break;
      case 2: s1 = s_min + 0.08 * reach; s2 = s_opt + 0.05 * rest; break;
      case 3: s1 = after(s, n, left - 1); s2 = after(s, n, inner - 1); break;
      case 4: s2 = after(s, n, inner - 1); break;
      case 5: s_min += 0.3 * (s1 - s_min); break;
      case 6: s1 = after(s, n, left + 1); break;
      case 7: s1 = after(s, n, left - 2); break;
      case 8: s_min = 0.99999 * s[0]; s1 = s_min + 0.02 * (after(s, n, 1) - s_min); break;
      case 9: s_min = 0.005 * s[0]; s1 = after(s, n, (left + inner) / 2); break;
      case 10: s1 = s_min + 0.95 * reach; break;
      case 11: s2 = after(s, n, inner - 2); break;
      case 12: s1 = after(s, n, left + 2); break;
      case 13: s2 = s_opt + 0.05 * rest; break;
      case 14: s1 = after(s, n, left - 2); s2 = after(s, n, inner + 1); s_opt = 0.5 * (s1 + s2); break;
      case 15: s1 = after(s, n, left - 1); s2 = after(s, n, inner + 2); s_opt = 0.4 * s1 + 0.6 * s2; break;
      case 16: s_opt *= 1.1; s1 = s_min + 0.9 * (s_opt - s_min); break;
      case 17: s_opt = s_min + 0.8 * reach; s1 = s_min + 0.48 * reach; break;
      default: s_opt = after(s, n, left + 1); s1 = s_min + 0.05 * (s_opt - s_min); s2 = s_opt + 0.01 * (s_opt - s_min); break;
    }
    // clang-format on
    s_min = vmin(s_min, 0.97 * anchor);
    const double gap = 0.02 * vmax(s_opt - s_min, 1e-6 * anchor);
    s1 = vmax(s1, s_min + gap);
    if (s1 > s_opt) s_opt = s1;
    s1 = vmax(vmin(s1, s_opt - gap), s_min + 0.5 * gap);
    s_opt = vmax(s_opt, s1 + 0.5 * gap);
    s2 = vmax(s2, s_opt + gap);
    const double share = s_min / anchor;
    t[0] = vlog(share / (1 - share));
    t[1] = vlog(s1 - s_min);
    t[2] = vlog(s_opt - s1);
    t[3] = vlog(s2 - s_opt);
  }
  // A place with `below` of the points below it.
  static MS_HD double after(const double* s, int n, int below) {
    if (below <= 0) return 0.99 * s[0];
    return below >= n ? 1.05 * s[n - 1] : 0.5 * (s[below - 1] + s[below]);
  }

  static MS_HD void to_natural(const double* u, const double* sx, double sy, double* theta) {
    theta[0] = u[0] * sx[0];
    for (int i = 1; i < 4; ++i) theta[i] = u[i] * sx[0] + (kNatural ? 0.0 : theta[i - 1]);
    theta[4] = u[4] * sy / (sx[0] * sx[0]);
    theta[5] = u[5] * sy;
  }
  static MS_HD void from_natural(const double* theta, const double* sx, double sy, double* u) {
    u[0] = theta[0] / sx[0];
    for (int i = 1; i < 4; ++i) u[i] = (theta[i] - (kNatural ? 0.0 : theta[i - 1])) / sx[0];
    u[4] = theta[4] * (sx[0] * sx[0]) / sy;
    u[5] = theta[5] / sy;
  }
  // Points on each branch decide what the parameters can be known from.
  static uint32_t check(const double* u, const double* x, const double* y, int n, bool ray) {
    const Shape<double> p = parts(u);
    const double s1 = p.s_min + p.b, s2 = s1 + p.a + p.c;
    int left = 0, right = 0;
    for (int i = 0; i < n; ++i) {
      const double s = ray ? y[i] : x[i];
      left += s < s1;
      right += s > s2;
    }
    uint32_t flags = 0;
    if (left < 3 || right < 3) flags |= kFewBranchPoints;
    if (left == 0 || right == 0 || left + right == n) flags |= kEmptyBranch;
    if (left < 2) flags |= kWeakParameter | kWeakParameter << 1;
    if (right < 2) flags |= kWeakParameter << 3;
    if (p.e_min <= p.curvature * p.c * (p.c + 2 * (s2 - p.c))) flags |= kUnreachable;
    return flags;
  }

  static constexpr bool kAnalyticJacobian = true;
  static void natural_jacobian(const double*, const double* sx, double sy, double* jacobian) {
    for (int i = 0; i < 6; ++i)
      for (int j = 0; j < 6; ++j) {
        const bool depends = kNatural ? i == j : (i < 4 ? j <= i : j == i);
        const double unit = i < 4 ? sx[0] : (i == 4 ? sy / (sx[0] * sx[0]) : sy);
        jacobian[i * 6 + j] = depends ? unit : 0.0;
      }
  }
  static void derived(const double* p, double* out) {
    const double b = p[1] - p[0], a = p[2] - p[1], c = p[3] - p[2], C = p[4];
    out[2] = 2 * C * a * b * b;
    out[3] = C * a * a + p[5] - out[2] / b;
    out[4] = 2 * C * c;
    out[5] = p[5] + C * c * c - out[4] * p[3];
    out[0] = out[4];
    out[1] = p[5] / p[2];
  }
};

template <bool kNatural, class Real>
struct ProjectedForm<Wsd<kNatural>, Real> {
  using type = WsdProjected<Real>;
};

}  // namespace MS_ISA
}  // namespace megascale
