// The two changes of variables between a law's coordinates u and the solver's t, one coordinate at
// a time. `core/law.h` says what t, u and the anchor are.
#pragma once

#include "core/elementary.h"

namespace megascale {
inline namespace MS_ISA {

// How a coordinate u follows from the solver's unbounded t: u = exp(t), u = t, or
// u = anchor / (1 + exp(-t)), which lies between 0 and the anchor.
enum class Coordinate { kLog, kIdentity, kLogit };

constexpr double kLimitT = 700;  // |t| of a logarithmic coordinate at its natural limit

// t of a given u: of a bound, of a value held fixed, of a start the caller gave.
template <class Law>
inline double to_solver(int i, double u, double anchor) {
  if (Law::coordinate(i) == Coordinate::kLog) {
    if (!(u > 0)) return -kLimitT;
    return vmin(std::log(u), kLimitT);
  }
  if (Law::coordinate(i) == Coordinate::kLogit) {
    const double share = u / anchor;
    if (!(share > 0)) return -kLimitT;
    if (share >= 1) return 30.0;
    return std::log(share / (1 - share));
  }
  return u;
}

// u of a given t.
template <class Law>
inline double from_solver(int i, double t, double anchor) {
  if (Law::coordinate(i) == Coordinate::kLog) return vexp(t);
  if (Law::coordinate(i) == Coordinate::kLogit) return anchor / (1 + vexp(-t));
  return t;
}

// t of a start that the search found, kept away from the limits where derivatives vanish: a logit
// coordinate stays below 0.99 of its limit.
template <class Law>
MS_HD inline double start_coordinate(int i, double u, double anchor) {
  if (Law::coordinate(i) == Coordinate::kLog)
    return u > 0 ? vmin(vlog(vmax(u, 1e-300)), kLimitT) : -kLimitT;
  if (Law::coordinate(i) == Coordinate::kLogit) {
    const double share = vmin(vmax(u / anchor, 1e-300), 0.99);
    return vlog(share / (1 - share));
  }
  return u;
}

}  // namespace MS_ISA
}  // namespace megascale
