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

struct PhiloxBlock {
  uint32_t v[4];
};

MS_INLINE PhiloxBlock philox(PhiloxKey key, uint64_t stream, uint32_t replicate, uint32_t counter) {
  uint32_t c0 = counter, c1 = replicate;
  uint32_t c2 = static_cast<uint32_t>(stream), c3 = static_cast<uint32_t>(stream >> 32);
  uint32_t k0 = key.k0, k1 = key.k1;
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c0, p1 = uint64_t{0xCD9E8D57u} * c2;
    const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    const uint32_t n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// A sequence of draws for one (seed, problem, replicate).
class Draws {
 public:
  MS_HD Draws(uint64_t seed, uint64_t problem, uint32_t replicate)
      : key_{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)},
        stream_(problem),
        replicate_(replicate) {}

  MS_HD uint32_t word() {
    if (used_ == 4) {
      block_ = philox(key_, stream_, replicate_, counter_++);
      used_ = 0;
    }
    return block_.v[used_++];
  }
  // Uniform in (0, 1), 32 bits.
  MS_HD double uniform() { return (word() + 0.5) * 0x1p-32; }
  // Integer in [0, n); the bias is below n / 2^32.
  MS_HD uint32_t below(uint32_t n) {
    return static_cast<uint32_t>((uint64_t{word()} * n) >> 32);
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

 private:
  PhiloxKey key_;
  uint64_t stream_;
  uint32_t replicate_;
  uint32_t counter_ = 0;
  int used_ = 4;
  PhiloxBlock block_{};
  bool has_spare_ = false;
  double spare_ = 0;
};

}  // namespace MS_ISA
}  // namespace megascale
