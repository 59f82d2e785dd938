// State equivalence: only the loss reached matters, not how it was reached (arXiv 2601.05034).
// Under a batch and a learning rate the loss goes on as in a run that has had them all along,
//
//   L = L_inf + a ((T0 + T) / T_ref)^-p + c s,     s = e^x (B / B_ref)^-q,
//
// from the point where that run has the loss of now; where the floor c s is above that, the loss
// stays. Within a piece of constant batch and rate this is closed: its cuts do not matter.
#pragma once

#include <cmath>

#include "history/directions.h"

namespace megascale {
inline namespace MS_ISA {

class Walk {
 public:
  double excess = 0;          // of the loss over L_inf
  double by[kHistoryParams];  // its derivatives

  void clear(const HistoryJob& job, const double* theta, double log_size, double scale_a,
             double scale_c) {
    log_size_ = log_size;
    scale_c_ = scale_c;
    level_ = theta[kA] * scale_a;
    started_ = false;
    const double log_base = std::log(std::fmax(theta[kT0], 1e-300) / job.progress_ref);
    std::fill_n(by, static_cast<int>(kHistoryParams), 0.0);
    excess = level_ * vexp(-theta[kP] * log_base);
    by[kA] = excess / theta[kA];
    by[kNA] = -log_size * excess;
    by[kP] = -excess * log_base;
    by[kT0] = -theta[kP] * excess / std::fmax(theta[kT0], 1e-300);
  }

  // `pace` progress a step and `source` the piece's s; nothing happens at a rate of zero.
  void advance(const HistoryJob& job, const Prepared& at, const double* theta, int64_t i,
               double pace, double source) {
    if (!(pace > 0)) return;
    const double p = theta[kP], floor = theta[kC] * scale_c_ * source;
    const double above = excess - floor;
    double begin = theta[kT0], log_begin = 0;
    if (started_) {
      if (!(above > 0)) return;
      log_begin = -std::log(above / level_) / p;
      if (log_begin > kFar) return;
      begin = job.progress_ref * vexp(log_begin);
    }
    const double gain = pace * job.steps[i];
    const double end = std::fmax(begin + gain, 1e-300), log_end = std::log(end / job.progress_ref);
    const double left = level_ * vexp(-p * log_end);
    for (int k : {kA, kP, kT0, kU, kR, kBn, kC, kX, kQ, kNA, kNC}) {
      const double by_level = k == kA ? 1 / theta[kA] : k == kNA ? -log_size_ : 0;
      double by_floor = 0;
      if (k == kC) by_floor = scale_c_ * source;
      if (k == kX) by_floor = floor * at.log_lr[i];
      if (k == kQ) by_floor = -floor * at.log_batch[i];
      if (k == kNC) by_floor = -floor * log_size_;
      double by_begin = k == kT0 ? 1 : 0;
      if (started_) {
        by_begin = -((by[k] - by_floor) / above - by_level) / p;
        if (k == kP) by_begin -= log_begin / p;
        by_begin *= begin;
      }
      const double by_end = by_begin + gain * log_pace_slope(k, job, at, theta, i);
      by[k] = by_floor + left * (by_level - (k == kP ? log_end : 0) - p * by_end / end);
    }
    excess = floor + left;
    started_ = true;
  }

 private:
  static constexpr double kFar = 300;  // log of a progress at which the loss no longer moves
  double log_size_ = 0, scale_c_ = 1, level_ = 0;
  bool started_ = false;
};

}  // namespace MS_ISA
}  // namespace megascale
