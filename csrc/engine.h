// The engine's public interface: flat arrays in, flat arrays out, no Python, no exceptions across
// it except std::bad_alloc.
//
// `core/law.h` explains the engine's words and variables and how a law is written. The code stands
// on floors, each of which includes only what is below it (tests/csrc compiles each on its own):
//
//   core/      arithmetic, solvers, the start strategy, the fit of one problem in a thread
//   laws/      one header a law, and the list of them
//   engine.h   this interface
//   problem/   from the caller's points to prepared problems, and from solutions to results
//   cpu/       many problems at once in SIMD lanes, one object file an instruction set
//   cuda/      one problem a thread
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "core/status.h"

namespace megascale {

// One batch of problems. Point i of problem p lies at offsets[p] + i of every column.
struct FitJob {
  int law = 0;
  Residual residual = Residual::kRelative;
  Loss loss = Loss::kSquared;
  double delta = 0;  // of the Huber loss
  int64_t problems = 0;
  const int64_t* offsets = nullptr;  // problems + 1
  const double* const* x = nullptr;  // one pointer per input
  const double* y = nullptr;
  const double* weights = nullptr;  // or null: all ones
  // Per problem and parameter, or null. NaN in `fixed` leaves a parameter free.
  const double* lower = nullptr;
  const double* upper = nullptr;
  const double* fixed = nullptr;
  const double* initial = nullptr;  // the only start, when given
  int starts = 0;                   // 0: diverse starts until enough agree; n: exactly n
  bool compatibility_grid = false;  // Chinchilla: the 4,500 starts of arXiv 2404.10102
  double tolerance = 1e-10;
  int max_iterations = 0;  // 0: the solver's default
  int threads = 1;

  // Results, problems long unless noted.
  double* params = nullptr;          // problems x P
  double* covariance = nullptr;      // problems x P (P + 1) / 2, packed lower triangle
  double* derived_errors = nullptr;  // problems x K, standard errors; or null: not wanted
  double* objective = nullptr;       // sum of squared residuals, or of Huber losses
  double* rms = nullptr;             // root of the weighted mean squared residual
  double* r_squared = nullptr;
  int32_t* points = nullptr;  // points of positive weight
  int32_t* free_params = nullptr;
  int32_t* iterations = nullptr;  // over all starts
  int32_t* starts_used = nullptr;
  int32_t* agreeing = nullptr;  // starts that reached the reported optimum
  int32_t* status = nullptr;
  uint32_t* flags = nullptr;
  int64_t* bad_row = nullptr;  // first offending point within the problem, or -1

  // Bootstrap (kNone: not run).
  Bootstrap bootstrap = Bootstrap::kNone;
  int replicates = 0;
  uint64_t seed = 0;
  int64_t first_problem = 0;         // number of problem 0 in the caller's batch, for the draws
  const int32_t* groups = nullptr;   // run of each point, 0.. per problem, for kRuns, kWildRuns
  bool known_noise = false;          // weights are 1 / variance: kParametric draws no scale
  double* boot_params = nullptr;     // problems x replicates x P; NaN where a replicate failed
  double* boot_objective = nullptr;  // problems x replicates
  // Or null: standard errors of each replicate's parameters and derived quantities, problems x
  // replicates x (P + K), for bootstraps that draw targets.
  double* boot_errors = nullptr;
};

struct LawInfo {
  std::string name;
  std::vector<std::string> params, inputs, derived;
  std::string target;
  Residual default_residual;
  bool tokens_steps;     // x = S, y = E
  bool positive_target;  // y must be positive
  std::vector<bool> positive_params;
};

const std::vector<LawInfo>& laws();

struct Progress {
  std::atomic<int64_t> done{0};     // problems finished
  std::atomic<bool> cancel{false};  // set it to stop soon; unreached problems get kCancelled
};

// Fits every problem on the CPU. The numbers do not depend on `threads`.
void fit(const FitJob& job, Progress* progress);

// Runs the body of a CUDA thread on the host, for every problem in turn.
void fit_scalar(const FitJob& job, Progress* progress);

// Derived quantities. params: n x P; values: n x K.
void derive(int law, int64_t n, const double* params, double* values);

// "avx512", "avx2" or "baseline": the widest the processor runs, or the one forced.
std::string instruction_set();
// Forces one; false if this machine or build lacks it. For tests and benchmarks.
bool force_instruction_set(const std::string& name);

}  // namespace megascale
