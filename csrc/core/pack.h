// Lane vectors: one `Pack<W>` holds the same quantity of W problems.
//
// Every law and solver is a template over `Real`, which is `Pack<W>` on the CPU and `double` in a
// CUDA thread and in scalar host code. This header gives both the same vocabulary: arithmetic,
// comparison to a mask, `select`, `vmin`, `vmax`, `vsqrt`, `vabs`, `any`, `lane`.
//
// The inline namespace keeps one instruction set's instantiations apart from another's: the same
// source is compiled once per instruction set and the linker must never merge the copies.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define MS_HD __host__ __device__
#else
#define MS_HD
#endif

#if defined(__CUDACC__)
#define MS_INLINE __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define MS_INLINE inline __attribute__((always_inline))
#else
#define MS_INLINE inline
#endif

// For the big bodies: one copy per law, whatever the number of callers.
#if defined(__CUDACC__)
#define MS_NOINLINE __host__ __device__
#elif defined(__GNUC__)
#define MS_NOINLINE __attribute__((noinline))
#else
#define MS_NOINLINE
#endif

#if defined(__GNUC__) && !defined(__CUDACC__)
#define MS_HAS_PACK 1
#else
#define MS_HAS_PACK 0
#endif

#if MS_HAS_PACK && (defined(__AVX512F__) || defined(__AVX2__))
#include <immintrin.h>
#endif

#ifndef MS_ISA
#define MS_ISA baseline
#endif

