// Python bindings: flat arrays in, flat arrays out, no policy. The GIL is released while fitting;
// the calling thread wakes up to notice Ctrl-C and to report progress.
#include "bindings.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>

#include "engine.h"
#if defined(MEGASCALE_CUDA)
#include "cuda/engine_cuda.h"
#endif

using megascale::FitJob;
using namespace megascale::bindings;

namespace {

py::dict fit(int law, int residual, int loss, double delta, const Array<int64_t>& offsets,
             const Array<double>& x, const Array<double>& y, const py::object& weights,
             const py::object& lower, const py::object& upper, const py::object& fixed,
             const py::object& initial, int starts, bool compatibility_grid, double tolerance,
             int max_iterations, int threads, int bootstrap, int replicates, uint64_t seed,
             const py::object& groups, bool known_noise, bool studentise, const std::string& device,
             const py::object& progress) {
  const auto& laws = megascale::laws();
  if (law < 0 || law >= static_cast<int>(laws.size())) throw std::invalid_argument("no such law");
  const py::ssize_t P = laws[law].params.size(), X = laws[law].inputs.size();
  const py::ssize_t problems = offsets.size() - 1, points = y.size();
  if (problems < 0) throw std::invalid_argument("offsets is empty");
  if (x.ndim() != 2 || x.shape(0) != X || x.shape(1) != points)
    throw std::invalid_argument("x must hold one row per input and one column per point");
  const int64_t* at = offsets.data();
  if (problems > 0 && at[0] < 0) throw std::invalid_argument("offsets must not be negative");
  for (py::ssize_t i = 0; i < problems; ++i)
    if (at[i + 1] < at[i]) throw std::invalid_argument("offsets must not decrease");
  if (at[problems] > points) throw std::invalid_argument("offsets reach past the points");

  FitJob job;
  job.law = law;
  job.residual = static_cast<megascale::Residual>(residual);
  job.loss = static_cast<megascale::Loss>(loss);
  job.delta = delta;
  job.problems = problems;
  job.offsets = at;
  std::vector<const double*> inputs(X);
  for (py::ssize_t k = 0; k < X; ++k) inputs[k] = x.data() + k * points;
  job.x = inputs.data();
  job.y = y.data();
  job.weights = optional_data<double>(weights, points, "weights");
  job.lower = optional_data<double>(lower, problems * P, "lower");
  job.upper = optional_data<double>(upper, problems * P, "upper");
  job.fixed = optional_data<double>(fixed, problems * P, "fixed");
  job.initial = optional_data<double>(initial, problems * P, "initial");
  job.groups = optional_data<int32_t>(groups, points, "groups");
  job.starts = starts;
  job.compatibility_grid = compatibility_grid;
  job.tolerance = tolerance;
  job.max_iterations = max_iterations;
  job.threads = threads;
  job.bootstrap = static_cast<megascale::Bootstrap>(bootstrap);
  job.replicates = replicates;
  job.seed = seed;
  job.known_noise = known_noise;

  py::dict out;
  auto params = make<double>({problems, P});
  auto covariance = make<double>({problems, P * (P + 1) / 2});
  auto derived_errors =
      make<double>({problems, static_cast<py::ssize_t>(laws[law].derived.size())});
  auto objective = make<double>({problems}), rms = make<double>({problems}),
       r_squared = make<double>({problems});
  auto counts = make<int32_t>({problems}), free_params = make<int32_t>({problems}),
       iterations = make<int32_t>({problems}), starts_used = make<int32_t>({problems}),
       agreeing = make<int32_t>({problems}), status = make<int32_t>({problems});
  auto flags = make<uint32_t>({problems});
  auto bad_row = make<int64_t>({problems});
  const bool boot = job.bootstrap != megascale::Bootstrap::kNone && replicates > 0;
  auto boot_params = make<double>({boot ? problems : 0, boot ? replicates : 0, P});
  auto boot_objective = make<double>({boot ? problems : 0, boot ? replicates : 0});
  const bool keep = boot && studentise;
  const py::ssize_t quantities = P + static_cast<py::ssize_t>(laws[law].derived.size());
  auto boot_errors = make<double>({keep ? problems : 0, keep ? replicates : 0, quantities});
  if (boot) {
    std::fill_n(boot_errors.mutable_data(), boot_errors.size(), NAN);
    std::fill_n(boot_params.mutable_data(), boot_params.size(), py::float_(NAN).cast<double>());
    std::fill_n(boot_objective.mutable_data(), boot_objective.size(), NAN);
  } else {
    job.bootstrap = megascale::Bootstrap::kNone;
  }
  job.params = params.mutable_data();
  job.covariance = covariance.mutable_data();
  job.derived_errors = derived_errors.mutable_data();
  job.objective = objective.mutable_data();
  job.rms = rms.mutable_data();
  job.r_squared = r_squared.mutable_data();
  job.points = counts.mutable_data();
  job.free_params = free_params.mutable_data();
  job.iterations = iterations.mutable_data();
  job.starts_used = starts_used.mutable_data();
  job.agreeing = agreeing.mutable_data();
  job.status = status.mutable_data();
  job.flags = flags.mutable_data();
  job.bad_row = bad_row.mutable_data();
  job.boot_params = boot_params.mutable_data();
  job.boot_objective = boot_objective.mutable_data();
  if (keep) job.boot_errors = boot_errors.mutable_data();

  run_interruptible(progress, problems, [&](megascale::Progress* state) {
    if (device == "cpu") {
      megascale::fit(job, state);
    } else if (device == "scalar") {
      megascale::fit_scalar(job, state);
#if defined(MEGASCALE_CUDA)
    } else if (device == "cuda") {
      megascale::fit_cuda(job, state);
#endif
    } else {
      throw std::invalid_argument("no such device: " + device);
    }
  });

  out["params"] = params;
  out["covariance"] = covariance;
  out["derived_errors"] = derived_errors;
  out["objective"] = objective;
  out["rms"] = rms;
  out["r_squared"] = r_squared;
  out["points"] = counts;
  out["free_params"] = free_params;
  out["iterations"] = iterations;
  out["starts"] = starts_used;
  out["agreeing"] = agreeing;
  out["status"] = status;
  out["flags"] = flags;
  out["bad_row"] = bad_row;
  if (boot) {
    out["boot_params"] = boot_params;
    out["boot_objective"] = boot_objective;
    if (keep) out["boot_errors"] = boot_errors;
  }
  return out;
}

py::list describe_laws() {
  py::list out;
  for (const megascale::LawInfo& law : megascale::laws()) {
    py::dict row;
    row["name"] = law.name;
    row["params"] = law.params;
    row["inputs"] = law.inputs;
    row["derived"] = law.derived;
    row["target"] = law.target;
    row["default_residual"] = static_cast<int>(law.default_residual);
    row["tokens_steps"] = law.tokens_steps;
    row["positive_target"] = law.positive_target;
    row["positive_params"] = law.positive_params;
    out.append(row);
  }
  return out;
}

Array<double> derive(int law, const Array<double>& params) {
  const auto& info = megascale::laws().at(law);
  const py::ssize_t n = params.shape(0), P = info.params.size(), K = info.derived.size();
  if (params.ndim() != 2 || params.shape(1) != P)
    throw std::invalid_argument("params has the wrong shape");
  auto values = make<double>({n, K});
  if (K > 0) megascale::derive(law, n, params.data(), values.mutable_data());
  return values;
}

}  // namespace

