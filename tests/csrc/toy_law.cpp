// Adding a law is one header and one registration line.
#include <vector>

#include "check.h"
#include "engine.h"

using namespace megascale;

int main() {
  const auto& all = laws();
  CHECK(all.back().name == "toy");
  std::vector<double> x, y;
  for (int i = 1; i <= 20; ++i) {
    x.push_back(1e6 * i);
    y.push_back(3e-4 + 2e-6 * std::sqrt(1e6 * i));
  }
  const int64_t offsets[2] = {0, 20};
  const double* inputs[1] = {x.data()};
  double params[2], covariance[3], objective, rms, r_squared, value, error;
  int32_t points, free_params, iterations, starts, agreeing, status;
  uint32_t flags;
  int64_t bad_row;
  FitJob job;
  job.law = static_cast<int>(all.size()) - 1;
  job.problems = 1;
  job.offsets = offsets;
  job.x = inputs;
  job.y = y.data();
  job.params = params;
  job.covariance = covariance;
  job.objective = &objective;
  job.rms = &rms;
  job.r_squared = &r_squared;
  job.points = &points;
  job.free_params = &free_params;
  job.iterations = &iterations;
  job.starts_used = &starts;
  job.agreeing = &agreeing;
  job.status = &status;
  job.flags = &flags;
  job.bad_row = &bad_row;
  Progress progress;
  fit(job, &progress);
  CHECK(status == kConverged);
  CHECK(close(params[0], 3e-4, 1e-9));
  CHECK(close(params[1], 2e-6, 1e-9));
  derive(job.law, 1, params, covariance, &value, &error);
  CHECK(close(value, 2e-6 / 3e-4, 1e-9));
  std::printf("%d failures\n", failures());
  return failures() == 0 ? 0 : 1;
}
