// What the bindings share: arrays of Python as plain pointers, and calls that Ctrl-C can stop.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>

#include "engine.h"

namespace py = pybind11;

namespace megascale::bindings {

template <class T>
using Array = py::array_t<T, py::array::c_style>;

template <class T>
const T* optional_data(const py::object& value, py::ssize_t size, const char* name) {
  if (value.is_none()) return nullptr;
  auto array = value.cast<Array<T>>();
  if (array.size() != size) throw std::invalid_argument(std::string(name) + " has the wrong size");
  return array.data();
}

template <class T>
Array<T> make(std::vector<py::ssize_t> shape) {
  return Array<T>(shape);
}

// Runs `body(progress)` on another thread and waits for it, awake every 50 ms.
template <class Body>
void run_interruptible(const py::object& callback, int64_t total, Body body) {
  megascale::Progress progress;
  std::mutex lock;
  std::condition_variable finished;
  bool done = false;
  std::exception_ptr failure;
  std::thread worker([&] {
    try {
      body(&progress);
    } catch (...) {
      failure = std::current_exception();
    }
    const std::lock_guard<std::mutex> hold(lock);
    done = true;
    finished.notify_one();
  });
  bool interrupted = false;
  {
    py::gil_scoped_release release;
    std::unique_lock<std::mutex> hold(lock);
    while (!finished.wait_for(hold, std::chrono::milliseconds(50), [&] { return done; })) {
      hold.unlock();
      {
        py::gil_scoped_acquire acquire;
        try {
          if (PyErr_CheckSignals() != 0) throw py::error_already_set();
          if (!callback.is_none()) callback(progress.done.load(), total);
        } catch (...) {
          failure = std::current_exception();
          interrupted = true;
        }
      }
      if (interrupted) progress.cancel = true;
      hold.lock();
      if (interrupted) finished.wait(hold, [&] { return done; });
    }
  }
  worker.join();
  if (failure) std::rethrow_exception(failure);
  if (!callback.is_none()) callback(total, total);
}

void bind_histories(py::module_& m);

}  // namespace megascale::bindings
