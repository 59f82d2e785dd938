// Losses of a run and their derivatives by every parameter, in one pass over its pieces: forward
// sensitivities through the recursions, so they are exact for the formula that is evaluated.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "history/changes.h"
#include "history/directions.h"
#include "history/memory.h"
#include "history/prepared.h"
#include "history/terms.h"
#include "history/walk.h"

namespace megascale {
inline namespace MS_ISA {

template <class Real>
class Evaluator {
 public:
  explicit Evaluator(const Prepared& prepared)
      : at_(prepared), job_(*prepared.job), pace_(prepared.pieces), source_(prepared.pieces) {}

  // Takes the parameters; `wanted` has a bit for each whose derivative is asked for.
  void set(const double* theta, uint32_t wanted) {
    std::copy_n(theta, static_cast<int>(kHistoryParams), theta_);
    wanted_ = wanted;
    directions_.choose(job_, wanted);
    for (int64_t i = 0; i < at_.pieces; ++i) {
      const bool off = !(job_.lr[i] > 0);
      const double share = theta_[kBn] > 0 ? -0.5 * std::log1p(theta_[kBn] / job_.batch[i]) : 0;
      pace_[i] = off ? 0 : vexp(theta_[kU] * at_.log_lr[i] + theta_[kR] * at_.log_batch[i] + share);
      source_[i] = off ? 0 : vexp(theta_[kX] * at_.log_lr[i] - theta_[kQ] * at_.log_batch[i]);
    }
    direct_ = job_.annealing && job_.kernel == Kernel::kPower;
    const double tau = theta_[kTau];
    if (job_.kernel == Kernel::kExponential || job_.kernel == Kernel::kTwoExponentials) {
      exponential_terms<Real>(tau, theta_[kTau2], job_.kernel == Kernel::kTwoExponentials, terms_);
    } else if (job_.kernel != Kernel::kNone && !direct_) {
      power_terms<Real>(job_.kernel == Kernel::kDensity, tau, theta_[kKappa], longest_clock(),
                        terms_);
    }
    if (job_.kernel == Kernel::kTwoExponentials) {
      terms_.weight[0] = theta_[kC];
      terms_.weight[1] = theta_[kC2];
    }
  }

  // value: the run's points; gradient[k]: its points for parameter k, read where k is wanted.
  void run(int64_t r, double* value, double* const* gradient) {
    const int64_t first = job_.piece_offsets[r], last = job_.piece_offsets[r + 1];
    const int64_t settled = first + at_.settled(r);
    int64_t point = job_.point_offsets[r];
    const int64_t points_end = job_.point_offsets[r + 1], points_begin = point;
    log_size_ = at_.log_size(r);
    scale_l_ = vexp(-theta_[kNL] * log_size_);
    scale_a_ = vexp(-theta_[kNA] * log_size_);
    scale_c_ = vexp(-theta_[kNC] * log_size_);
    progress_ = Progressed();
    if (job_.walk) walk_.clear(job_, theta_, log_size_, scale_a_, scale_c_);
    memory_.clear(terms_, directions_.count);
    if (direct_) changes_.clear(directions_.count);
    bool started = false;
    for (int64_t i = first; point < points_end; ++i) {
      for (; point < points_end && job_.ends[point] <= i - first; ++point)
        report(point - points_begin, value, gradient);
      if (point == points_end || i == last) break;
      if (job_.walk) {
        walk_.advance(job_, at_, theta_, i, pace_[i], source_[i]);
        continue;
      }
      Progressed middle = progress_;
      progress_.advance(job_, at_, theta_, i, pace_[i]);
      if (job_.kernel == Kernel::kNone || i < settled) continue;
      middle.average(progress_);
      const Injection now = inject(i, middle);
      if (direct_) {
        changes_.advance(now, at_.log_lr[i], directions_, !started && job_.saturated);
      } else {
        if (!started && job_.saturated) memory_.saturate(terms_, now, directions_);
        memory_.advance(terms_, now, directions_);
      }
      started = true;
    }
    for (; point < points_end; ++point) report(point - points_begin, value, gradient);
  }

 private:
  double clock_of(int64_t i) const {
    if (job_.clock == Clock::kSteps) return job_.steps[i];
    return (job_.clock == Clock::kLr ? job_.lr[i] : pace_[i]) * job_.steps[i];
  }

  double longest_clock() const {
    double longest = 0;
    for (int64_t r = 0; r < job_.runs; ++r) {
      double sum = 0;
      for (int64_t i = job_.piece_offsets[r] + at_.settled(r); i < job_.piece_offsets[r + 1]; ++i)
        sum += clock_of(i);
      longest = std::max(longest, sum);
    }
    return longest;
  }

  // The noise that a piece injects, with derivatives by every direction.
  Injection inject(int64_t i, const Progressed& middle) const {
    Injection out;
    out.clock = clock_of(i);
    const double plain = source_[i];
    double factor = 1, slope = 0, f = 0, base = 1;
    if (job_.excess != Excess::kNone) {
      base = std::max(theta_[kT0] + middle.total, 1e-300);
      f = vexp(-theta_[kP] * std::log(base / job_.progress_ref));
      slope = job_.excess == Excess::kPlus ? theta_[kG] : 1;
      factor = job_.excess == Excess::kPlus ? 1 + theta_[kG] * f : f;
    }
    out.source = plain * factor;
    const double by_progress = -plain * slope * theta_[kP] * f / base;
    for (int d = 0; d < directions_.count; ++d) {
      const int k = directions_.param[d];
      double source = 0, clock = 0;
      if (k == kX) source = at_.log_lr[i] * out.source;
      if (k == kQ) source = -at_.log_batch[i] * out.source;
      if (k == kG) source = plain * f;
      if (job_.excess != Excess::kNone) {
        if (k == kP) source = -plain * slope * f * std::log(base / job_.progress_ref);
        if (k == kT0) source = by_progress;
        if (Progressed::has(k)) source = by_progress * middle.by[Progressed::slot(k)];
      }
      if (job_.clock == Clock::kProgress)
        clock = out.clock * log_pace_slope(k, job_, at_, theta_, i);
      out.by_source[d] = source;
      out.by_clock[d] = clock;
    }
    return out;
  }

  bool wants(int k) const { return wanted_ >> k & 1; }

  // Derivatives by what the loss has without end.
  void put_floor(int64_t n, double* const* gradient) const {
    if (wants(kLInf)) gradient[kLInf][n] = scale_l_;
    if (wants(kNL)) gradient[kNL][n] = -log_size_ * scale_l_ * theta_[kLInf];
  }

  void report(int64_t n, double* value, double* const* gradient) {
    if (job_.walk) {
      value[n] = scale_l_ * theta_[kLInf] + walk_.excess;
      for (int k = 0; k < kHistoryParams; ++k)
        if (wants(k)) gradient[k][n] = walk_.by[k];
      put_floor(n, gradient);
      return;
    }
    const double base = std::max(theta_[kT0] + progress_.total, 1e-300);
    const double log_base = std::log(base / job_.progress_ref);
    const double f = vexp(-theta_[kP] * log_base);
    const double a = theta_[kA] * scale_a_, c = theta_[kC] * scale_c_;
    double total = theta_[kLInf] * scale_l_ + a * f;
    auto put = [&](int k, double slope) {
      if (wants(k)) gradient[k][n] = slope;
    };
    const double by_progress = -a * f * theta_[kP] / base;
    put_floor(n, gradient);
    put(kA, scale_a_ * f);
    put(kNA, -log_size_ * a * f);
    put(kP, -a * f * log_base);
    put(kT0, by_progress);
    for (int k : {kU, kR, kBn, kOmega}) put(k, by_progress * progress_.by[Progressed::slot(k)]);
    for (int k : {kC, kX, kQ, kTau, kKappa, kC2, kTau2, kGamma, kG, kNC}) put(k, 0);
    if (job_.kernel != Kernel::kNone) {
      const bool two = job_.kernel == Kernel::kTwoExponentials;
      const double scale = two ? scale_c_ : c;
      Read noise;
      if (direct_)
        changes_.read(theta_, directions_, noise);
      else
        memory_.read(terms_, directions_, noise);
      total += scale * noise.level;
      put(kC, scale_c_ * (two ? memory_.level(0) : noise.level));
      put(kC2, two ? scale_c_ * memory_.level(1) : 0);
      put(kNC, -log_size_ * scale * noise.level);
      put(kKappa, scale * noise.kappa);
      put(kGamma, scale * noise.gamma);
      if (direct_) {
        put(kTau, scale * noise.tau);
      } else if (two) {
        put(kTau, -c * memory_.slope(0) / (theta_[kTau] * theta_[kTau]));
        put(kTau2, -theta_[kC2] * scale_c_ * memory_.slope(1) / (theta_[kTau2] * theta_[kTau2]));
      } else {
        put(kTau, scale * (terms_.weight_tau * noise.level - noise.rate / theta_[kTau]));
      }
      for (int d = 0; d < directions_.count; ++d)
        gradient[directions_.param[d]][n] += scale * noise.by[d];
    }
    value[n] = total;
  }

  const Prepared& at_;
  const HistoryJob& job_;
  std::vector<double> pace_, source_;
  double theta_[kHistoryParams];
  uint32_t wanted_ = 0;
  bool direct_ = false;
  double log_size_ = 0, scale_l_ = 1, scale_a_ = 1, scale_c_ = 1;
  Walk walk_;
  Directions directions_;
  Terms terms_;
  Memory<Real> memory_;
  Changes<Real> changes_;
  Progressed progress_;
};

}  // namespace MS_ISA
}  // namespace megascale
