// The CUDA back end: one problem a thread, taken from a work queue.
#pragma once

#include "engine.h"

namespace megascale {

// Devices present; 0 where the driver is missing.
int cuda_devices();

// Fits every problem on the current device. Squared loss, no bootstrap. Throws std::runtime_error
// with CUDA's own message when the device fails.
void fit_cuda(const FitJob& job, Progress* progress);

}  // namespace megascale
