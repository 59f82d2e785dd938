// From the caller's points to a scaled problem: checks, scaling, the columns of both solvers and
// the constraints. Host only.
#pragma once

#include <cstring>
#include <vector>

#include "problem/columns.h"
#include "problem/job_options.h"

namespace megascale {
inline namespace MS_ISA {

// Power of two near the geometric mean of positive values: scaling by it is exact.
class ExponentMean {
 public:
  void add(const double* values, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
      int64_t bits;
      std::memcpy(&bits, values + i, 8);
      sum_ += (bits >> 52 & 0x7ff) - 1022;
    }
    n_ += n;
  }
  double scale() const {
    return n_ ? std::ldexp(1.0, static_cast<int>(std::lround(double(sum_) / double(n_)))) : 1.0;
  }

 private:
  int64_t sum_ = 0, n_ = 0;
};

template <class Law>
void fail(Prepared<Law>& p, Status status, int64_t row) {
  p.status = status;
  p.bad_row = row;
}

// The points of one problem that count: finite, of positive weight, in the law's order.
template <int X>
struct Rows {
  const double* x[X];
  const double* y;
  const double* weight;  // null: all ones
  const int64_t* order;  // null: as in the caller's arrays from `begin` on
  int64_t begin;
  int count;
};

// The first row that breaks a rule, if any.
template <class Law>
bool find_bad_row(const FitJob& job, int64_t begin, int64_t end, Prepared<Law>& p) {
  for (int64_t i = begin; i < end; ++i) {
    const double y = job.y[i], w = job.weights ? job.weights[i] : 1.0;
    bool finite_row = std::isfinite(y) && std::isfinite(w);
    bool positive_row = !Law::kPositiveTarget || y > 0;
    for (int k = 0; k < Law::kInputs; ++k) {
      finite_row = finite_row && std::isfinite(job.x[k][i]);
      positive_row = positive_row && job.x[k][i] > 0;
    }
    if (!finite_row)
      fail(p, kNonFinite, i - begin);
    else if (w < 0)
      fail(p, kBadWeight, i - begin);
    else if (!positive_row)
      fail(p, kNonPositive, i - begin);
    if (p.status != kConverged) return true;
  }
  return false;
}

// Rows as they lie in the caller's arrays, or copied to `copy` where points of zero weight drop out
// or the law wants them sorted.
template <class Law>
Rows<Law::kInputs> select_rows(const FitJob& job, int64_t begin, int64_t end,
                               Pooled<int64_t>& order, Column<double>& copy) {
  constexpr int X = Law::kInputs;
  Rows<X> rows;
  rows.begin = begin;
  rows.order = nullptr;
  const double* first = job.x[0];
  bool as_is = true;
  if (job.weights)
    for (int64_t i = begin; i < end; ++i) as_is = as_is && job.weights[i] != 0;
  if (Law::kSorted)
    for (int64_t i = begin + 1; i < end; ++i) as_is = as_is && first[i] >= first[i - 1];
  if (as_is) {
    for (int k = 0; k < X; ++k) rows.x[k] = job.x[k] + begin;
    rows.y = job.y + begin;
    rows.weight = job.weights ? job.weights + begin : nullptr;
    rows.count = static_cast<int>(end - begin);
    return rows;
  }
  order.clear();
  for (int64_t i = begin; i < end; ++i)
    if (!job.weights || job.weights[i] != 0) order.push_back(i);
  if (Law::kSorted)
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
      return first[a] < first[b] || (first[a] == first[b] && job.y[a] < job.y[b]);
    });
  rows.order = order.data();
  const size_t n = order.size();
  copy.resize((X + 2) * n);
  for (int k = 0; k < X; ++k) {
    double* to = copy.data() + k * n;
    for (size_t i = 0; i < n; ++i) to[i] = job.x[k][order[i]];
    rows.x[k] = to;
  }
  double* y = copy.data() + X * n;
  double* weight = y + n;
  for (size_t i = 0; i < n; ++i) {
    y[i] = job.y[order[i]];
    weight[i] = job.weights ? job.weights[order[i]] : 1.0;
  }
  rows.y = y;
  rows.weight = job.weights ? weight : nullptr;
  rows.count = static_cast<int>(n);
  return rows;
}

// Free parameters and bounds; false if they contradict one another.
template <class Law>
bool read_constraints(const FitJob& job, int64_t id, Prepared<Law>& p) {
  constexpr int P = Law::kParams;
  for (int i = 0; i < P; ++i) {
    const bool fixed = job.fixed && !std::isnan(job.fixed[id * P + i]);
    const double low = job.lower ? job.lower[id * P + i] : -INFINITY;
    const double high = job.upper ? job.upper[id * P + i] : INFINITY;
    p.free[i] = fixed ? 0.0 : 1.0;
    p.free_count -= fixed;
    p.bounded = p.bounded || low > -INFINITY || high < INFINITY;
    p.constrained = p.constrained || p.bounded || fixed;
    if (low > high) return false;
  }
  return true;
}

