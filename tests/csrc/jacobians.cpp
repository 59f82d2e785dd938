// Every law's gradient, and the projected problems' gradients, against central
// differences.
#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <vector>

#include "check.h"
#include "core/full.h"
#include "core/rng.h"
#include "laws/registry.h"

using namespace megascale;

namespace {

template <class Law>
void full_problem(Residual residual, bool ray) {
  constexpr int P = Law::kParams, X = Law::kInputs, kPoints = 23;
  Draws draws(3, P * 10 + X, ray);
  std::vector<double> x[X], y(kPoints), log_y(kPoints), root(kPoints);
  for (int k = 0; k < X; ++k) x[k].resize(kPoints);
  Full<Law, double> full;
  full.residual = residual;
  full.along_ray = ray;
  full.anchor = ray ? 1e3 : 1.0;
  for (int i = 0; i < kPoints; ++i) {
    for (int k = 0; k < X; ++k) x[k][i] = 1.05 + 1.5 * draws.uniform() + 0.05 * i;
    y[i] = 0.5 + draws.uniform();
    log_y[i] = vlog(y[i]);
    root[i] = 0.5 + draws.uniform();
  }
  for (int k = 0; k < X; ++k) full.points.x[k] = x[k].data();
  full.points.y = y.data();
  full.points.log_y = log_y.data();
  full.points.root = root.data();
  full.points.count = kPoints;
  for (int trial = 0; trial < 20; ++trial) {
    double t[P], g[P], h[packed_size(P)], cost;
    for (int i = 0; i < P; ++i)
      t[i] = Law::coordinate(i) == Coordinate::kIdentity ? 0.3 + draws.uniform()
                                                         : -1 + 1.2 * draws.uniform();
    if (ray) t[0] -= 7;
    full.evaluate(t, &cost, g, h);
    if (!(cost < 1e6)) continue;
    for (int i = 0; i < P; ++i) {
      const double step = 1e-6, at = t[i];
      double up, down, ignored_g[P], ignored_h[packed_size(P)];
      t[i] = at + step;
      full.evaluate(t, &up, ignored_g, ignored_h);
      t[i] = at - step;
      full.evaluate(t, &down, ignored_g, ignored_h);
      t[i] = at;
      const double numeric = (up - down) / (4 * step);
      CHECK(std::fabs(numeric - g[i]) <= 1e-5 * (std::fabs(g[i]) + cost + 1e-3));
    }
  }
}

template <class Law>
void projected_problem() {
  constexpr int Q = Law::kNonlinear, X = Law::kInputs, kPoints = 29;
  if constexpr (Q > 0) {
    Draws draws(5, Q * 10 + X, 0);
    std::vector<double> x[X], scale(kPoints), target(kPoints);
    for (int k = 0; k < X; ++k) x[k].resize(kPoints);
    typename ProjectedForm<Law, double>::type problem;
    problem.anchor = 1.0;
    for (int i = 0; i < kPoints; ++i) {
      for (int k = 0; k < X; ++k) x[k][i] = 1.05 + 0.1 * i + 0.3 * draws.uniform();
      target[i] = 1;
      scale[i] = 1 / (1 + std::fabs(x[0][i] - 2.2) + 0.2 * draws.uniform());
    }
    for (int k = 0; k < X; ++k) problem.points.x[k] = x[k].data();
    problem.points.scale = scale.data();
    problem.points.target = target.data();
    problem.points.count = kPoints;
    int compared = 0;
    for (int trial = 0; trial < 60; ++trial) {
      double t[Q], g[Q], h[packed_size(Q)], cost;
      for (int i = 0; i < Q; ++i) t[i] = -1 + 1.4 * draws.uniform();
      problem.evaluate(t, &cost, g, h);
      if (!(cost < kInfeasible)) continue;
      ++compared;
      for (int i = 0; i < Q; ++i) {
        const double step = 1e-6, at = t[i];
        double up, down, ignored_g[Q], ignored_h[packed_size(Q)];
        t[i] = at + step;
        problem.evaluate(t, &up, ignored_g, ignored_h);
        t[i] = at - step;
        problem.evaluate(t, &down, ignored_g, ignored_h);
        t[i] = at;
        if (!(up < kInfeasible) || !(down < kInfeasible)) continue;
        const double numeric = (up - down) / (4 * step);
        CHECK(std::fabs(numeric - g[i]) <= 2e-5 * (std::fabs(g[i]) + cost + 1e-4));
      }
    }
    CHECK(compared > 0);
  }
}

// Rays that cross the piecewise law, and rays that miss it: below its tangent from the origin, or
// below the slope of a right branch that starts above it. The stand-in for a ray that misses leaves
// the measured point on either side, the farther the lower the ray.
template <class Law>
void rays_that_miss(const double (&u)[6]) {
  for (const double measured : {0.5, 1e4}) {
    double nearest = 0;
    for (const double ray : {2.0, 0.7, 0.6, 0.56, 0.45, 0.3, 0.2, 0.15, 0.1, 0.05}) {
      double grad[6], ignored[6], at[6];
      const double s = Law::ray_value(Law::ray_shape(u), &ray, measured, grad);
      CHECK(s > 0);
      const double residual = std::fabs(std::log(s / measured));
      // Rays below 0.25 miss all of these laws.
      if (ray < 0.2) CHECK(residual > nearest);
      nearest = residual;
      std::copy(u, u + 6, at);
      for (int i = 0; i < 6; ++i) {
        const double step = 1e-6 * u[i];
        at[i] = u[i] + step;
        const double up = Law::ray_value(Law::ray_shape(at), &ray, measured, ignored);
        at[i] = u[i] - step;
        const double down = Law::ray_value(Law::ray_shape(at), &ray, measured, ignored);
        at[i] = u[i];
        CHECK(std::fabs((up - down) / (2 * step) - grad[i]) <= 1e-4 * (s + std::fabs(grad[i])));
      }
    }
  }
}

template <class Law>
void one_law() {
  full_problem<Law>(Residual::kRelative, false);
  full_problem<Law>(Residual::kLog, false);
  full_problem<Law>(Residual::kAbsolute, false);
  if (Law::kHasRay) full_problem<Law>(Residual::kLog, true);
  projected_problem<Law>();
}

}  // namespace

void test_jacobians() {
  // A right branch that starts below the origin: A_0 < 0.
  rays_that_miss<Wsd<false>>({0.37, 0.52, 0.26, 0.82, 0.42, 0.85});
  rays_that_miss<Wsd<true>>({0.37, 0.89, 1.15, 1.97, 0.42, 0.85});
  // And one that starts above it: rays below A_1 = 0.252.
  rays_that_miss<Wsd<false>>({0.37, 0.52, 0.26, 0.3, 0.42, 0.85});
  rays_that_miss<Wsd<true>>({0.37, 0.89, 1.15, 1.45, 0.42, 0.85});
#define MS_ROW(L) one_law<L>();
  MEGASCALE_LAWS(MS_ROW)
#undef MS_ROW
}
