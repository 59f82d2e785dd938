// The interface of laws of whole histories: how loss follows a run's learning rate and batch over
// all of its steps. Flat arrays in, flat arrays out, as in engine.h; `history/family.h` states the
// law.
//
// A history is a list of pieces of constant learning rate and batch, of any (also broken) number of
// steps. A point is a loss measured where a piece ends.
#pragma once

#include <cstdint>

#include "engine.h"

namespace megascale {

// The parameters of the family, in the order of every array of parameters.
enum HistoryParam : int {
  kLInf,   // L_inf   loss without end
  kA,      // a       excess loss at the reference progress
  kP,      // p       exponent of progress
  kT0,     // T0      progress that counts as done at the start
  kU,      // u       exponent of the learning rate in progress
  kR,      // r       exponent of the batch in progress
  kBn,     // B_n     batch at which noise and signal of a step are equal; 0 for none
  kOmega,  // omega   forgetting of progress, in units of learning rate x weight decay
  kC,      // c       noise at the reference learning rate and batch
  kX,      // x       exponent of the learning rate in the noise
  kQ,      // q       exponent of the batch in the noise
  kTau,    // tau     memory of the noise
  kKappa,  // kappa   exponent of the memory's tail
  kC2,     // c2      noise of a second memory
  kTau2,   // tau2    its length
  kGamma,  // gamma   exponent of the learning rate in the memory's length
  kG,      // g       share of the noise that goes with the excess loss
  kNL,     // n_L     L_inf falls as N^-n_L over sizes N
  kNA,     // n_a     and a as N^-n_a
  kNC,     // n_c     and the noise as N^-n_c
  kHistoryParams
};

// How injected noise is forgotten over a distance v of the clock.
enum class Kernel : int32_t {
  kNone = 0,
  kExponential = 1,      // exp(-v / tau)
  kTwoExponentials = 2,  // c exp(-v / tau) + c2 exp(-v / tau2)
  kPower = 3,            // (1 + v / tau)^-kappa
  kDensity = 4,          // the density (1 + v / tau)^-(kappa + 1) itself, kappa > -1
};
enum class Clock : int32_t { kLr = 0, kProgress = 1, kSteps = 2 };
enum class Excess : int32_t { kNone = 0, kPlus = 1, kTimes = 2 };  // noise x (1 + g f), x f

struct HistoryJob {
  Kernel kernel = Kernel::kPower;
  Clock clock = Clock::kLr;
  Excess excess = Excess::kNone;
  bool annealing = false;  // the noise as a sum over changes, with a power-law memory
  bool saturated = false;  // the noise starts at its steady level, not at zero
  bool walk = false;       // only the loss reached matters (history/walk.h); no kernel
  double progress_ref = 1, batch_ref = 1;
  const int32_t* tied = nullptr;       // kHistoryParams: the parameter it follows, or -1
  const double* tie_factor = nullptr;  // kHistoryParams: value = factor x the other's value

  int64_t runs = 0;
  const int64_t* piece_offsets = nullptr;  // runs + 1
  const double* steps = nullptr;           // a piece
  const double* lr = nullptr;              // a piece, over the reference learning rate
  const double* batch = nullptr;           // a piece, tokens
  const double* decay = nullptr;           // a piece, learning rate x weight decay, or null
  const int64_t* settled = nullptr;        // a run: first piece with noise, or null
  const double* log_size = nullptr;        // a run: log(N / N_ref), or null for one size
  const int64_t* point_offsets = nullptr;  // runs + 1
  const int64_t* ends = nullptr;           // a point: pieces of its run behind it, ascending
};

struct HistoryFit {
  HistoryJob job;
  const double* y = nullptr;        // a point
  const double* weights = nullptr;  // a point, or null
  // Residuals of a run that are not independent (history/whitening.h), or null.
  const double* kept = nullptr;    // a point: correlation with the point before it in its run
  const double* common = nullptr;  // kCommon x points: shapes in which runs differ as a whole
  // kHistoryParams each. NaN in `fixed` leaves a parameter free.
  const double* lower = nullptr;
  const double* upper = nullptr;
  const double* fixed = nullptr;
  const double* prior = nullptr;         // mean, in the solver's coordinate
  const double* prior_weight = nullptr;  // of its squared distance, in units of squared residuals
  int starts = 0;
  const double* start = nullptr;  // starts x kHistoryParams; the linear parameters are solved for
  double tolerance = 1e-10;
  int max_iterations = 200;
  int threads = 1;
  int replicates = 0;  // bootstrap over runs
  uint64_t seed = 0;

  double* params = nullptr;          // kHistoryParams
  double* objective = nullptr;       // 1
  double* start_cost = nullptr;      // starts: objective that each reached
  double* start_params = nullptr;    // starts x kHistoryParams
  int32_t* iterations = nullptr;     // 1, over all starts
  int32_t* status = nullptr;         // 1
  double* boot_params = nullptr;     // replicates x kHistoryParams; NaN where one failed
  double* boot_objective = nullptr;  // replicates
};

constexpr int kMaxFreeHistory = 14;
constexpr int kCommon = 2;

// Where one start, or one replicate of the bootstrap, ended.
struct HistoryEnd {
  double cost = 1e300;
  double theta[kHistoryParams];
  int iterations = 0;
  int status = kInfeasible_;
};

// Names in the order of HistoryParam.
const char* const* history_param_names();
// Whether the solver's coordinate of a parameter is its logarithm.
bool history_log_coordinate(int param);

// values: sets x points; gradients (or null): sets x kHistoryParams x points, each parameter's own
// derivative with no regard to ties.
void predict_histories(const HistoryJob& job, int64_t sets, const double* params, double* values,
                       double* gradients);
void fit_histories(const HistoryFit& fit, Progress* progress);

}  // namespace megascale