namespace megascale {
inline namespace MS_ISA {

template <class Real>
struct RealTraits;

template <>
struct RealTraits<double> {
  static constexpr int kLanes = 1;
  using Mask = bool;
};

MS_INLINE double select(bool mask, double a, double b) { return mask ? a : b; }
MS_INLINE bool select(bool mask, bool a, bool b) { return mask ? a : b; }
MS_INLINE double vmin(double a, double b) { return a < b ? a : b; }
MS_INLINE double vmax(double a, double b) { return a > b ? a : b; }
MS_INLINE double vabs(double a) { return a < 0 ? -a : a; }
MS_INLINE double vsqrt(double a) { return std::sqrt(a); }
MS_INLINE bool any(bool mask) { return mask; }
MS_INLINE bool all(bool mask) { return mask; }
MS_INLINE double lane(double a, int) { return a; }
MS_INLINE bool lane(bool a, int) { return a; }
MS_INLINE void set_lane(double& a, int, double value) { a = value; }
MS_INLINE void set_lane(bool& a, int, bool value) { a = value; }
MS_INLINE double load(const double* p, double) { return *p; }
MS_INLINE double total(double a) { return a; }

#if MS_HAS_PACK

template <int W>
struct Native;
template <>
struct Native<2> {
  typedef double real __attribute__((vector_size(16)));
  typedef int64_t integer __attribute__((vector_size(16)));
  typedef uint64_t bits __attribute__((vector_size(16)));
};
template <>
struct Native<4> {
  typedef double real __attribute__((vector_size(32)));
  typedef int64_t integer __attribute__((vector_size(32)));
  typedef uint64_t bits __attribute__((vector_size(32)));
};
template <>
struct Native<8> {
  typedef double real __attribute__((vector_size(64)));
  typedef int64_t integer __attribute__((vector_size(64)));
  typedef uint64_t bits __attribute__((vector_size(64)));
};

template <int W>
struct PackMask {
  using Integer = typename Native<W>::integer;
  Integer v;
  MS_INLINE PackMask() : v{} {}
  MS_INLINE PackMask(Integer native) : v(native) {}
  MS_INLINE PackMask(bool value) : v(Integer{} - static_cast<int64_t>(value)) {}
  friend MS_INLINE PackMask operator&(PackMask a, PackMask b) { return {a.v & b.v}; }
  friend MS_INLINE PackMask operator|(PackMask a, PackMask b) { return {a.v | b.v}; }
  friend MS_INLINE PackMask operator&&(PackMask a, PackMask b) { return {a.v & b.v}; }
  friend MS_INLINE PackMask operator||(PackMask a, PackMask b) { return {a.v | b.v}; }
  friend MS_INLINE PackMask operator!(PackMask a) { return {~a.v}; }
};

template <int W>
struct Pack {
  using Vector = typename Native<W>::real;
  using Mask = PackMask<W>;
  Vector v;
  MS_INLINE Pack() : v{} {}
  MS_INLINE Pack(Vector native) : v(native) {}
  MS_INLINE Pack(double value) : v(Vector{} + value) {}
  MS_INLINE Pack& operator+=(Pack b) {
    v += b.v;
    return *this;
  }
  MS_INLINE Pack& operator-=(Pack b) {
    v -= b.v;
    return *this;
  }
  MS_INLINE Pack& operator*=(Pack b) {
    v *= b.v;
    return *this;
  }
  friend MS_INLINE Pack operator+(Pack a, Pack b) { return {a.v + b.v}; }
  friend MS_INLINE Pack operator-(Pack a, Pack b) { return {a.v - b.v}; }
  friend MS_INLINE Pack operator*(Pack a, Pack b) { return {a.v * b.v}; }
  friend MS_INLINE Pack operator/(Pack a, Pack b) { return {a.v / b.v}; }
  friend MS_INLINE Pack operator-(Pack a) { return {-a.v}; }
  friend MS_INLINE Mask operator<(Pack a, Pack b) { return {a.v < b.v}; }
  friend MS_INLINE Mask operator>(Pack a, Pack b) { return {a.v > b.v}; }
  friend MS_INLINE Mask operator<=(Pack a, Pack b) { return {a.v <= b.v}; }
  friend MS_INLINE Mask operator>=(Pack a, Pack b) { return {a.v >= b.v}; }
};

template <int W>
struct RealTraits<Pack<W>> {
  static constexpr int kLanes = W;
  using Mask = PackMask<W>;
};

template <int W>
MS_INLINE Pack<W> select(PackMask<W> mask, Pack<W> a, Pack<W> b) {
  return {mask.v ? a.v : b.v};
}
template <int W>
MS_INLINE Pack<W> select(PackMask<W> mask, double a, Pack<W> b) {
  return select(mask, Pack<W>(a), b);
}
template <int W>
MS_INLINE Pack<W> select(PackMask<W> mask, Pack<W> a, double b) {
  return select(mask, a, Pack<W>(b));
}
template <int W>
MS_INLINE PackMask<W> select(PackMask<W> mask, PackMask<W> a, PackMask<W> b) {
  return {(mask.v & a.v) | (~mask.v & b.v)};
}
template <int W>
MS_INLINE Pack<W> vmin(Pack<W> a, Pack<W> b) {
#if defined(__AVX512F__)
  if constexpr (W == 8)
    return {(typename Pack<W>::Vector)_mm512_min_pd((__m512d)a.v, (__m512d)b.v)};
#elif defined(__AVX2__)
  if constexpr (W == 4)
    return {(typename Pack<W>::Vector)_mm256_min_pd((__m256d)a.v, (__m256d)b.v)};
#endif
  return {a.v < b.v ? a.v : b.v};
}
template <int W>
MS_INLINE Pack<W> vmax(Pack<W> a, Pack<W> b) {
#if defined(__AVX512F__)
  if constexpr (W == 8)
    return {(typename Pack<W>::Vector)_mm512_max_pd((__m512d)a.v, (__m512d)b.v)};
#elif defined(__AVX2__)
  if constexpr (W == 4)
    return {(typename Pack<W>::Vector)_mm256_max_pd((__m256d)a.v, (__m256d)b.v)};
#endif
  return {a.v > b.v ? a.v : b.v};
}
template <int W>
MS_INLINE Pack<W> vsqrt(Pack<W> a) {
#if defined(__AVX512F__)
  if constexpr (W == 8) return {(typename Pack<W>::Vector)_mm512_sqrt_pd((__m512d)a.v)};
#elif defined(__AVX2__)
  if constexpr (W == 4) return {(typename Pack<W>::Vector)_mm256_sqrt_pd((__m256d)a.v)};
#endif
  for (int i = 0; i < W; ++i) a.v[i] = std::sqrt(a.v[i]);
  return a;
}
template <int W>
MS_INLINE Pack<W> vmin(Pack<W> a, double b) {
  return vmin(a, Pack<W>(b));
}
template <int W>
MS_INLINE Pack<W> vmax(Pack<W> a, double b) {
  return vmax(a, Pack<W>(b));
}
template <int W>
MS_INLINE Pack<W> vabs(Pack<W> a) {
  typename Native<W>::integer bits = (typename Native<W>::integer)a.v & INT64_MAX;
  return {(typename Pack<W>::Vector)bits};
}
template <int W>
MS_INLINE bool any(PackMask<W> m) {
  int64_t bits = 0;
  for (int i = 0; i < W; ++i) bits |= m.v[i];
  return bits != 0;
}
template <int W>
MS_INLINE bool all(PackMask<W> m) {
  return !any(!m);
}
template <int W>
MS_INLINE double lane(const Pack<W>& a, int i) {
  return a.v[i];
}
template <int W>
MS_INLINE bool lane(const PackMask<W>& a, int i) {
  return a.v[i] != 0;
}
template <int W>
MS_INLINE void set_lane(Pack<W>& a, int i, double value) {
  a.v[i] = value;
}
template <int W>
MS_INLINE void set_lane(PackMask<W>& a, int i, bool value) {
  a.v[i] = -static_cast<int64_t>(value);
}
template <int W>
MS_INLINE Pack<W> load(const double* p, Pack<W>) {
  Pack<W> out;
  std::memcpy(&out.v, p, sizeof(out.v));
  return out;
}

// The sum over lanes, in every lane; pairwise, in a fixed order: the halves, then their halves.
template <int W>
MS_INLINE double sum_of_lanes(Pack<W> a) {
  if constexpr (W == 2) {
    return a.v[0] + a.v[1];
  } else {
    Pack<W / 2> low, high;
    std::memcpy(&low.v, &a.v, sizeof(low.v));
    std::memcpy(&high.v, reinterpret_cast<const char*>(&a.v) + sizeof(low.v), sizeof(high.v));
    return sum_of_lanes(low + high);
  }
}
template <int W>
MS_INLINE Pack<W> total(Pack<W> a) {
  return Pack<W>(sum_of_lanes(a));
}

#endif  // MS_HAS_PACK

template <class Real>
MS_INLINE Real load(const double* p) {
  return load(p, Real());
}

// False for NaN and both infinities.
template <class Real>
MS_INLINE typename RealTraits<Real>::Mask finite(Real a) {
  return vabs(a) <= Real(1.7e308);
}

}  // namespace MS_ISA
}  // namespace megascale
