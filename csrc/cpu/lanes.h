// Drives a machine over a list of tasks, W at a time, one per SIMD lane. A lane that finishes takes
// the next task at once, so that one slow fit does not hold up the other lanes.
//
// A lane's arithmetic never looks at its neighbours, so a task's result does not depend on which
// lane it runs in or beside which tasks.
#pragma once

#include <cstddef>
#include <type_traits>

#include "core/pack.h"

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

}  // namespace MS_ISA
}  // namespace megascale
