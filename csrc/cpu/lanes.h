// Drives a machine over a list of tasks, W at a time, one per SIMD lane. A lane that finishes takes
// the next task at once, so that one slow fit does not hold up the other lanes.
//
// A lane's arithmetic never looks at its neighbours, so a task's result does not depend on which
// lane it runs in or beside which tasks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "core/pack.h"
#include "core/recycle.h"

namespace megascale {
inline namespace MS_ISA {

template <class Machine, class = void>
struct IsLockstep : std::false_type {};
template <class Machine>
struct IsLockstep<Machine, std::void_t<decltype(Machine::kLockstep)>> : std::true_type {};

// Source: `load(machine, task, lane)` fills the lane's columns and start; `store(machine, task,
// lane)` takes the result; `stop()` is asked now and then. Returns false when stopped.
template <class Machine, class Source>
bool run_lanes(Machine& machine, Source& source, size_t tasks) {
  using Real = typename Machine::Real;
  using Mask = typename Machine::Mask;
  constexpr int W = RealTraits<Real>::kLanes;
  if (tasks == 0) return true;
  size_t task_of[W];
  bool busy[W] = {};
  size_t next = 0, left = tasks;
  machine.done = Mask(true);
  // Every lane needs valid data from the first iteration on.
  for (int l = 0; l < W; ++l) source.load(machine, 0, l);
  int rounds = 0;
  for (;;) {
    bool collect = any(machine.done);
    if (IsLockstep<Machine>::value) collect = all(machine.done);
    if (collect) {
      Mask fresh(false);
      bool some = false;
      for (int l = 0; l < W; ++l) {
        if (!lane(machine.done, l)) continue;
        if (busy[l]) {
          source.store(machine, task_of[l], l);
          busy[l] = false;
          --left;
        }
        if (next < tasks) {
          task_of[l] = next++;
          busy[l] = true;
          source.load(machine, task_of[l], l);
          set_lane(fresh, l, true);
          some = true;
        }
      }
      if (left == 0) return true;
      if (some) {
        machine.admit(fresh);
        continue;
      }
    }
    machine.iterate();
    if (++rounds % 64 == 0 && source.stop()) return false;
  }
}

// Problems of at least this many points spread over the lanes of one vector instead: their columns
// are read in place, and the sums of the lanes added at the end of each pass.
constexpr int kWide = 48;

// Runs tasks one after the other, each across all lanes. `Source::load_wide` sets the machine up.
template <class Machine, class Source>
bool run_wide(Machine& machine, Source& source, const Pooled<uint32_t>& tasks) {
  using Mask = typename Machine::Mask;
  machine.problem.across = true;
  for (const uint32_t task : tasks) {
    source.load_wide(machine, task);
    machine.done = Mask(true);
    machine.admit(Mask(true));
    int rounds = 0;
    while (!lane(machine.done, 0)) {
      machine.iterate();
      if (++rounds % 64 == 0 && source.stop()) return false;
    }
    source.store(machine, task, 0);
    if (source.stop()) return false;
  }
  return true;
}

// A source seen through a list of task numbers.
template <class Source>
struct Subset {
  Source& source;
  const Pooled<uint32_t>& tasks;
  template <class Machine>
  void load(Machine& m, size_t i, int l) {
    source.load(m, tasks[i], l);
  }
  template <class Machine>
  void store(const Machine& m, size_t i, int l) {
    source.store(m, tasks[i], l);
  }
  bool stop() const { return source.stop(); }
};

// Splits tasks by the size of their problem and runs both kinds.
template <class Machine, class Source>
bool run_tasks(Machine& machine, Source& source, size_t count) {
  Pooled<uint32_t> narrow, wide;
  for (size_t i = 0; i < count; ++i)
    (source.points(i) >= kWide ? wide : narrow).push_back(static_cast<uint32_t>(i));
  Subset<Source> subset{source, narrow};
  if (!run_lanes(machine, subset, narrow.size())) return false;
  return run_wide(machine, source, wide);
}

}  // namespace MS_ISA
}  // namespace megascale
