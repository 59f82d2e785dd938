// L(S, B) = L_inf + a S^-p + c B^-q: loss after S steps of B tokens at one constant learning rate,
// over whole curves of many batch sizes.
//
// For a target L* with gap = L* - L_inf: S_min = (a/gap)^(1/p), B_min = (c/gap)^(1/q). For a token
// budget D = S B the best batch is B_opt = k D^e with e = p/(p+q), k = (c q / (a p))^(1/(p+q)).
#pragma once

#include "laws/two_terms.h"

namespace megascale {
inline namespace MS_ISA {

struct LossSurface : TwoTerms {
  static constexpr const char* kName = "loss_surface";
  static constexpr const char* kParamNames[] = {"L_inf", "a", "c", "p", "q"};
  static constexpr const char* kInputNames[] = {"S", "B"};
  static constexpr const char* kTargetName = "L";
  static constexpr MS_HD Coordinate coordinate(int i) {
    constexpr Coordinate kinds[] = {Coordinate::kLog, Coordinate::kLog, Coordinate::kLog,
                                    Coordinate::kLog, Coordinate::kLog};
    return kinds[i];
  }
  static constexpr int kDerived = 2;
  static constexpr const char* kDerivedNames[] = {"B_opt_coefficient", "B_opt_exponent"};

  static void derived(const double* p, double* out) {
    const double sum = p[3] + p[4];
    out[0] = std::pow(p[2] * p[4] / (p[1] * p[3]), 1 / sum);
    out[1] = p[3] / sum;
  }
};

}  // namespace MS_ISA
}  // namespace megascale