// Constraints in the solver's coordinates.
template <class Law>
void place_constraints(const FitJob& job, int64_t id, Prepared<Law>& p) {
  constexpr int P = Law::kParams;
  const double* fixed = job.fixed ? job.fixed + id * P : nullptr;
  const double* lower = job.lower ? job.lower + id * P : nullptr;
  const double* upper = job.upper ? job.upper + id * P : nullptr;
  double u_low[P], u_high[P], u_fixed[P];
  if (lower) Law::from_natural(lower, p.sx, p.sy, u_low);
  if (upper) Law::from_natural(upper, p.sx, p.sy, u_high);
  if (fixed) Law::from_natural(fixed, p.sx, p.sy, u_fixed);
  for (int i = 0; i < P; ++i) {
    const double limit = Law::coordinate(i) == Coordinate::kIdentity ? 1e100 : kLimitT;
    const double floor = std::max(-limit, Law::lowest(i) > -kLimitT ? Law::lowest(i) : -limit);
    p.lower[i] = lower && lower[i] > -INFINITY ? to_solver<Law>(i, u_low[i], p.full_anchor) : floor;
    p.upper[i] = upper && upper[i] < INFINITY ? to_solver<Law>(i, u_high[i], p.full_anchor) : limit;
    p.held[i] = p.free[i] == 0 ? to_solver<Law>(i, u_fixed[i], p.full_anchor) : 0;
    if (p.free[i] == 0) p.lower[i] = p.upper[i] = p.held[i];
  }
}

// The solver's t of parameters in the user's units.
template <class Law>
void start_from_natural(const Prepared<Law>& p, const double* theta, double* t) {
  double u[Law::kParams];
  Law::from_natural(theta, p.sx, p.sy, u);
  for (int i = 0; i < Law::kParams; ++i) t[i] = to_solver<Law>(i, u[i], p.full_anchor);
}

// The projected problem of a law along rays, from the points (B, S) of the full one.
//
// A measured S scatters about the law, and near the pole E(S) at the measured S explodes. A
// polynomial of log S over log B gives each ray an S without the scatter and the slope
// g = dlog S / dlog B there; to first order the ray's residual is then -g times that of log E at
// this S against log(B S) - (log S_measured - log S) / g. Rows are written in the order of S.
inline void smooth_rays(const double* batch, const double* steps, const double* root, int n,
                        Pooled<int64_t>& order, double* x, double* y, double* scale,
                        double* target) {
  constexpr int kDegree = 4, kMost = kDegree + 2;
  constexpr double kFlattest = -0.02, kFarthest = 0.7;
  order.resize(n);
  for (int i = 0; i < n; ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return batch[a] > batch[b] || (batch[a] == batch[b] && a < b);
  });
  double weight = 0, mean = 0;
  for (int i = 0; i < n; ++i) {
    weight += root[i] * root[i];
    mean += root[i] * root[i] * std::log(batch[i]);
  }
  mean /= weight;
  // Orthogonal polynomials over the points by their three-term recursion.
  const int degree = std::min(kDegree, std::max(1, n - 3));
  double a[kMost] = {}, b[kMost] = {}, c[kMost] = {}, before = 1;
  int terms = 0;
  auto polynomials = [&](double z, int count, double* p, double* dp) {
    p[0] = 1, dp[0] = 0;
    for (int k = 1; k < count; ++k) {
      p[k] = (z - a[k - 1]) * p[k - 1] - (k > 1 ? b[k - 1] * p[k - 2] : 0.0);
      dp[k] = p[k - 1] + (z - a[k - 1]) * dp[k - 1] - (k > 1 ? b[k - 1] * dp[k - 2] : 0.0);
    }
  };
  double p[kMost], dp[kMost];
  for (int k = 0; k <= degree; ++k) {
    double norm = 0, moment = 0, inner = 0;
    for (int i = 0; i < n; ++i) {
      const double z = std::log(batch[i]) - mean, w = root[i] * root[i];
      polynomials(z, k + 1, p, dp);
      norm += w * p[k] * p[k];
      moment += w * z * p[k] * p[k];
      inner += w * p[k] * std::log(steps[i]);
    }
    if (!(norm > 1e-9 * before)) break;
    a[k] = moment / norm;
    if (k > 0) b[k] = norm / before;
    c[k] = inner / norm;
    before = norm;
    terms = k + 1;
  }
  double last = 0;
  for (int i = 0; i < n; ++i) {
    const int64_t from = order[i];
    const double log_b = std::log(batch[from]), log_s = std::log(steps[from]);
    polynomials(log_b - mean, terms, p, dp);
    double smooth = 0, slope = 0;
    for (int k = 0; k < terms; ++k) {
      smooth += c[k] * p[k];
      slope += c[k] * dp[k];
    }
    slope = std::min(slope, kFlattest);
    if (i > 0) smooth = std::max(smooth, last);
    last = smooth;
    const double shift = std::max(-kFarthest, std::min(kFarthest, (smooth - log_s) / slope));
    x[i] = std::exp(smooth);
    y[i] = std::exp(log_b + smooth + shift);
    scale[i] = -slope * root[from] / y[i];
    target[i] = -slope * root[from];
  }
}

