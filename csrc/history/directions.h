// What moves along a run: progress with its derivatives, and the noise that a piece injects with
// its own. A direction is a parameter by which injected noise or the memory's clock changes.
#pragma once

#include "history/prepared.h"

namespace megascale {
inline namespace MS_ISA {

constexpr int kMaxDirections = 9;

struct Directions {
  int count = 0;
  int param[kMaxDirections];

  void choose(const HistoryJob& job, uint32_t wanted) {
    count = 0;
    if (job.kernel == Kernel::kNone) return;
    auto add = [&](int k) {
      if (wanted >> k & 1) param[count++] = k;
    };
    add(kX);
    add(kQ);
    const bool excess = job.excess != Excess::kNone;
    if (excess || job.clock == Clock::kProgress)
      for (int k : {kU, kR, kBn}) add(k);
    if (excess)
      for (int k : {kP, kT0, kOmega}) add(k);
    if (job.excess == Excess::kPlus) add(kG);
  }
};

// d log (progress of a step) / d parameter.
inline double log_pace_slope(int k, const HistoryJob& job, const Prepared& at, const double* theta,
                             int64_t piece) {
  if (k == kU) return at.log_lr[piece];
  if (k == kR) return at.log_batch[piece];
  if (k == kBn) return -0.5 / (job.batch[piece] + theta[kBn]);
  return 0;
}

// Progress so far and its derivatives by u, r, B_n and omega.
struct Progressed {
  double total = 0;
  double by[4] = {0, 0, 0, 0};

  static bool has(int k) { return k == kU || k == kR || k == kBn || k == kOmega; }
  static int slot(int k) { return k == kU ? 0 : k == kR ? 1 : k == kBn ? 2 : 3; }

  void advance(const HistoryJob& job, const Prepared& at, const double* theta, int64_t i,
               double pace) {
    const double steps = job.steps[i];
    const double fade = job.decay ? theta[kOmega] * job.decay[i] : 0;  // a step
    double keep = 1, gain = steps, keep_slope = 0, gain_slope = 0;     // slopes by omega
    if (job.decay && job.decay[i] > 0) {
      const double lost = fade * steps;
      keep = std::exp(-lost);
      const double share = lost > 1e-4 ? -std::expm1(-lost) / lost : 1 - lost / 2 + lost * lost / 6;
      gain = steps * share;
      keep_slope = -keep * job.decay[i] * steps;
      const double by_lost = lost > 1e-4 ? (keep - share) / lost : -0.5 + lost / 3;
      gain_slope = steps * by_lost * job.decay[i] * steps;
    }
    const double added = pace * gain;
    by[3] = by[3] * keep + total * keep_slope + pace * gain_slope;
    for (int k : {kU, kR, kBn}) {
      const int s = slot(k);
      by[s] = by[s] * keep + added * log_pace_slope(k, job, at, theta, i);
    }
    total = total * keep + added;
  }

  // The middle between this and what follows.
  void average(const Progressed& next) {
    total = 0.5 * (total + next.total);
    for (int s = 0; s < 4; ++s) by[s] = 0.5 * (by[s] + next.by[s]);
  }
};

struct Injection {
  double source = 0, clock = 0;
  double by_source[kMaxDirections], by_clock[kMaxDirections];
};

// The noise at one point: its level and derivatives. `rate` is sum of weight x rate x d/d rate.
struct Read {
  double level = 0, rate = 0, kappa = 0, tau = 0, gamma = 0;
  double by[kMaxDirections] = {};
};

}  // namespace MS_ISA
}  // namespace megascale
