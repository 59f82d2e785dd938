// The CUDA back end. A thread runs `fit_in_thread`, the same code the host test runs for every
// index, on one problem at a time from a queue, in double precision. Problems go to the device in
// chunks that fit its free memory.
#include <cuda_runtime.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/engine_cuda.h"
#include "laws/registry.h"
#include "problem/thread_chunk.h"

namespace megascale {
namespace {

constexpr int kThreads = 128;

void check(cudaError_t code, const char* what) {
  if (code != cudaSuccess)
    throw std::runtime_error(std::string("CUDA: ") + what + ": " + cudaGetErrorString(code));
}

// Device memory for the life of a chunk.
class Buffer {
 public:
  template <class Host>
  auto* upload(const Host& host) {
    using T = typename Host::value_type;
    T* device = allocate<T>(host.size());
    check(cudaMemcpy(device, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice),
          "copy in");
    return device;
  }
  template <class T>
  T* allocate(size_t count) {
    void* memory = nullptr;
    check(cudaMalloc(&memory, std::max<size_t>(count, 1) * sizeof(T)), "allocate");
    held_.push_back(memory);
    return static_cast<T*>(memory);
  }
  ~Buffer() {
    for (void* memory : held_) cudaFree(memory);
  }

 private:
  std::vector<void*> held_;
};

template <class Law>
__global__ void __launch_bounds__(kThreads)
    fit_kernel(ThreadColumns<Law> columns, const ThreadProblem<Law>* problems,
               ThreadOptions options, ThreadResult<Law>* results, unsigned long long count,
               unsigned long long* queue) {
  for (;;) {
    const unsigned long long i = atomicAdd(queue, 1ULL);
    if (i >= count) return;
    fit_in_thread<Law>(columns, problems[i], options, results + i);
  }
}

template <class Law>
void fit_cuda_law(const FitJob& job, Progress* progress) {
  int device = 0, processors = 0;
  check(cudaGetDevice(&device), "find a device");
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device), "ask");
  size_t free_bytes = 0, all_bytes = 0;
  check(cudaMemGetInfo(&free_bytes, &all_bytes), "ask");
  constexpr size_t kPointBytes = sizeof(double) * (2 * Law::kInputs + 6);
  constexpr size_t kProblemBytes = sizeof(ThreadProblem<Law>) + sizeof(ThreadResult<Law>);
  const ThreadOptions options = thread_options<Law>(job);
  ThreadChunk<Law> chunk;
  for (int64_t begin = 0; begin < job.problems;) {
    if (progress->cancel) throw std::runtime_error("cancelled");
    int64_t end = begin;
    size_t bytes = 0;
    while (end < job.problems && (end == begin || bytes < free_bytes / 2) &&
           end - begin < (1 << 20)) {
      bytes += kProblemBytes + (job.offsets[end + 1] - job.offsets[end] + 8) * kPointBytes;
      ++end;
    }
    chunk.load(job, begin, end);
    Buffer memory;
    ThreadColumns<Law> view;
    for (int k = 0; k < Law::kInputs; ++k) {
      view.full_x[k] = memory.upload(chunk.columns.full_x[k]);
      view.projected_x[k] = memory.upload(chunk.columns.projected_x[k]);
    }
    view.y = memory.upload(chunk.columns.y);
    view.log_y = memory.upload(chunk.columns.log_y);
    view.root = memory.upload(chunk.columns.root);
    view.projected_y = memory.upload(chunk.columns.projected_y);
    view.scale = memory.upload(chunk.columns.scale);
    view.target = memory.upload(chunk.columns.target);
    const ThreadProblem<Law>* problems = memory.upload(chunk.problems);
    const size_t count = chunk.problems.size();
    ThreadResult<Law>* results = memory.allocate<ThreadResult<Law>>(count);
    auto* queue = memory.allocate<unsigned long long>(1);
    check(cudaMemset(queue, 0, sizeof(*queue)), "clear");
    int per_processor = 1;
    check(
        cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_processor, fit_kernel<Law>, kThreads, 0),
        "plan");
    const int blocks =
        std::max(1, std::min<int>(processors * std::max(per_processor, 1),
                                  static_cast<int>((count + kThreads - 1) / kThreads)));
    fit_kernel<Law><<<blocks, kThreads>>>(view, problems, options, results, count, queue);
    check(cudaGetLastError(), "launch");
    std::vector<ThreadResult<Law>> host(count);
    check(cudaMemcpy(host.data(), results, count * sizeof(host[0]), cudaMemcpyDeviceToHost),
          "copy out");
    chunk.store(job, host.data());
    progress->done += end - begin;
    begin = end;
  }
}

}  // namespace

int cuda_devices() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

void fit_cuda(const FitJob& job, Progress* progress) {
  using Run = void (*)(const FitJob&, Progress*);
#define MS_ROW(L) &fit_cuda_law<L>,
  static constexpr Run table[] = {MEGASCALE_LAWS(MS_ROW)};
#undef MS_ROW
  table[job.law](job, progress);
}

}  // namespace megascale
