// Annealing noise with a power-law memory whose length depends on the learning rate: a sum over the
// changes of the run so far, at each point. Its cost is points x changes; changes are those of
// pieces, not of steps.
#pragma once

#include <vector>

#include "history/directions.h"

namespace megascale {
inline namespace MS_ISA {

template <class Real>
class Changes {
 public:
  void clear(int directions) {
    count_ = 0;
    directions_ = directions;
    now_ = 0;
    clock_ = 0;
    std::fill_n(by_now_, kMaxDirections, 0.0);
    std::fill_n(by_clock_, kMaxDirections, 0.0);
  }

  void advance(const Injection& next, double log_lr, const Directions& directions, bool first) {
    bool changed = false;
    if (!first) {
      changed = next.source != now_;
      for (int d = 0; d < directions.count; ++d) changed |= next.by_source[d] != by_now_[d];
    }
    if (changed) {
      const int n = count_++;
      const size_t wanted = static_cast<size_t>(n) + kRoom;
      if (at_.size() < wanted) {
        const size_t size = 2 * wanted;
        for (auto* column : {&at_, &jump_, &log_lr_}) column->resize(size, 0.0);
        for (int d = 0; d < kMaxDirections; ++d) {
          by_jump_[d].resize(size, 0.0);
          by_at_[d].resize(size, 0.0);
        }
      }
      // Rows up to the next whole number of lanes are harmless.
      for (int i = n; i < n + kRoom; ++i) at_[i] = jump_[i] = log_lr_[i] = 0;
      at_[n] = clock_;
      jump_[n] = now_ - next.source;
      log_lr_[n] = log_lr;
      for (int d = 0; d < directions.count; ++d) {
        for (int i = n; i < n + kRoom; ++i) by_jump_[d][i] = by_at_[d][i] = 0;
        by_jump_[d][n] = by_now_[d] - next.by_source[d];
        by_at_[d][n] = by_clock_[d];
      }
    }
    now_ = next.source;
    clock_ += next.clock;
    for (int d = 0; d < directions.count; ++d) {
      by_now_[d] = next.by_source[d];
      by_clock_[d] += next.by_clock[d];
    }
  }

  MS_NOINLINE void read(const double* theta, const Directions& directions, Read& out) const {
    constexpr int W = RealTraits<Real>::kLanes;
    const Real kappa(theta[kKappa]), gamma(theta[kGamma]), rate(1 / theta[kTau]), clock(clock_);
    Real level(0.0), by_kappa(0.0), by_tau(0.0), by_gamma(0.0), by[kMaxDirections];
    for (int d = 0; d < directions.count; ++d) by[d] = Real(0.0);
    for (int i = 0; i < count_; i += W) {
      const Real log_lr = load<Real>(log_lr_.data() + i), jump = load<Real>(jump_.data() + i);
      const Real own = rate * vexp(-gamma * log_lr);
      const Real z = vmax((clock - load<Real>(at_.data() + i)) * own, Real(0.0));
      const Real logarithm = vlog(Real(1.0) + z);
      const Real kept = vexp(-kappa * logarithm);
      const Real part = jump * kept;
      const Real fall = kappa * part / (Real(1.0) + z);  // -jump dK/dz
      level += part;
      by_kappa -= part * logarithm;
      by_tau += fall * z;
      by_gamma += fall * z * log_lr;
      for (int d = 0; d < directions.count; ++d)
        by[d] += load<Real>(by_jump_[d].data() + i) * kept -
                 fall * own * (Real(by_clock_[d]) - load<Real>(by_at_[d].data() + i));
    }
    out.level = now_ + lane(total(level), 0);
    out.kappa = lane(total(by_kappa), 0);
    out.tau = lane(total(by_tau), 0) / theta[kTau];
    out.gamma = lane(total(by_gamma), 0);
    for (int d = 0; d < directions.count; ++d) out.by[d] = by_now_[d] + lane(total(by[d]), 0);
  }

 private:
  static constexpr int kRoom = 8;
  int count_ = 0, directions_ = 0;
  double now_ = 0, clock_ = 0, by_now_[kMaxDirections], by_clock_[kMaxDirections];
  std::vector<double> at_, jump_, log_lr_, by_jump_[kMaxDirections], by_at_[kMaxDirections];
};

}  // namespace MS_ISA
}  // namespace megascale
