// What a law is to the engine: a legend of its words, the contract of a law's struct, and a
// complete law. Read this page first; everything else in csrc/ uses its words.
//
// VARIABLES. The same P parameters have three names, one for each place where they live:
//
//   theta  in the user's units, as a fit reports them
//   u      coordinates of the scaled problem: all that a law's own formulas see
//   t      the solver's, without limits; `coordinate(i)` says how u_i follows from t_i:
//            kLog        u = exp(t)
//            kIdentity   u = t
//            kLogit      u = anchor / (1 + exp(-t)), between 0 and the anchor
//
//   x, y   a point's inputs and target as they reach the law. y is divided by sy, a power of two.
//          Input k is divided by sx[k], near the geometric mean of the problem's values; with
//          InputKind::kLog the law gets the logarithm of that. Numbers are near one in any unit.
//   anchor upper limit of a logit coordinate, in the units of u: the problem's smallest first
//   input,
//          or along the ray (see residual) a thousand times its largest S, which is no limit at all
//   c      the linear coefficients: those of u in which the law is linear
//
// SIZES.  P parameters, Q of them nonlinear, L linear coefficients, X inputs, W lanes. Symmetric
// matrices are packed, lower triangle row by row: h(i, j) lies at packed(i, j).
//
// WORDS.
//   residual    how a point's misfit is measured; f is the law's value. Relative: f/y - 1. Log:
//               log f - log y. Absolute: f - y. Ray: for laws of tokens E and steps S; E = B S
//               holds exactly for every measured point, so S (or E) is compared at the point's B =
//               E/S.
//   full        the problem in all P parameters: any residual, bounds, Huber's loss (core/full.h).
//   projected   the problem in the Q nonlinear parameters alone, by variable projection: the law is
//               sum_j c_j phi_j(x; t), and the best c for a given t follow from an L x L linear
//               system (core/projected.h). It finds the basin that the full problem then polishes.
//   Real, lane  Every formula is a template over Real: `double`, or a Pack of W doubles of which
//               each lane holds a problem of its own. A lane never looks at its neighbours.
//   wide        the other use of a Pack, for one long problem: the lanes hold its points.
//   machine     a solver as a struct: `admit` starts the lanes of a mask, `iterate` does one step
//               for all, `done` says which lanes have ended (core/lm.h, bfgs.h, search.h).
//   start       a t from which a machine runs; core/starts.h decides on them.
//   task, chunk one start of one problem; the problems that are prepared and run together.
//
// CONTRACT. A law is a struct of static members, one header in laws/, listed in laws/registry.h.
// Everything is a template or MS_HD where a CUDA thread needs it. Derived from LawDefaults it must
// have:
//
//   kName                         what the user calls it
//   kParams, kParamNames          P, and the names of theta
//   kInputs, kInputNames          X, and the names of the inputs
//   kTargetName                   the name of the target
//   coordinate(i)                 see t above
//   value(u, x, grad)             returns f, in units of sy, and df/du_i in grad[P]
//   to_natural(u, sx, sy, theta)  theta of u: undoes the scaling of the inputs and the target
//   from_natural(theta, sx, sy, u)  the inverse; takes bounds and starts, so may meet any theta
//   kLinear, kNonlinear           L and Q
//   kPositive                     bit j set: c_j must not be negative
//   shape(t, anchor, s)           the kShape numbers that `columns` needs of the nonlinear t[Q]:
//                                 computed once per evaluation, not once per point
//   columns(s, x, col)            col[j] = phi_j for j < L, and col[L + k] = d phi_owner(k) / d t_k
//   owner(k)                      the column that nonlinear parameter k moves: each moves just one
//   assemble(t, c, anchor, u)     u of a projected solution
//   kGrid, grid(n, context, t)    the search's points, n = 0 .. kGrid - 1: t[Q] of one. They are
//   the
//                                 same for every problem, unless kDesignedStarts
//   kDerived, kDerivedNames, derived(theta, out)   what else a fit reports, in the user's units
//
// and may have what LawDefaults declares below.
//
// A COMPLETE LAW: y = a + b exp(-k x). a and b are linear, so Q = 1, L = 2, and t[0] = log k. The
// tests cut out these lines, compile and fit them (tests/csrc/toy_law.h).
//
//     struct ToyLaw : LawDefaults {
//       static constexpr const char* kName = "toy";
//       static constexpr int kParams = 3, kInputs = 1, kDerived = 1;
//       static constexpr const char* kParamNames[] = {"a", "b", "k"};
//       static constexpr const char* kInputNames[] = {"x"};
//       static constexpr const char* kTargetName = "y";
//       static constexpr const char* kDerivedNames[] = {"half_life"};
//       static constexpr InputKind kInputKind = InputKind::kRatio;  // x, not log x
//       static constexpr MS_HD Coordinate coordinate(int) { return Coordinate::kLog; }  // all > 0
//
//       // u = (a / sy, b / sy, k sx)
//       template <class Real>
//       static MS_INLINE Real value(const Real* u, const Real* x, Real* grad) {
//         const Real decay = vexp(-u[2] * x[0]);
//         grad[0] = Real(1.0);
//         grad[1] = decay;
//         grad[2] = -x[0] * u[1] * decay;
//         return u[0] + u[1] * decay;
//       }
//
//       static constexpr int kLinear = 2, kNonlinear = 1;
//       static constexpr uint32_t kPositive = 0b11;
//       static constexpr MS_HD int owner(int) { return 1; }  // k moves the column of b
//       template <class Real>
//       static MS_INLINE void shape(const Real* t, Real, Real* s) {
//         s[0] = vexp(t[0]);
//       }
//       template <class Real>
//       static MS_INLINE void columns(const Real* s, const Real* x, Real* col) {
//         col[0] = Real(1.0);
//         col[1] = vexp(-s[0] * x[0]);
//         col[2] = -s[0] * x[0] * col[1];  // d col[1] / d log k
//       }
//       static MS_HD void assemble(const double* t, const double* c, double, double* u) {
//         u[0] = c[0];
//         u[1] = c[1];
//         u[2] = vexp(t[0]);
//       }
//       static constexpr int kGrid = 8;  // k x between e^-3 and e^2.6 at the middle of the points
//       static MS_HD void grid(int n, const StartContext&, double* t) { t[0] = -3.0 + 0.8 * n; }
//
//       static MS_HD void to_natural(const double* u, const double* sx, double sy, double* theta) {
//         theta[0] = u[0] * sy;
//         theta[1] = u[1] * sy;
//         theta[2] = u[2] / sx[0];
//       }
//       static MS_HD void from_natural(const double* theta, const double* sx, double sy, double* u)
//       {
//         u[0] = theta[0] / sy;
//         u[1] = theta[1] / sy;
//         u[2] = theta[2] * sx[0];
//       }
//       static void derived(const double* theta, double* out) { out[0] = std::log(2.0) / theta[2];
//       }
//     };
#pragma once

