// Remembered noise as a sum of exponentials: z_m follows the injected noise at rate_m of the clock.
// Exact for a piece of any length, as injection is constant within one.
#pragma once

#include <algorithm>

#include "history/directions.h"
#include "history/terms.h"

namespace megascale {
inline namespace MS_ISA {

template <class Real>
class Memory {
 public:
  void clear(const Terms& terms, int directions) {
    std::fill_n(z_, terms.count, 0.0);
    std::fill_n(slope_, terms.count, 0.0);
    for (int d = 0; d < directions; ++d) std::fill_n(by_[d], terms.count, 0.0);
    clock_ = -1;
  }

  // The level that this injection would lead to in the end.
  void saturate(const Terms& terms, const Injection& now, const Directions& directions) {
    std::fill_n(z_, terms.count, now.source);
    for (int d = 0; d < directions.count; ++d) std::fill_n(by_[d], terms.count, now.by_source[d]);
  }

  MS_NOINLINE void advance(const Terms& terms, const Injection& now, const Directions& directions) {
    constexpr int W = RealTraits<Real>::kLanes;
    const Real source(now.source), clock(now.clock);
    if (now.clock != clock_) {  // pieces between evenly spaced points are equally long
      clock_ = now.clock;
      for (int m = 0; m < terms.count; m += W)
        store(kept_ + m, vexp(-load<Real>(terms.rate + m) * clock));
    }
    for (int m = 0; m < terms.count; m += W) {
      const Real kept = load<Real>(kept_ + m);
      const Real gap = source - load<Real>(z_ + m);
      const Real pull = gap * kept;
      store(z_ + m, source - pull);
      store(slope_ + m, load<Real>(slope_ + m) * kept + pull * clock);
      const Real by_clock = pull * load<Real>(terms.rate + m);
      for (int d = 0; d < directions.count; ++d) {
        const Real to(now.by_source[d]);
        store(by_[d] + m,
              to + (load<Real>(by_[d] + m) - to) * kept + by_clock * Real(now.by_clock[d]));
      }
    }
  }

  MS_NOINLINE void read(const Terms& terms, const Directions& directions, Read& out) const {
    constexpr int W = RealTraits<Real>::kLanes;
    Real level(0.0), rate(0.0), kappa(0.0), by[kMaxDirections];
    for (int d = 0; d < directions.count; ++d) by[d] = Real(0.0);
    for (int m = 0; m < terms.count; m += W) {
      const Real weight = load<Real>(terms.weight + m);
      const Real z = load<Real>(z_ + m), slope = load<Real>(slope_ + m) * weight;
      level += weight * z;
      rate += slope * load<Real>(terms.rate + m);
      kappa += load<Real>(terms.weight_kappa + m) * z + slope * load<Real>(terms.rate_kappa + m);
      for (int d = 0; d < directions.count; ++d) by[d] += weight * load<Real>(by_[d] + m);
    }
    out.level = lane(total(level), 0);
    out.rate = lane(total(rate), 0);
    out.kappa = lane(total(kappa), 0);
    for (int d = 0; d < directions.count; ++d) out.by[d] = lane(total(by[d]), 0);
  }

  double level(int m) const { return z_[m]; }
  double slope(int m) const { return slope_[m]; }  // d z_m / d rate_m

 private:
  static MS_INLINE void store(double* to, Real value) { std::memcpy(to, &value, sizeof(value)); }

  alignas(64) double z_[kMaxTerms], slope_[kMaxTerms], kept_[kMaxTerms];
  alignas(64) double by_[kMaxDirections][kMaxTerms];
  double clock_ = -1;
};

}  // namespace MS_ISA
}  // namespace megascale