// Scaled columns of both problems, padded to whole vectors of eight rows: a row past the end has no
// weight and repeats the first point.
template <class Law, class Real>
void fill_columns(const FitJob& job, const Rows<Law::kInputs>& rows, bool unit_inputs,
                  Prepared<Law>& p, Columns<Law>& out) {
  constexpr int X = Law::kInputs, W = RealTraits<Real>::kLanes;
  const bool logs = Law::kInputKind == InputKind::kLog;
  const int n = rows.count;
  const size_t padded = (n + 7) / 8 * 8;
  out.resize_full(p.at + padded);
  out.resize_projected(p.projected_at + padded);
  // Inputs: centred logarithms, or scaled.
  out.scratch.resize(X * padded);
  for (int k = 0; k < X; ++k) {
    double* to = out.scratch.data() + k * padded;
    for (int i = 0; i < n; ++i) to[i] = Law::kAlongRay ? rows.y[i] / rows.x[k][i] : rows.x[k][i];
    if (logs) {
      log_column<Real>(to, to, n);
      const double centre = unit_inputs ? 0.0 : sum_of<Real>(to, n) / n;
      p.sx[k] = unit_inputs ? 1.0 : std::exp(centre);
      for (int i = 0; i < n; ++i) to[i] -= centre;
    } else {
      const double inverse = 1 / p.sx[k];  // of a power of two
      for (int i = 0; i < n; ++i) to[i] *= inverse;
    }
  }
  const bool ray = along_ray<Law>(job);
  const Residual kind = full_residual<Law>(job);
  const bool absolute = projected_absolute<Law>(job);
  double *full_x[X], *projected_x[X];
  for (int k = 0; k < X; ++k) {
    full_x[k] = out.full_x[k].data() + p.at;
    projected_x[k] = out.projected_x[k].data() + p.projected_at;
  }
  double* const full_y = out.y.data() + p.at;
  double* const log_y = out.log_y.data() + p.at;
  double* const root = out.root.data() + p.at;
  double* const projected_y = out.projected_y.data() + p.projected_at;
  double* const scale = out.scale.data() + p.projected_at;
  double* const target = out.target.data() + p.projected_at;
  const double inverse_sy = 1 / p.sy;
  const double* scaled = out.scratch.data();
  for (int i = 0; i < n; ++i) {
    double x[X], xf[X], xp[X];
    for (int k = 0; k < X; ++k) x[k] = scaled[k * padded + i];
    const double y = rows.y[i] * inverse_sy;
    Law::full_point(x, y, ray, xf, full_y + i, X);
    Law::projected_point(x, y, xp, projected_y + i, X);
    for (int k = 0; k < X; ++k) {
      full_x[k][i] = xf[k];
      projected_x[k][i] = xp[k];
    }
  }
  for (size_t i = n; i < padded; ++i) {
    for (int k = 0; k < X; ++k) {
      full_x[k][i] = full_x[k][0];
      projected_x[k][i] = projected_x[k][0];
    }
    full_y[i] = full_y[0];
    projected_y[i] = projected_y[0];
  }
  if (Law::kLogValue || Law::kLogTarget || kind == Residual::kLog)
    log_column<Real>(full_y, log_y, padded);
  else
    std::fill_n(log_y, padded, 0.0);
  for (size_t i = 0; i < padded; ++i) root[i] = i < size_t(n) ? 1.0 : 0.0;
  if (rows.weight)
    for (int i = 0; i < n; ++i) root[i] = std::sqrt(rows.weight[i]);
  for (size_t i = 0; i < padded; ++i) {
    if (Law::kLogTarget) {
      double xp[X];
      for (int k = 0; k < X; ++k) xp[k] = projected_x[k][i];
      scale[i] = root[i];
      target[i] = root[i] * Law::projected_target(xp, log_y[i]);
    } else {
      scale[i] = absolute ? root[i] : root[i] / projected_y[i];
      target[i] = absolute ? root[i] * projected_y[i] : root[i];
    }
  }
  if constexpr (Law::kHasRay && Law::kNonlinear > 0) {
    if (ray) {
      smooth_rays(full_x[0], full_y, root, n, out.smoothing, projected_x[0], projected_y, scale,
                  target);
      for (size_t i = n; i < padded; ++i) projected_x[0][i] = projected_x[0][0];
    }
  }
  if (job.groups) {
    int32_t* const group = out.group.data() + p.at;
    for (int i = 0; i < n; ++i) group[i] = job.groups[rows.order ? rows.order[i] : rows.begin + i];
  }
  // Sums of the best constant in the residual's own metric, and the limits of logit coordinates.
  Real s0(0.0), s1(0.0), s2(0.0), weight(0.0);
  for (size_t i = 0; i < padded; i += W) {
    const Real r = load<Real>(root + i), y = load<Real>(full_y + i), w = r * r;
    const Real unit = kind == Residual::kRelative ? Real(1.0) / y : Real(1.0);
    const Real goal = kind == Residual::kRelative ? Real(1.0)
                      : kind == Residual::kLog    ? load<Real>(log_y + i)
                                                  : y;
    s0 += w * unit * unit;
    s1 += w * unit * goal;
    s2 += w * goal * goal;
    weight += w;
  }
  const double ones = lane(total(s1), 0);
  p.total = lane(total(s2), 0) - ones * ones / lane(total(s0), 0);
  p.weight_sum = lane(total(weight), 0);
  const Range projected = range_of<Real>(projected_x[0], n), full = range_of<Real>(full_x[0], n);
  p.projected_anchor = logs ? vexp(projected.low) : projected.low;
  p.full_anchor = ray ? 1e3 * range_of<Real>(full_y, n).high : logs ? vexp(full.low) : full.low;
}

