// Philox4x32-10 (Salmon et al. 2011): random numbers as a pure function of (seed, problem,
// replicate, counter), so that results never depend on threads, chunks or lanes.
#pragma once

#include <cstdint>

#include "core/elementary.h"

namespace megascale {
inline namespace MS_ISA {

struct PhiloxKey {
  uint32_t k0, k1;
};

constexpr int kPhiloxBlocks = 8;  // counters per refill: the loops below become vector code
constexpr int kPhiloxMany = 16;   // the same where many words are wanted: fewer stalls

// Words of counters [counter, counter + kBlocks), four a counter, in counter order.
template <int kBlocks>
MS_NOINLINE inline void philox(PhiloxKey key, uint64_t stream, uint32_t replicate, uint32_t counter,
                               uint32_t* out) {
  uint64_t c0[kBlocks], c1[kBlocks], c2[kBlocks], c3[kBlocks];
  for (int i = 0; i < kBlocks; ++i) {
    c0[i] = static_cast<uint32_t>(counter + i);
    c1[i] = replicate;
    c2[i] = static_cast<uint32_t>(stream);
    c3[i] = stream >> 32;
  }
  uint32_t k0 = key.k0, k1 = key.k1;
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < kBlocks; ++i) {
      const uint64_t p0 = (c0[i] & 0xffffffffu) * uint64_t{0xD2511F53u};
      const uint64_t p1 = (c2[i] & 0xffffffffu) * uint64_t{0xCD9E8D57u};
      c0[i] = (p1 >> 32) ^ c1[i] ^ k0;
      c2[i] = (p0 >> 32) ^ c3[i] ^ k1;
      c1[i] = p1 & 0xffffffffu;
      c3[i] = p0 & 0xffffffffu;
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  for (int i = 0; i < kBlocks; ++i) {
    out[4 * i] = static_cast<uint32_t>(c0[i]);
    out[4 * i + 1] = static_cast<uint32_t>(c1[i]);
    out[4 * i + 2] = static_cast<uint32_t>(c2[i]);
    out[4 * i + 3] = static_cast<uint32_t>(c3[i]);
  }
}

// A sequence of draws for one (seed, problem, replicate).
class Draws {
 public:
  MS_HD Draws(uint64_t seed, uint64_t problem, uint32_t replicate)
      : key_{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)},
        stream_(problem),
        replicate_(replicate) {}

  MS_HD uint32_t word() {
    if (used_ == 4 * kPhiloxBlocks) {
      philox<kPhiloxBlocks>(key_, stream_, replicate_, counter_, words_);
      counter_ += kPhiloxBlocks;
      used_ = 0;
    }
    return words_[used_++];
  }
  // Uniform in (0, 1), 32 bits.
  MS_HD double uniform() { return (word() + 0.5) * 0x1p-32; }
  // Integer in [0, n); the bias is below n / 2^32.
  MS_HD uint32_t below(uint32_t n) { return static_cast<uint32_t>((uint64_t{word()} * n) >> 32); }
  // `count` such integers, the same as one at a time.
  void below(uint32_t n, int count, uint32_t* out) {
    while (count > 0) {
      uint32_t fresh[4 * kPhiloxMany];
      const uint32_t* from = words_ + used_;
      int some = 4 * kPhiloxBlocks - used_;
      if (some == 0 && count >= 4 * kPhiloxMany) {
        philox<kPhiloxMany>(key_, stream_, replicate_, counter_, fresh);
        counter_ += kPhiloxMany;
        from = fresh;
        some = 4 * kPhiloxMany;
      } else {
        if (some == 0) {
          philox<kPhiloxBlocks>(key_, stream_, replicate_, counter_, words_);
          counter_ += kPhiloxBlocks;
          from = words_;
          some = 4 * kPhiloxBlocks;
        }
        some = some < count ? some : count;
        used_ = static_cast<int>(from - words_) + some;
      }
      for (int i = 0; i < some; ++i) out[i] = static_cast<uint32_t>((uint64_t{from[i]} * n) >> 32);
      out += some;
      count -= some;
    }
  }
  // Standard normal by Box-Muller; the second of each pair is kept.
  MS_HD double normal() {
    if (has_spare_) {
      has_spare_ = false;
      return spare_;
    }
    const double radius = vsqrt(-2.0 * vlog(uniform()));
    const double angle = 6.283185307179586 * uniform();
    spare_ = radius * std::sin(angle);
    has_spare_ = true;
    return radius * std::cos(angle);
  }
  // Chi-squared of some degrees of freedom (Marsaglia and Tsang 2000).
  MS_HD double chi_squared(int freedom) {
    if (freedom == 1) {
      const double z = normal();
      return z * z;
    }
    const double d = 0.5 * freedom - 1.0 / 3, c = 1 / vsqrt(9 * d);
    for (;;) {
      const double z = normal(), root = 1 + c * z;
      if (root <= 0) continue;
      const double v = root * root * root;
      if (vlog(uniform()) < 0.5 * z * z + d - d * v + d * vlog(v)) return 2 * d * v;
    }
  }
  // One of six values of mean 0, variance 1 and fourth moment 7/6 (Webb 2014): with few points or
  // runs, signs alone give too few distinct samples.
  MS_HD double webb() {
    const uint32_t side = below(6);
    const double size = vsqrt(0.5 * (side % 3 + 1));
    return side < 3 ? size : -size;
  }

 private:
  PhiloxKey key_;
  uint64_t stream_;
  uint32_t replicate_;
  uint32_t counter_ = 0;
  int used_ = 4 * kPhiloxBlocks;
  uint32_t words_[4 * kPhiloxBlocks];
  bool has_spare_ = false;
  double spare_ = 0;
};

}  // namespace MS_ISA
}  // namespace megascale
