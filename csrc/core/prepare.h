// From the caller's points to a scaled problem: checks, scaling, the columns of both solvers, and
// the way back from the solution to parameters, covariance and diagnostics. Host only.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>
#include <numeric>
#include <utility>
#include <vector>

#include "core/dense.h"
#include "core/elementary.h"
#include "core/lm.h"
#include "engine.h"
#include "laws/law.h"

namespace megascale {
inline namespace MS_ISA {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kLimitT = 700;  // |t| of a logarithmic coordinate at its natural limit

// One problem after preparation. Columns live in the chunk's arrays from row `at` on.
template <class Law>
struct Prepared {
  static constexpr int P = Law::kParams, X = Law::kInputs;
  int64_t id = 0;
  size_t at = 0;  // rows of the full problem
  int count = 0;
  size_t projected_at = 0;  // rows of the projected problem: fewer where a long curve is binned
  int projected_count = 0;
  int free_count = P;
  int32_t status = kConverged;
  int64_t bad_row = -1;
  uint32_t flags = 0;
  double sx[X], sy = 1;
  double projected_anchor = 1, full_anchor = 1;
  double lower[P], upper[P], free[P], held[P];  // in the solver's t
  bool constrained = false;
  double total = 0;  // the sum of squares R^2 compares against
  double weight_sum = 0;
};

template <class Law>
inline double to_solver(int i, double u, double anchor) {
  if (Law::coordinate(i) == Coordinate::kLog) {
    if (!(u > 0)) return -kLimitT;
    return std::min(std::log(u), kLimitT);
  }
  if (Law::coordinate(i) == Coordinate::kLogit) {
    const double share = u / anchor;
    if (!(share > 0)) return -kLimitT;
    if (share >= 1) return 30.0;
    return std::log(share / (1 - share));
  }
  return u;
}

template <class Law>
inline double from_solver(int i, double t, double anchor) {
  if (Law::coordinate(i) == Coordinate::kLog) return vexp(t);
  if (Law::coordinate(i) == Coordinate::kLogit) return anchor / (1 + vexp(-t));
  return t;
}

// An allocator that leaves new elements uninitialised: every column is written before it is read.
template <class T>
struct Uninitialised : std::allocator<T> {
  template <class U>
  struct rebind {
    using other = Uninitialised<U>;
  };
  template <class U>
  void construct(U* at) {
    ::new (static_cast<void*>(at)) U;
  }
  template <class U, class... Arguments>
  void construct(U* at, Arguments&&... arguments) {
    ::new (static_cast<void*>(at)) U(std::forward<Arguments>(arguments)...);
  }
};
template <class T>
using Column = std::vector<T, Uninitialised<T>>;

// Columns of all problems of a chunk.
template <class Law>
struct Columns {
  static constexpr int X = Law::kInputs;
  Column<double> full_x[X], projected_x[X], y, log_y, root, projected_y, scale, target;
  Column<int32_t> group;
  Column<double> scratch;

  void reserve(size_t n) {
    for (int k = 0; k < X; ++k) {
      full_x[k].reserve(n);
      projected_x[k].reserve(n);
    }
    for (auto* v : {&y, &log_y, &root, &projected_y, &scale, &target}) v->reserve(n);
    group.reserve(n);
  }

  void clear() {
    for (int k = 0; k < X; ++k) {
      full_x[k].clear();
      projected_x[k].clear();
    }
    for (auto* v : {&y, &log_y, &root, &projected_y, &scale, &target}) v->clear();
    group.clear();
  }
  void resize_full(size_t n) {
    for (int k = 0; k < X; ++k) full_x[k].resize(n);
    for (auto* v : {&y, &log_y, &root}) v->resize(n);
    group.resize(n);
  }
  void resize_projected(size_t n) {
    for (int k = 0; k < X; ++k) projected_x[k].resize(n);
    for (auto* v : {&projected_y, &scale, &target}) v->resize(n);
  }
  size_t size() const { return y.size(); }
};

// The residual the full solver uses for this job and law.
template <class Law>
inline Residual full_residual(const FitJob& job) {
  if (job.residual != Residual::kRay) return job.residual;
  return Law::kRayResidual;
}

template <class Law>
inline bool along_ray(const FitJob& job) {
  return Law::kHasRay && job.residual == Residual::kRay;
}

// True where the projected objective is the requested one, so that its optimum is the answer.
template <class Law>
inline bool same_objective(const FitJob& job) {
  if (job.loss != Loss::kSquared) return false;
  const Residual kind = full_residual<Law>(job);
  if (Law::kHasRay && along_ray<Law>(job) != (Law::kNonlinear == 0)) return false;
  if (Law::kLogTarget) return kind == Residual::kLog;
  return kind == (Law::kDefault == Residual::kAbsolute ? Residual::kAbsolute : Residual::kRelative);
}

// Power of two near the geometric mean of positive values: scaling by it is exact.
class ExponentMean {
 public:
  void add(double v) {
    int64_t bits;
    std::memcpy(&bits, &v, 8);
    sum_ += (bits >> 52 & 0x7ff) - 1022;
    ++n_;
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

// out[i] = log(in[i]), in vectors of eight rows whatever the instruction set; in place allowed.
template <class Real>
void log_column(const double* in, double* out, size_t n) {
  constexpr int W = RealTraits<Real>::kLanes;
  size_t i = 0;
  for (; i + W <= n; i += W) {
    const Real v = vlog(load<Real>(in + i));
    std::memcpy(out + i, &v, sizeof(v));
  }
  for (; i < n; ++i) {
    double buffer[W];
    for (int k = 0; k < W; ++k) buffer[k] = in[i];
    const Real v = vlog(load<Real>(buffer));
    out[i] = lane(v, 0);
  }
}

// Closes the projected columns of the problem being appended: a long curve of one logarithmic input
// is gathered into bins, which is exact for points of equal input and good enough for a start
// otherwise (the full problem polishes on all points); then rows are padded to whole vectors.
template <class Law>
void finish_projected(Prepared<Law>& p, Columns<Law>& out) {
  constexpr int kBins = 24, kLong = 64, X = Law::kInputs;
  size_t end = p.projected_at + p.count;
  p.projected_count = p.count;
  if (Law::kNonlinear > 0 && X == 1 && Law::kInputKind == InputKind::kLog && p.count > kLong) {
    double* x = out.projected_x[0].data() + p.projected_at;
    double* scale = out.scale.data() + p.projected_at;
    double* target = out.target.data() + p.projected_at;
    double weight[kBins] = {}, place[kBins] = {}, goal[kBins] = {};
    double low = x[0], high = x[0];
    for (int i = 1; i < p.count; ++i) {
      low = std::min(low, x[i]);
      high = std::max(high, x[i]);
    }
    const double inverse = (kBins - 1e-9) / (high - low);
    for (int i = 0; i < p.count; ++i) {
      const int bin = static_cast<int>((x[i] - low) * inverse);
      const double w = scale[i] * scale[i];
      weight[bin] += w;
      place[bin] += w * x[i];
      goal[bin] += scale[i] * target[i];
    }
    int n = 0;
    for (int bin = 0; bin < kBins; ++bin) {
      if (weight[bin] == 0) continue;
      x[n] = place[bin] / weight[bin];
      scale[n] = std::sqrt(weight[bin]);
      target[n] = goal[bin] / scale[n];
      ++n;
    }
    p.projected_count = n;
    end = p.projected_at + n;
  }
  const size_t padded = p.projected_at + (end - p.projected_at + 7) / 8 * 8;
  out.resize_projected(padded);
  for (size_t row = end; row < padded; ++row) {
    for (int k = 0; k < X; ++k) out.projected_x[k][row] = out.projected_x[k][p.projected_at];
    out.projected_y[row] = 1;
    out.scale[row] = out.target[row] = 0;
  }
}

// Checks and scales problem `id`; appends its columns, padded to whole vectors of eight rows.
template <class Law, class Real>
void prepare(const FitJob& job, int64_t id, Prepared<Law>& p, Columns<Law>& out) {
  constexpr int P = Law::kParams, X = Law::kInputs;
  p = Prepared<Law>();
  p.id = id;
  p.at = out.size();
  p.projected_at = out.scale.size();
  const int64_t begin = job.offsets[id], end = job.offsets[id + 1];
  const double* weights = job.weights;
  ExponentMean mean_x[X], mean_y;
  double low[X], high[X], low_y = INFINITY, high_y = -INFINITY, top_y = 0;
  for (int k = 0; k < X; ++k) {
    low[k] = INFINITY;
    high[k] = -INFINITY;
  }
  const bool logs = Law::kInputKind == InputKind::kLog;
  int count = 0;
  bool sorted = true;
  double previous = -INFINITY;
  for (int64_t i = begin; i < end; ++i) {
    const double y = job.y[i], w = weights ? weights[i] : 1.0;
    bool finite_row = std::isfinite(y) && std::isfinite(w);
    bool positive_row = !Law::kPositiveTarget || y > 0;
    for (int k = 0; k < X; ++k) {
      const double x = job.x[k][i];
      finite_row = finite_row && std::isfinite(x);
      positive_row = positive_row && x > 0;
    }
    if (!finite_row) return fail(p, kNonFinite, i - begin);
    if (w < 0) return fail(p, kBadWeight, i - begin);
    if (!positive_row) return fail(p, kNonPositive, i - begin);
    if (w == 0) continue;
    ++count;
    for (int k = 0; k < X; ++k) {
      const double x = Law::kAlongRay ? y / job.x[k][i] : job.x[k][i];
      low[k] = std::min(low[k], x);
      high[k] = std::max(high[k], x);
      if (!logs) mean_x[k].add(x);
    }
    sorted = sorted && job.x[0][i] >= previous;
    previous = job.x[0][i];
    low_y = std::min(low_y, y);
    high_y = std::max(high_y, y);
    top_y = std::max(top_y, std::fabs(y));
    if (Law::kPositiveTarget) mean_y.add(y);
  }
  // Fixed parameters and bounds.
  const double* fixed = job.fixed ? job.fixed + id * P : nullptr;
  const double* lower = job.lower ? job.lower + id * P : nullptr;
  const double* upper = job.upper ? job.upper + id * P : nullptr;
  for (int i = 0; i < P; ++i) {
    p.free[i] = fixed && !std::isnan(fixed[i]) ? 0.0 : 1.0;
    if (p.free[i] == 0) --p.free_count;
    if (lower && upper && lower[i] > upper[i]) return fail(p, kBadBounds, -1);
    const bool bounded = (lower && lower[i] > -INFINITY) || (upper && upper[i] < INFINITY);
    p.constrained = p.constrained || p.free[i] == 0 || bounded;
  }
  if (count < p.free_count) return fail(p, kTooFewPoints, -1);
  for (int k = 0; k < X; ++k)
    if (!(high[k] > low[k])) return fail(p, kConstant, -1);
  if (!(high_y > low_y) && !Law::kAlongRay) return fail(p, kConstant, -1);
  // Scales.
  const bool unit_inputs = Law::kCouplesScale && (p.constrained || job.initial != nullptr);
  for (int k = 0; k < X; ++k) p.sx[k] = unit_inputs || logs ? 1.0 : mean_x[k].scale();
  if (job.loss == Loss::kHuber && full_residual<Law>(job) == Residual::kAbsolute) {
    p.sy = 1;  // delta is in the target's units
  } else if (Law::kPositiveTarget) {
    p.sy = mean_y.scale();
  } else {
    int e;
    std::frexp(top_y, &e);
    p.sy = top_y > 0 ? std::ldexp(1.0, e) : 1.0;
  }
  // Columns.
  std::vector<int64_t> order;
  const bool sort = Law::kSorted && !sorted;
  if (sort) {
    order.resize(end - begin);
    std::iota(order.begin(), order.end(), begin);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
      return job.x[0][a] < job.x[0][b] || (job.x[0][a] == job.x[0][b] && job.y[a] < job.y[b]);
    });
  }
  const size_t padded = p.at + (count + 7) / 8 * 8;
  out.resize_full(padded);
  out.resize_projected(p.projected_at + (count + 7) / 8 * 8);
  // Logarithms of the inputs, centred on their mean.
  Column<double>& logs_of = out.scratch;
  double log_scale[X];
  if (logs) {
    logs_of.resize(size_t(X) * count);
    for (int k = 0; k < X; ++k) {
      double* to = logs_of.data() + size_t(k) * count;
      size_t row = 0;
      for (int64_t n = begin; n < end; ++n) {
        const int64_t i = sort ? order[n - begin] : n;
        if (weights && weights[i] == 0) continue;
        to[row++] = Law::kAlongRay ? job.y[i] / job.x[k][i] : job.x[k][i];
      }
      log_column<Real>(to, to, row);
      double sum = 0;
      for (size_t i = 0; i < row; ++i) sum += to[i];
      log_scale[k] = unit_inputs ? 0.0 : sum / count;
      p.sx[k] = unit_inputs ? 1.0 : std::exp(log_scale[k]);
    }
  }
  const bool ray = along_ray<Law>(job);
  const Residual kind = full_residual<Law>(job);
  const bool need_log = Law::kLogValue || Law::kLogTarget || kind == Residual::kLog;
  const double inverse_sy = 1 / p.sy;
  const bool absolute = Law::kDefault == Residual::kAbsolute;
  double low_projected = INFINITY, low_full = INFINITY, high_full = 0;
  double s0 = 0, s1 = 0, s2 = 0;
  size_t row = p.at;
  for (int64_t n = begin; n < end; ++n) {
    const int64_t i = sort ? order[n - begin] : n;
    const double w = weights ? weights[i] : 1.0;
    if (w == 0) continue;
    double x[X];
    for (int k = 0; k < X; ++k) {
      if (logs)
        x[k] = logs_of[size_t(k) * count + (row - p.at)] - log_scale[k];
      else
        x[k] = (Law::kAlongRay ? job.y[i] / job.x[k][i] : job.x[k][i]) / p.sx[k];
    }
    const double y = job.y[i] * inverse_sy;
    double xf[X], xp[X], yf, yp;
    Law::full_point(x, y, ray, xf, &yf, X);
    Law::projected_point(x, y, xp, &yp, X);
    const size_t to = p.projected_at + (row - p.at);
    for (int k = 0; k < X; ++k) {
      out.full_x[k][row] = xf[k];
      out.projected_x[k][to] = xp[k];
    }
    const double root = w == 1.0 ? 1.0 : std::sqrt(w);
    const double log_y = need_log ? vlog(yf) : 0;
    out.y[row] = yf;
    out.log_y[row] = log_y;
    out.root[row] = root;
    out.projected_y[to] = yp;
    const double inverse_p = 1 / yp;
    if (Law::kLogTarget) {
      out.scale[to] = root;
      out.target[to] = root * Law::projected_target(xp, log_y);
    } else {
      out.scale[to] = absolute ? root : root * inverse_p;
      out.target[to] = absolute ? root * yp : root;
    }
    out.group[row] = job.groups ? job.groups[i] : 0;
    low_projected = std::min(low_projected, xp[0]);
    low_full = std::min(low_full, xf[0]);
    high_full = std::max(high_full, yf);
    // Sums of the best constant in the residual's own metric.
    const double inverse_f = yf == yp ? inverse_p : 1 / yf;
    const double unit = kind == Residual::kRelative ? inverse_f : 1.0;
    const double goal = kind == Residual::kRelative ? 1.0 : (kind == Residual::kLog ? log_y : yf);
    s0 += w * unit * unit;
    s1 += w * unit * goal;
    s2 += w * goal * goal;
    p.weight_sum += w;
    ++row;
  }
  for (; row < padded; ++row) {
    for (int k = 0; k < X; ++k) out.full_x[k][row] = out.full_x[k][p.at];
    out.y[row] = 1;
    out.log_y[row] = out.root[row] = 0;
    out.group[row] = 0;
  }
  p.count = count;
  finish_projected(p, out);
  p.total = s2 - s1 * s1 / s0;
  p.projected_anchor = logs ? vexp(low_projected) : low_projected;
  p.full_anchor = ray ? 1e3 * high_full : (logs ? vexp(low_full) : low_full);
  // Constraints in the solver's coordinates.
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

}  // namespace MS_ISA
}  // namespace megascale
