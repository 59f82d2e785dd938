// The public interface without Python: fits, statuses, threads, cancellation,
// the scalar body.
#include "engine.h"

#include <cstring>
#include <vector>

#include "check.h"
#include "core/rng.h"
#include "results.h"

using namespace megascale;

namespace {

struct Batch : Results {
  std::vector<int64_t> offsets{0};
  std::vector<double> s, e;
  FitJob job;
  const double* x[1];

  void add(const std::vector<double>& steps, const std::vector<double>& tokens) {
    s.insert(s.end(), steps.begin(), steps.end());
    e.insert(e.end(), tokens.begin(), tokens.end());
    offsets.push_back(static_cast<int64_t>(s.size()));
  }
  void run(const char* law, Residual residual, int threads, bool scalar = false,
           Progress* progress = nullptr) {
    for (size_t i = 0; i < laws().size(); ++i)
      if (laws()[i].name == law) job.law = static_cast<int>(i);
    job.problems = static_cast<int64_t>(offsets.size() - 1);
    job.residual = residual;
    job.threads = threads;
    job.tolerance = 1e-8;
    job.offsets = offsets.data();
    x[0] = s.data();
    job.x = x;
    job.y = e.data();
    attach(job);
    Progress own;
    if (scalar)
      fit_scalar(job, progress ? progress : &own);
    else
      fit(job, progress ? progress : &own);
  }
};

// E(S) with S_min 1, S_1 1.8, S_opt 2.6, S_2 4, C 0.3, E_min 5 and a little
// noise.
void piecewise(Batch& batch, int count, uint32_t seed, double noise) {
  Draws draws(11, seed, 0);
  std::vector<double> s(count), e(count);
  for (int i = 0; i < count; ++i) {
    s[i] = 1.25 * std::pow(6.0 / 1.25, double(i) / (count - 1));
    const double pole = 2 * 0.3 * 0.8 * 0.8 * 0.8;
    if (s[i] < 1.8)
      e[i] = pole / (s[i] - 1) + 0.3 * 0.64 + 5 - pole / 0.8;
    else if (s[i] <= 4)
      e[i] = 0.3 * (s[i] - 2.6) * (s[i] - 2.6) + 5;
    else
      e[i] = 0.3 * 1.96 + 5 + 2 * 0.3 * 1.4 * (s[i] - 4);
    e[i] *= 1 + noise * draws.normal();
  }
  batch.add(s, e);
}

void test_exact_recovery() {
  Batch batch;
  piecewise(batch, 24, 0, 0);
  batch.run("wsd", Residual::kRelative, 1);
  const double truth[6] = {1, 1.8, 2.6, 4, 0.3, 5};
  for (int i = 0; i < 6; ++i) CHECK(close(batch.params[i], truth[i], 1e-4));
  CHECK(batch.status[0] == kConverged);
  CHECK(batch.objective[0] < 1e-12);
}

void test_threads_are_invisible() {
  Batch one, many;
  for (uint32_t i = 0; i < 600; ++i) {
    piecewise(one, 12 + i % 9, i, 0.01);
    piecewise(many, 12 + i % 9, i, 0.01);
  }
  one.job.bootstrap = many.job.bootstrap = Bootstrap::kPairs;
  one.job.replicates = many.job.replicates = 5;
  one.run("wsd", Residual::kRay, 1);
  many.run("wsd", Residual::kRay, 4);
  CHECK(std::memcmp(one.params.data(), many.params.data(), one.params.size() * 8) == 0);
  CHECK(std::memcmp(one.covariance.data(), many.covariance.data(), one.covariance.size() * 8) == 0);
  CHECK(std::memcmp(one.boot.data(), many.boot.data(), one.boot.size() * 8) == 0);
}

void test_scalar_body() {
  Batch lanes, body;
  for (uint32_t i = 0; i < 50; ++i) {
    piecewise(lanes, 16, i, 0.01);
    piecewise(body, 16, i, 0.01);
  }
  lanes.run("wsd", Residual::kRelative, 1);
  body.run("wsd", Residual::kRelative, 1, true);
  int same = 0;
  for (int i = 0; i < 50; ++i) same += close(lanes.objective[i], body.objective[i], 1e-5);
  CHECK(same >= 48);
}

void test_statuses() {
  Batch batch;
  batch.add({1, 2, 3}, {3, 2, 3});
  batch.add({1, 2, 3, 4, 5, 6, 7}, {3, 2, 1, 1, NAN, 3, 4});
  batch.add({1, 2, 3, 4, 5, 6, 7}, {3, 2, 1, 0, 2, 3, 4});
  batch.add({2, 2, 2, 2, 2, 2, 2}, {3, 2, 1, 1, 2, 3, 4});
  batch.add({}, {});
  batch.run("wsd", Residual::kRelative, 2);
  CHECK(batch.status[0] == kTooFewPoints);
  CHECK(batch.status[1] == kNonFinite && batch.bad_row[1] == 4);
  CHECK(batch.status[2] == kNonPositive && batch.bad_row[2] == 3);
  CHECK(batch.status[3] == kConstant);
  CHECK(batch.status[4] == kTooFewPoints);
  for (double v : batch.params) CHECK(std::isnan(v));
}

void test_cancel() {
  Batch batch;
  for (uint32_t i = 0; i < 1000; ++i) piecewise(batch, 16, i, 0.01);
  Progress progress;
  progress.cancel = true;
  batch.run("wsd", Residual::kRelative, 2, false, &progress);
  for (int32_t status : batch.status) CHECK(status == kCancelled);
}

void test_derived() {
  Batch batch;
  piecewise(batch, 40, 1, 0.001);
  batch.run("wsd", Residual::kRelative, 1);
  double values[6];
  const double* errors = batch.derived_errors.data();
  derive(batch.job.law, 1, batch.params.data(), values);
  CHECK(close(values[0], 2 * 0.3 * 1.4, 0.02));
  CHECK(close(values[1], 5 / 2.6, 0.02));
  CHECK(errors[0] > 0 && errors[0] < 0.1 * values[0]);
}

}  // namespace

void test_engine() {
  const char* names[] = {"baseline", "avx2", "avx512"};
  for (const char* name : names) {
    if (!force_instruction_set(name)) continue;
    test_exact_recovery();
    test_threads_are_invisible();
    test_scalar_body();
    test_statuses();
    test_cancel();
    test_derived();
  }
}
