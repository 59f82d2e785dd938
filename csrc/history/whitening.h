// Residuals of one run are not independent: neighbours share their jitter, and a run as a whole may
// be ahead or behind (its seed). With the correlation kept_j between a point and the one before it,
// and shapes b_k in which whole runs differ, residuals and derivatives are made independent by
//
//   v_j <- (v_j - kept_j v_(j-1)) / sqrt(1 - kept_j^2),     v <- v - b_k (b_k . v).
//
// b_k is orthogonal to the other shapes; of a shape of variance d (in units of the whitened
// residuals') and direction n it is n sqrt(1 - (1 + d)^(-1/2)), so that the second step is the
// inverse root of 1 + d n n'.
#pragma once

#include <cmath>
#include <vector>

#include "history/family.h"

namespace megascale {
inline namespace MS_ISA {

class Whitening {
 public:
  explicit Whitening(const HistoryFit& fit)
      : fit_(fit), points_(fit.job.point_offsets[fit.job.runs]) {
    if (!fit.kept) return;
    scale_.resize(points_);
    for (int64_t i = 0; i < points_; ++i) scale_[i] = 1 / std::sqrt(1 - fit.kept[i] * fit.kept[i]);
  }

  // `v`: n values of a run whose points begin at `begin`.
  void apply(int64_t begin, int64_t n, double* v) const {
    if (fit_.kept) {
      for (int64_t j = n - 1; j > 0; --j)
        v[j] = (v[j] - fit_.kept[begin + j] * v[j - 1]) * scale_[begin + j];
    }
    if (!fit_.common) return;
    for (int k = 0; k < kCommon; ++k) {
      const double* shape = fit_.common + k * points_ + begin;
      double sum = 0;
      for (int64_t j = 0; j < n; ++j) sum += shape[j] * v[j];
      for (int64_t j = 0; j < n; ++j) v[j] -= sum * shape[j];
    }
  }

 private:
  const HistoryFit& fit_;
  int64_t points_;
  std::vector<double> scale_;
};

}  // namespace MS_ISA
}  // namespace megascale
