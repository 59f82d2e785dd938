// Small dense symmetric systems held in registers: packed lower triangles, row by row.
#pragma once

#include "core/pack.h"

namespace megascale {
inline namespace MS_ISA {

constexpr MS_HD int packed(int i, int j) {
  return i >= j ? i * (i + 1) / 2 + j : j * (j + 1) / 2 + i;
}
constexpr MS_HD int packed_size(int n) { return n * (n + 1) / 2; }

// In-place Cholesky A = L L'. Pivots below `floor` are replaced by it, so that the factor of a
// singular matrix stays finite. The diagonal of the result holds 1 / L_ii.
template <int N, class Real>
MS_INLINE void cholesky(Real* a, Real floor) {
  for (int j = 0; j < N; ++j) {
    Real pivot = a[packed(j, j)];
    for (int k = 0; k < j; ++k) pivot -= a[packed(j, k)] * a[packed(j, k)];
    Real inverse = Real(1.0) / vsqrt(vmax(pivot, floor));
    a[packed(j, j)] = inverse;
    for (int i = j + 1; i < N; ++i) {
      Real sum = a[packed(i, j)];
      for (int k = 0; k < j; ++k) sum -= a[packed(i, k)] * a[packed(j, k)];
      a[packed(i, j)] = sum * inverse;
    }
  }
}

// Solves L L' x = b in place with the factor of `cholesky`.
template <int N, class Real>
MS_INLINE void cholesky_solve(const Real* l, Real* b) {
  for (int i = 0; i < N; ++i) {
    Real sum = b[i];
    for (int k = 0; k < i; ++k) sum -= l[packed(i, k)] * b[k];
    b[i] = sum * l[packed(i, i)];
  }
  for (int i = N - 1; i >= 0; --i) {
    Real sum = b[i];
    for (int k = i + 1; k < N; ++k) sum -= l[packed(k, i)] * b[k];
    b[i] = sum * l[packed(i, i)];
  }
}

// (L L')^-1, packed, from the factor of `cholesky`.
template <int N, class Real>
MS_INLINE void cholesky_inverse(const Real* l, Real* out) {
  Real m[packed_size(N)];  // L^-1
  for (int j = 0; j < N; ++j) {
    m[packed(j, j)] = l[packed(j, j)];
    for (int i = j + 1; i < N; ++i) {
      Real sum = l[packed(i, j)] * m[packed(j, j)];
      for (int k = j + 1; k < i; ++k) sum += l[packed(i, k)] * m[packed(k, j)];
      m[packed(i, j)] = -sum * l[packed(i, i)];
    }
  }
  for (int j = 0; j < N; ++j)
    for (int i = j; i < N; ++i) {
      Real sum = m[packed(i, i)] * m[packed(i, j)];
      for (int k = i + 1; k < N; ++k) sum += m[packed(k, i)] * m[packed(k, j)];
      out[packed(i, j)] = sum;
    }
}

}  // namespace MS_ISA
}  // namespace megascale
