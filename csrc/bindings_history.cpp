// Python bindings of the laws of whole histories.
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "bindings.h"
#include "history.h"

namespace megascale::bindings {
namespace {

constexpr py::ssize_t P = kHistoryParams;

// A job and the arrays that it points into.
struct HeldJob {
  HistoryJob job;
  std::vector<py::object> held;

  template <class T>
  const T* keep(const py::dict& from, const char* name, py::ssize_t size) {
    if (!from.contains(name) || py::object(from[name]).is_none()) return nullptr;
    auto array = from[name].cast<Array<T>>();
    if (array.size() != size) throw std::invalid_argument(std::string(name) + ": wrong size");
    held.push_back(array);
    return array.data();
  }

  explicit HeldJob(const py::dict& d) {
    job.kernel = static_cast<Kernel>(d["kernel"].cast<int>());
    job.clock = static_cast<Clock>(d["clock"].cast<int>());
    job.excess = static_cast<Excess>(d["excess"].cast<int>());
    job.annealing = d["annealing"].cast<bool>();
    job.saturated = d["saturated"].cast<bool>();
    job.walk = d["walk"].cast<bool>();
    job.progress_ref = d["progress_ref"].cast<double>();
    job.batch_ref = d["batch_ref"].cast<double>();
    job.tied = keep<int32_t>(d, "tied", P);
    job.tie_factor = keep<double>(d, "tie_factor", P);
    job.runs = d["piece_offsets"].cast<Array<int64_t>>().size() - 1;
    if (job.runs < 0) throw std::invalid_argument("piece_offsets is empty");
    job.piece_offsets = keep<int64_t>(d, "piece_offsets", job.runs + 1);
    job.point_offsets = keep<int64_t>(d, "point_offsets", job.runs + 1);
    for (const int64_t* offsets : {job.piece_offsets, job.point_offsets}) {
      if (!offsets || offsets[0] != 0) throw std::invalid_argument("offsets must begin at 0");
      for (int64_t r = 0; r < job.runs; ++r)
        if (offsets[r + 1] < offsets[r]) throw std::invalid_argument("offsets must not decrease");
    }
    const int64_t pieces = job.piece_offsets[job.runs], points = job.point_offsets[job.runs];
    job.steps = keep<double>(d, "steps", pieces);
    job.lr = keep<double>(d, "lr", pieces);
    job.batch = keep<double>(d, "batch", pieces);
    job.decay = keep<double>(d, "decay", pieces);
    job.settled = keep<int64_t>(d, "settled", job.runs);
    job.log_size = keep<double>(d, "log_size", job.runs);
    job.ends = keep<int64_t>(d, "ends", points);
    if (!job.steps || !job.lr || !job.batch || !job.ends)
      throw std::invalid_argument("steps, lr, batch and ends are needed");
    for (int64_t r = 0; r < job.runs; ++r) {
      const int64_t n = job.piece_offsets[r + 1] - job.piece_offsets[r];
      for (int64_t i = job.point_offsets[r]; i < job.point_offsets[r + 1]; ++i)
        if (job.ends[i] < 0 || job.ends[i] > n ||
            (i > job.point_offsets[r] && job.ends[i] < job.ends[i - 1]))
          throw std::invalid_argument("ends must ascend within the pieces of a run");
    }
  }
};

py::tuple predict(const py::dict& job, const Array<double>& params, bool gradients) {
  const HeldJob held(job);
  const py::ssize_t points = held.job.point_offsets[held.job.runs];
  if (params.ndim() != 2 || params.shape(1) != P) throw std::invalid_argument("params: wrong size");
  const py::ssize_t sets = params.shape(0);
  Array<double> values({sets, points});
  Array<double> slopes({gradients ? sets : 0, P, points});
  double* value = values.mutable_data();
  double* slope = gradients ? slopes.mutable_data() : nullptr;
  {
    py::gil_scoped_release release;
    predict_histories(held.job, sets, params.data(), value, slope);
  }
  return py::make_tuple(values, slopes);
}

py::dict fit(const py::dict& job, const py::dict& options, const py::object& progress) {
  HeldJob held(job);
  const py::ssize_t points = held.job.point_offsets[held.job.runs];
  HistoryFit fit;
  fit.job = held.job;
  fit.y = held.keep<double>(options, "y", points);
  fit.weights = held.keep<double>(options, "weights", points);
  fit.kept = held.keep<double>(options, "kept", points);
  fit.common = held.keep<double>(options, "common", kCommon * points);
  fit.lower = held.keep<double>(options, "lower", P);
  fit.upper = held.keep<double>(options, "upper", P);
  fit.fixed = held.keep<double>(options, "fixed", P);
  fit.prior = held.keep<double>(options, "prior", P);
  fit.prior_weight = held.keep<double>(options, "prior_weight", P);
  const auto starts = options["start"].cast<Array<double>>();
  fit.starts = static_cast<int>(starts.size() / P);
  fit.start = held.keep<double>(options, "start", fit.starts * P);
  fit.tolerance = options["tolerance"].cast<double>();
  fit.max_iterations = options["max_iterations"].cast<int>();
  fit.threads = options["threads"].cast<int>();
  fit.replicates = options["replicates"].cast<int>();
  fit.seed = options["seed"].cast<uint64_t>();
  if (!fit.y || !fit.lower || !fit.upper || !fit.fixed || fit.starts < 1)
    throw std::invalid_argument("y, lower, upper, fixed and a start are needed");
  int free = 0;
  for (int k = 0; k < P; ++k)
    free += std::isnan(fit.fixed[k]) && !(held.job.tied && held.job.tied[k] >= 0);
  if (free > kMaxFreeHistory) throw std::invalid_argument("too many free parameters");

  Array<double> params(P), start_cost(fit.starts), start_params({fit.starts, int(P)});
  Array<double> boot_params({py::ssize_t(fit.replicates), P}), boot_objective(fit.replicates);
  std::fill_n(boot_params.mutable_data(), boot_params.size(), NAN);
  std::fill_n(boot_objective.mutable_data(), boot_objective.size(), NAN);
  double objective = NAN;
  int32_t iterations = 0, status = 0;
  fit.params = params.mutable_data();
  fit.start_cost = start_cost.mutable_data();
  fit.start_params = start_params.mutable_data();
  fit.boot_params = boot_params.mutable_data();
  fit.boot_objective = boot_objective.mutable_data();
  fit.objective = &objective;
  fit.iterations = &iterations;
  fit.status = &status;
  run_interruptible(progress, fit.starts + fit.replicates,
                    [&](Progress* state) { fit_histories(fit, state); });
  py::dict out;
  out["params"] = params;
  out["objective"] = objective;
  out["iterations"] = iterations;
  out["status"] = status;
  out["start_cost"] = start_cost;
  out["start_params"] = start_params;
  out["boot_params"] = boot_params;
  out["boot_objective"] = boot_objective;
  return out;
}

}  // namespace

void bind_histories(py::module_& m) {
  py::list names, logs;
  for (int k = 0; k < P; ++k) {
    names.append(history_param_names()[k]);
    logs.append(history_log_coordinate(k));
  }
  m.attr("history_params") = py::tuple(names);
  m.attr("history_log") = py::tuple(logs);
  m.attr("history_max_free") = kMaxFreeHistory;
  m.def("predict_histories", &predict, py::arg("job"), py::arg("params"), py::arg("gradients"));
  m.def("fit_histories", &fit, py::arg("job"), py::arg("options"), py::arg("progress"));
}

}  // namespace megascale::bindings
