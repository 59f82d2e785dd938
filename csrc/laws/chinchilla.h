// L(N, D) = E + A / N^alpha + B / D^beta (arXiv 2203.15556), fitted on log L with the Huber loss
// (arXiv 2404.10102) or by plain least squares.
//
// Derived: along C = 6 N D the optimum is N = G (C/6)^a, D = (C/6)^b / G with a =
// beta/(alpha+beta), b = alpha/(alpha+beta), G = (alpha A / (beta B))^(1/(alpha+beta)).
#pragma once

#include "laws/two_terms.h"

namespace megascale {
inline namespace MS_ISA {

struct Chinchilla : TwoTerms {
  static constexpr const char* kName = "chinchilla";
  static constexpr const char* kParamNames[] = {"E", "A", "B", "alpha", "beta"};
  static constexpr const char* kInputNames[] = {"N", "D"};
  static constexpr const char* kTargetName = "L";
  static constexpr Residual kDefault = Residual::kLog;
  static constexpr MS_HD Coordinate coordinate(int i) {
    constexpr Coordinate kinds[] = {Coordinate::kLog, Coordinate::kLog, Coordinate::kLog,
                                    Coordinate::kIdentity, Coordinate::kIdentity};
    return kinds[i];
  }
  static constexpr int kDerived = 3;
  static constexpr const char* kDerivedNames[] = {"a", "b", "G"};

  static void derived(const double* p, double* out) {
    const double sum = p[3] + p[4];
    out[0] = p[4] / sum;
    out[1] = p[3] / sum;
    out[2] = std::pow(p[3] * p[1] / (p[4] * p[2]), 1 / sum);
  }
};

}  // namespace MS_ISA
}  // namespace megascale
