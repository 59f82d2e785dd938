// Outcome of one problem. The numbers are part of the Python interface: append only.
#pragma once

#include <cstdint>

namespace megascale {

enum Status : int32_t {
  kConverged = 0,
  kMaxIterations = 1,  // the iteration budget ran out first
  kStalled = 2,        // no step lowers the objective, yet the model still predicts a decrease
  kTooFewPoints = 3,   // fewer points (of positive weight) than free parameters
  kNonFinite = 4,      // NaN or infinity among the inputs
  kNonPositive = 5,    // zero or negative where a logarithm or a ratio is taken
  kConstant = 6,       // an input or the target does not vary
  kInfeasible_ = 7,    // no start gave a finite objective
  kBadWeight = 8,      // negative weight
  kBadBounds = 9,      // lower above upper, or a start outside
  kCancelled = 10,     // stopped by the caller before this problem was reached
  kNoFit = 11,         // the law's shape is absent (for instance a non-convex parabola)
};

enum Flag : uint32_t {
  kWeakParameter = 0x1,         // shifted left by the parameter's index: bits 0 to 15
  kAtBound = 1u << 16,          // a parameter sits on its bound or at its natural limit
  kFewBranchPoints = 1u << 17,  // a branch of a piecewise law holds fewer than three points
  kEmptyBranch = 1u << 18,      // a branch holds no point
  kStartsDisagree = 1u << 19,   // only one search found the reported optimum
  kIllConditioned = 1u << 20,   // correlation matrix of the parameters is close to singular
  kNoFreedom = 1u << 21,        // as many parameters as points: no error estimate
  kUnreachable = 1u << 22,      // the right branch starts below the origin (A_0 <= 0)
  kNotConvex = 1u << 23,        // a quadratic without an interior minimum
};

enum class Residual : int32_t { kRelative = 0, kLog = 1, kAbsolute = 2, kRay = 3 };
enum class Loss : int32_t { kSquared = 0, kHuber = 1 };
enum class Bootstrap : int32_t {
  kNone = 0,
  kParametric = 1,  // new noise of the fitted size
  kPairs = 2,       // points with replacement
  kRuns = 3,        // whole runs with replacement
  kWild = 4,        // each point's own residual with a random factor
  kWildRuns = 5,    // the same with one factor a run
};

}  // namespace megascale