// Whether the values of an input differ, in logarithms by more than these can resolve.
inline bool varies(const Range& range, bool logs) {
  if (!logs || !(range.high > range.low)) return range.high > range.low;
  const double low = std::log(range.low), high = std::log(range.high);
  const double size = std::max(1.0, std::max(std::fabs(low), std::fabs(high)));
  return high - low > 4 * std::numeric_limits<double>::epsilon() * size;
}

// Checks and scales problem `id`; appends its columns.
template <class Law, class Real>
void prepare(const FitJob& job, int64_t id, Prepared<Law>& p, Columns<Law>& out) {
  constexpr int X = Law::kInputs;
  p = Prepared<Law>();
  p.id = id;
  p.at = out.size();
  p.projected_at = out.scale.size();
  const int64_t begin = job.offsets[id], end = job.offsets[id + 1];
  bool sound = !job.weights;
  for (int k = 0; sound && k < X; ++k)
    sound = all_finite<Real>(job.x[k] + begin, end - begin, true);
  sound = sound && all_finite<Real>(job.y + begin, end - begin, Law::kPositiveTarget);
  if (!sound && find_bad_row(job, begin, end, p)) return;
  const Rows<X> rows = select_rows<Law>(job, begin, end, out.order, out.rows);
  p.count = rows.count;
  if (!read_constraints(job, id, p)) return fail(p, kBadBounds, -1);
  if (p.count < p.free_count) return fail(p, kTooFewPoints, -1);
  // Scales; those of logarithmic inputs follow from their mean.
  const bool logs = Law::kInputKind == InputKind::kLog;
  const bool unit_inputs = Law::kCouplesScale && (p.constrained || job.initial != nullptr);
  for (int k = 0; k < X; ++k) {
    Range range = range_of<Real>(rows.x[k], p.count);
    if (Law::kAlongRay) {
      range = Range();
      for (int i = 0; i < p.count; ++i) range.add(rows.y[i] / rows.x[k][i]);
    }
    if (!varies(range, logs && !Law::kAlongRay)) return fail(p, kConstant, -1);
    ExponentMean mean;
    if (!logs && !unit_inputs) mean.add(rows.x[k], p.count);
    p.sx[k] = mean.scale();
  }
  const Range range_y = range_of<Real>(rows.y, p.count);
  if (!(range_y.high > range_y.low) && !Law::kAlongRay) return fail(p, kConstant, -1);
  if (job.loss == Loss::kHuber && full_residual<Law>(job) == Residual::kAbsolute) {
    p.sy = 1;  // delta is in the target's units
  } else if (Law::kPositiveTarget) {
    ExponentMean mean;
    mean.add(rows.y, p.count);
    p.sy = mean.scale();
  } else {
    int e;
    const double top = std::max(std::fabs(range_y.low), std::fabs(range_y.high));
    std::frexp(top, &e);
    p.sy = top > 0 ? std::ldexp(1.0, e) : 1.0;
  }
  fill_columns<Law, Real>(job, rows, unit_inputs, p, out);
  finish_projected<Law, Real>(p, out);
  place_constraints(job, id, p);
}

}  // namespace MS_ISA
}  // namespace megascale