PYBIND11_MODULE(_engine, m) {
  m.doc() = "Batched scaling-law fits. Use megascale.fitting, not this module.";
  m.def("fit", &fit, py::kw_only(), py::arg("law"), py::arg("residual"), py::arg("loss"),
        py::arg("delta"), py::arg("offsets"), py::arg("x"), py::arg("y"), py::arg("weights"),
        py::arg("lower"), py::arg("upper"), py::arg("fixed"), py::arg("initial"), py::arg("starts"),
        py::arg("compatibility_grid"), py::arg("tolerance"), py::arg("max_iterations"),
        py::arg("threads"), py::arg("bootstrap"), py::arg("replicates"), py::arg("seed"),
        py::arg("groups"), py::arg("known_noise") = false, py::arg("studentise") = false,
        py::arg("device"), py::arg("progress"));
  m.def("laws", &describe_laws);
  m.def("derive", &derive, py::arg("law"), py::arg("params"));
  bind_histories(m);
  m.def("instruction_set", &megascale::instruction_set);
  m.def("force_instruction_set", &megascale::force_instruction_set);
#if defined(MEGASCALE_CUDA)
  m.attr("built_with_cuda") = true;
  m.def("cuda_devices", &megascale::cuda_devices);
#else
  m.attr("built_with_cuda") = false;
  m.def("cuda_devices", [] { return 0; });
#endif
}
