// One problem after preparation, and the columns of a chunk of problems. Host only.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "core/coordinates.h"
#include "core/law.h"
#include "core/recycle.h"
#include "engine.h"

namespace megascale {
inline namespace MS_ISA {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

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
  bool constrained = false, bounded = false;    // bounded: by finite limits, not by fixed values
  double total = 0;                             // the sum of squares R^2 compares against
  double weight_sum = 0;
};

// The columns of all problems of a chunk, one problem after the other.
template <class Law>
struct Columns {
  static constexpr int X = Law::kInputs;
  Column<double> full_x[X], projected_x[X], y, log_y, root, projected_y, scale, target;
  Column<int32_t> group;
  Column<double> scratch, rows;  // of the problem being prepared
  Pooled<int64_t> order, smoothing;

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

// The measured first inputs among the full problem's columns.
template <class Law>
const double* measured_inputs(const Columns<Law>& columns, bool along_ray) {
  return along_ray ? columns.y.data() : columns.full_x[0].data();
}

struct Range {
  double low = INFINITY, high = -INFINITY;
  void add(double v) {
    low = std::min(low, v);
    high = std::max(high, v);
  }
};

template <class Real>
Range range_of(const double* values, int n) {
  constexpr int W = RealTraits<Real>::kLanes;
  Real low(INFINITY), high(-INFINITY);
  int i = 0;
  for (; i + W <= n; i += W) {
    const Real v = load<Real>(values + i);
    low = vmin(low, v);
    high = vmax(high, v);
  }
  Range range;
  for (int l = 0; l < W; ++l) {
    range.low = std::min(range.low, lane(low, l));
    range.high = std::max(range.high, lane(high, l));
  }
  for (; i < n; ++i) range.add(values[i]);
  return range;
}

template <class Real>
double sum_of(const double* values, int n) {
  constexpr int W = RealTraits<Real>::kLanes;
  Real sums(0.0);
  int i = 0;
  for (; i + W <= n; i += W) sums += load<Real>(values + i);
  double sum = lane(total(sums), 0);
  for (; i < n; ++i) sum += values[i];
  return sum;
}

// Whether all values are finite and, if asked, positive.
template <class Real>
bool all_finite(const double* values, int64_t n, bool positive) {
  constexpr int W = RealTraits<Real>::kLanes;
  typename RealTraits<Real>::Mask bad(false);
  const Real limit(positive ? 0.0 : -INFINITY);
  int64_t i = 0;
  for (; i + W <= n; i += W) {
    const Real v = load<Real>(values + i);
    bad = bad | !((v > limit) & (v < Real(INFINITY)));
  }
  bool ok = !any(bad);
  for (; i < n; ++i) ok = ok && std::isfinite(values[i]) && (!positive || values[i] > 0);
  return ok;
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
template <class Law, class Real>
void finish_projected(Prepared<Law>& p, Columns<Law>& out) {
  constexpr int kBins = 16, kLong = 64, X = Law::kInputs;
  size_t end = p.projected_at + p.count;
  p.projected_count = p.count;
  const bool can_bin = Law::kNonlinear > 0 && X == 1 && Law::kInputKind == InputKind::kLog;
  const Range range = can_bin && p.count > kLong
                          ? range_of<Real>(out.projected_x[0].data() + p.projected_at, p.count)
                          : Range();
  if (range.high > range.low) {
    double* x = out.projected_x[0].data() + p.projected_at;
    double* scale = out.scale.data() + p.projected_at;
    double* target = out.target.data() + p.projected_at;
    // Four tables in turn: neighbours fall into the same bin and would wait for one another.
    double weight[4][kBins] = {}, position[4][kBins] = {}, moment[4][kBins] = {};
    const double inverse = (kBins - 1e-9) / (range.high - range.low);
    for (int i = 0; i < p.count; i += 4) {
      for (int k = 0; k < 4; ++k) {  // padded rows add nothing
        const double at = x[i + k], s = scale[i + k], w = s * s;
        const int bin = static_cast<int>((at - range.low) * inverse);
        weight[k][bin] += w;
        position[k][bin] += w * at;
        moment[k][bin] += s * target[i + k];
      }
    }
    for (auto* table : {weight, position, moment})
      for (int bin = 0; bin < kBins; ++bin)
        table[0][bin] = (table[0][bin] + table[1][bin]) + (table[2][bin] + table[3][bin]);
    int n = 0;
    for (int bin = 0; bin < kBins; ++bin) {
      if (weight[0][bin] == 0) continue;
      x[n] = position[0][bin] / weight[0][bin];
      scale[n] = std::sqrt(weight[0][bin]);
      target[n] = moment[0][bin] / scale[n];
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

}  // namespace MS_ISA
}  // namespace megascale
