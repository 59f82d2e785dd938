// exp and log for `double` and lane vectors: the same polynomial everywhere, so that a CUDA thread,
// the scalar host body and a SIMD lane follow the same iterates (up to fused rounding).
//
// Errors below 1.5 ulp on the ranges the laws use (checked in tests/csrc).
#pragma once

#include "core/pack.h"

namespace megascale {
inline namespace MS_ISA {

// 2^n for integral n in [-1022, 1023], given n + kShift as a double.
constexpr double kShift = 6755399441055744.0;  // 1.5 * 2^52: the low bits hold the integer

MS_INLINE double power_of_two(double shifted) {
  int64_t bits;
  std::memcpy(&bits, &shifted, 8);
  bits = static_cast<int64_t>((static_cast<uint64_t>(bits) << 52) + (uint64_t{1023} << 52));
  double out;
  std::memcpy(&out, &bits, 8);
  return out;
}

// Splits a positive normal x into m in [sqrt(1/2), sqrt(2)) and the integer exponent.
MS_INLINE double split_exponent(double x, double* exponent) {
  int64_t bits;
  std::memcpy(&bits, &x, 8);
  const uint64_t raw = static_cast<uint64_t>(bits);
  const int64_t n = static_cast<int64_t>(raw - 0x3fe6a09e667f3bcdULL) >> 52;  // sqrt(1/2)
  bits = static_cast<int64_t>(raw - (static_cast<uint64_t>(n) << 52));
  *exponent = static_cast<double>(n);
  double m;
  std::memcpy(&m, &bits, 8);
  return m;
}

#if MS_HAS_PACK
template <int W>
MS_INLINE Pack<W> power_of_two(Pack<W> shifted) {
  using Bits = typename Native<W>::bits;
  Bits bits = (Bits)shifted.v;
  bits = (bits << 52) + (uint64_t{1023} << 52);
  return {(typename Pack<W>::Vector)bits};
}

template <int W>
MS_INLINE Pack<W> split_exponent(Pack<W> x, Pack<W>* exponent) {
  using Integer = typename Native<W>::integer;
  using Bits = typename Native<W>::bits;
  using Vector = typename Pack<W>::Vector;
  // Lanes without a positive number wrap; they are masked out by the caller.
  Bits bits = (Bits)x.v;
  Bits n = (Bits)((Integer)(bits - 0x3fe6a09e667f3bcdULL) >> 52);
  Bits shifted = n + (uint64_t)0x4338000000000000ULL;  // bits of kShift
  *exponent = Pack<W>((Vector)shifted) - Pack<W>(kShift);
  return {(Vector)(bits - (n << 52))};
}
#endif

template <class Real>
MS_INLINE Real vexp(Real x) {
  x = vmin(vmax(x, Real(-708.0)), Real(709.0));
  Real shifted = x * Real(1.4426950408889634) + Real(kShift);
  Real n = shifted - Real(kShift);
  Real r = x - n * Real(6.93147180369123816490e-01);
  r = r - n * Real(1.90821492927058770002e-10);
  // Taylor in Estrin form; |r| <= 0.3466, truncation below 2e-17.
  Real r2 = r * r, r4 = r2 * r2;
  Real p01 = Real(1.0) + r;
  Real p23 = Real(0.5) + r * Real(1.0 / 6);
  Real p45 = Real(1.0 / 24) + r * Real(1.0 / 120);
  Real p67 = Real(1.0 / 720) + r * Real(1.0 / 5040);
  Real p89 = Real(1.0 / 40320) + r * Real(1.0 / 362880);
  Real pab = Real(1.0 / 3628800) + r * Real(1.0 / 39916800);
  Real pcd = Real(1.0 / 479001600) + r * Real(1.0 / 6227020800.0);
  Real low = r2 * p23;
  Real mid = p45 + r2 * p67;
  Real high = p89 + r2 * (pab + r2 * pcd);
  Real p = p01 + (low + r4 * (mid + r4 * high));
  return p * power_of_two(shifted);
}

// Natural logarithm of a positive normal number; anything else gives a finite or huge value that
// the caller must have excluded.
template <class Real>
MS_INLINE Real vlog(Real x) {
  Real n;
  Real m = split_exponent(x, &n);
  Real f = m - Real(1.0);
  Real s = f / (Real(2.0) + f);
  Real z = s * s, w = z * z;
  Real t1 = w * (Real(3.999999999940941908e-01) +
                 w * (Real(2.222219843214978396e-01) + w * Real(1.531383769920937332e-01)));
  Real t2 = z * (Real(6.666666666666735130e-01) +
                 w * (Real(2.857142874366239149e-01) +
                      w * (Real(1.818357216161805012e-01) + w * Real(1.479819860511658591e-01))));
  Real half = Real(0.5) * f * f;
  Real tail = s * (half + t1 + t2) + n * Real(1.90821492927058770002e-10);
  return n * Real(6.93147180369123816490e-01) - ((half - tail) - f);
}

// x^p for x > 0.
template <class Real>
MS_INLINE Real vpow(Real x, Real p) {
  return vexp(p * vlog(x));
}

}  // namespace MS_ISA
}  // namespace megascale
