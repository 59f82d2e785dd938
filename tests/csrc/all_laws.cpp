// Every law through every path: lanes and wide problems, all residuals and losses, bootstraps, the
// scalar body. What is checked holds for any data; a sanitizer build checks the rest.
#include <cmath>
#include <vector>

#include "check.h"
#include "core/rng.h"
#include "engine.h"
#include "results.h"

using namespace megascale;

namespace {

constexpr int kReplicates = 3;

struct Case {
  Residual residual;
  Loss loss;
  Bootstrap bootstrap;
  bool scalar;
};

class Problems {
 public:
  // Sizes below and above what is fitted across lanes, and one too small for any law. Each input
  // grows along the points; the target falls and rises again, as a law of tokens and steps does.
  Problems(int law, int inputs) : law_(law), columns_(inputs) {
    Draws draws(17, law, 0);
    for (const int count : {24, 2, 13, 60, 31}) {
      for (int i = 0; i < count; ++i) {
        const double at = 1.25 + 4.75 * i / (count - 1);
        for (auto& column : columns_) column.push_back(at * (0.6 + 0.8 * draws.uniform()));
        columns_[0].back() = at;
        y_.push_back((5 + 0.3 * (at - 2.6) * (at - 2.6)) * (1 + 0.01 * draws.normal()));
        groups_.push_back(i % 6);
      }
      offsets_.push_back(static_cast<int64_t>(y_.size()));
    }
    for (const auto& column : columns_) inputs_.push_back(column.data());
  }

  void run(const Case& c) {
    const size_t n = offsets_.size() - 1, P = laws()[law_].params.size();
    const double unset = 12345;
    FitJob job;
    job.law = law_;
    job.residual = c.residual;
    job.loss = c.loss;
    job.delta = 0.01;
    job.problems = static_cast<int64_t>(n);
    job.offsets = offsets_.data();
    job.x = inputs_.data();
    job.y = y_.data();
    job.max_iterations = 60;
    job.threads = 2;
    job.bootstrap = c.bootstrap;
    job.replicates = kReplicates;
    job.groups = groups_.data();
    Results all;
    all.attach(job, unset);
    Progress progress;
    if (c.scalar)
      fit_scalar(job, &progress);
    else
      fit(job, &progress);
    CHECK(progress.done == job.problems);
    for (size_t i = 0; i < n; ++i) {
      CHECK(all.status[i] >= 0);
      // Found: all numbers; not found: none.
      const bool found = !std::isnan(all.params[i * P]);
      CHECK(found || all.status[i] != kConverged);
      for (size_t k = 0; k < P; ++k) {
        const double value = all.params[i * P + k];
        CHECK(found ? std::isfinite(value) && value != unset : std::isnan(value));
      }
      CHECK(!found || (all.objective[i] >= 0 && all.objective[i] != unset));
      if (c.bootstrap != Bootstrap::kNone)
        for (size_t k = i * P * kReplicates; k < (i + 1) * P * kReplicates; ++k)
          CHECK(found ? all.boot[k] != unset : std::isnan(all.boot[k]));
    }
  }

 private:
  int law_;
  std::vector<std::vector<double>> columns_;
  std::vector<const double*> inputs_;
  std::vector<double> y_;
  std::vector<int32_t> groups_;
  std::vector<int64_t> offsets_{0};
};

}  // namespace

void test_all_laws() {
  const Case cases[] = {
      {Residual::kRelative, Loss::kSquared, Bootstrap::kNone, false},
      {Residual::kLog, Loss::kSquared, Bootstrap::kPairs, false},
      {Residual::kAbsolute, Loss::kSquared, Bootstrap::kParametric, false},
      {Residual::kLog, Loss::kHuber, Bootstrap::kRuns, false},
      {Residual::kRelative, Loss::kSquared, Bootstrap::kWild, false},
      {Residual::kAbsolute, Loss::kSquared, Bootstrap::kWildRuns, false},
      {Residual::kRelative, Loss::kSquared, Bootstrap::kNone, true},
      {Residual::kLog, Loss::kSquared, Bootstrap::kNone, true},
  };
  for (size_t law = 0; law < laws().size(); ++law) {
    Problems problems(static_cast<int>(law), static_cast<int>(laws()[law].inputs.size()));
    for (const Case& c : cases) problems.run(c);
    if (laws()[law].tokens_steps)
      problems.run({Residual::kRay, Loss::kSquared, Bootstrap::kPairs, false});
  }
}
