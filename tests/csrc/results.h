// Memory for everything a job writes.
#pragma once

#include <cstdint>
#include <vector>

#include "engine.h"

struct Results {
  std::vector<double> params, covariance, derived_errors, objective, rms, r_squared, boot,
      boot_objective;
  std::vector<int32_t> points, free_params, iterations, starts, agreeing, status;
  std::vector<uint32_t> flags;
  std::vector<int64_t> bad_row;

  // Sizes all of it for the job's law, problems and replicates, and hands it over.
  void attach(megascale::FitJob& job, double unset = 0) {
    const size_t n = static_cast<size_t>(job.problems);
    const size_t P = megascale::laws()[job.law].params.size();
    params.assign(n * P, unset);
    covariance.assign(n * P * (P + 1) / 2, unset);
    derived_errors.assign(n * megascale::laws()[job.law].derived.size(), unset);
    boot.assign(n * P * job.replicates, unset);
    boot_objective.assign(n * job.replicates, unset);
    for (auto* v : {&objective, &rms, &r_squared}) v->assign(n, unset);
    for (auto* v : {&points, &free_params, &iterations, &starts, &agreeing}) v->assign(n, 0);
    status.assign(n, -1);
    flags.assign(n, 0);
    bad_row.assign(n, 0);
    job.params = params.data();
    job.covariance = covariance.data();
    job.derived_errors = derived_errors.data();
    job.objective = objective.data();
    job.rms = rms.data();
    job.r_squared = r_squared.data();
    job.points = points.data();
    job.free_params = free_params.data();
    job.iterations = iterations.data();
    job.starts_used = starts.data();
    job.agreeing = agreeing.data();
    job.status = status.data();
    job.flags = flags.data();
    job.bad_row = bad_row.data();
    job.boot_params = boot.data();
    job.boot_objective = boot_objective.data();
  }
};