#include "core/coordinates.h"
#include "core/elementary.h"
#include "core/points.h"
#include "core/status.h"

namespace megascale {
inline namespace MS_ISA {

constexpr int kMaxInputs = 4;

// How a prepared input is scaled by sx: its logarithm log(x / sx), or the ratio x / sx.
enum class InputKind { kLog, kRatio };

// What a designed start may look at: the projected problem's inputs and target, the anchor.
struct StartContext {
  const double* const* x;
  const double* y;
  int count;
  double anchor;
};

// What a law need not have of its own.
struct LawDefaults {
  static constexpr InputKind kInputKind = InputKind::kLog;
  // The residual of residual="auto", and what "ray" compares: log S, or E relative to y.
  static constexpr Residual kDefault = Residual::kRelative;
  static constexpr Residual kRayResidual = Residual::kLog;
  static constexpr bool kPositiveTarget = true;  // points with y <= 0 are refused
  static constexpr bool kLogValue = false;       // `value` returns log f, and its gradient
  static constexpr bool kLogTarget = false;      // the projected problem is one in log y

  // Tokens-steps laws, x = S and y = E. With kHasRay the law is one of S and has
  // ray_value(ray_shape(u), x, y, grad) besides `value`, which takes x = E/S and returns what "ray"
  // compares with the measured y; ray_shape(u) is what does not depend on the point.
  // With kAlongRay it is a function of B = E/S, which `value` gets as its x.
  static constexpr bool kHasRay = false, kAlongRay = false;

  // Scaling an input mixes theta_i with the others, so that box bounds would not stay boxes: with
  // bounds or given starts the inputs are left as they are.
  static constexpr bool kCouplesScale = false;
  // The grid's points are starts for this problem's data, not cells to be compared at first.
  static constexpr bool kDesignedStarts = false;
  static constexpr bool kSorted = false;  // points are prepared in the order of the first input
  static constexpr int kShape = 2;        // how many numbers `shape` writes
  // How many variations of an optimum `move` knows, the most promising first (core/starts.h):
  // move(k, u, s, n, anchor, t) writes the projected t of one. u is the full problem's optimum, s
  // the measured first inputs in ascending order, the anchor the projected problem's. The linear
  // coefficients come last among the parameters of such a law.
  static constexpr int kMoves = 0;
  static MS_HD void move(int, const double*, const double*, int, double, double*) {}
  // A law may have a screen of cells instead of a grid (core/screen.h): kKinds > 0.
  static constexpr int kKinds = 0;
  // natural_jacobian(u, sx, sy, jacobian) gives d theta / d u, row by row; else by differences.
  static constexpr bool kAnalyticJacobian = false;

  // Scaled inputs and target of a point -> its columns in the full and in the projected problem.
  static MS_HD void full_point(const double* x, double y, bool, double* out, double* target,
                               int n) {
    for (int i = 0; i < n; ++i) out[i] = x[i];
    *target = y;
  }
  static MS_HD void projected_point(const double* x, double y, double* out, double* target, int n) {
    for (int i = 0; i < n; ++i) out[i] = x[i];
    *target = y;
  }
  // The projected target of a law with kLogTarget.
  static MS_HD double projected_target(const double*, double log_y) { return log_y; }

  // Natural lower limit of t_i, below which a law degenerates.
  static MS_HD double lowest(int) { return -700; }
  // Whether coordinates that a solver tries are a law at all, lane by lane.
  template <class Real>
  static MS_INLINE typename RealTraits<Real>::Mask feasible(const Real*) {
    return typename RealTraits<Real>::Mask(true);
  }
  // Flags about a solution u from the full problem's first input and target (n points; along the
  // ray or not), and whether the solution has the minimum that a quadratic is fitted for.
  static uint32_t check(const double*, const double*, const double*, int, bool) { return 0; }
  static MS_HD bool convex(const double*) { return true; }
};

}  // namespace MS_ISA
}  // namespace megascale
