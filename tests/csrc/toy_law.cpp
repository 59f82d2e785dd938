// Adding a law is one header and one registration line: the law of core/law.h's page is fitted.
#include <vector>

#include "check.h"
#include "engine.h"
#include "results.h"

using namespace megascale;

namespace {

// y = 3e-4 + 2e-3 exp(-x / 4e6), far from one in both units.
void fit_exact_points(bool scalar, Results& results, FitJob& job) {
  static std::vector<double> x, y;
  x.clear();
  y.clear();
  for (int i = 1; i <= 20; ++i) {
    x.push_back(1e6 * i);
    y.push_back(3e-4 + 2e-3 * std::exp(-x.back() / 4e6));
  }
  static const int64_t offsets[2] = {0, 20};
  static const double* inputs[1];
  inputs[0] = x.data();
  job.law = static_cast<int>(laws().size()) - 1;
  job.problems = 1;
  job.offsets = offsets;
  job.x = inputs;
  job.y = y.data();
  results.attach(job);
  Progress progress;
  if (scalar)
    fit_scalar(job, &progress);
  else
    fit(job, &progress);
}

}  // namespace

int main() {
  CHECK(laws().back().name == "toy");
  for (const bool scalar : {false, true}) {
    Results found;
    FitJob job;
    fit_exact_points(scalar, found, job);
    CHECK(found.status[0] == kConverged);
    CHECK(close(found.params[0], 3e-4, 1e-8));
    CHECK(close(found.params[1], 2e-3, 1e-8));
    CHECK(close(found.params[2], 2.5e-7, 1e-8));
    double value;
    derive(job.law, 1, found.params.data(), &value);
    CHECK(close(value, std::log(2.0) * 4e6, 1e-8));
    CHECK(found.derived_errors[0] >= 0 && found.derived_errors[0] < 1e-6 * value);
  }
  std::printf("%d failures\n", failures());
  return failures() == 0 ? 0 : 1;
}
