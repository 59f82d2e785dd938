// The CUDA thread's body, run on the host for every index in turn.
#include <atomic>
#include <vector>

#include "laws/registry.h"
#include "problem/thread_chunk.h"

namespace megascale {
namespace {

template <class Law>
void fit_scalar_law(const FitJob& job, Progress* progress) {
  constexpr int64_t kChunk = 256;
  ThreadChunk<Law> chunk;
  const ThreadOptions options = thread_options<Law>(job);
  for (int64_t begin = 0; begin < job.problems; begin += kChunk) {
    const int64_t end = std::min(job.problems, begin + kChunk);
    chunk.load(job, begin, end);
    const ThreadColumns<Law> columns = chunk.view();
    std::vector<ThreadResult<Law>> results(end - begin);
    for (int64_t i = 0; i < end - begin; ++i)
      fit_in_thread<Law>(columns, chunk.problems[i], options, &results[i]);
    chunk.store(job, results.data());
    progress->done += end - begin;
  }
}

}  // namespace

void fit_scalar(const FitJob& job, Progress* progress) {
  using Run = void (*)(const FitJob&, Progress*);
#define MS_ROW(L) &fit_scalar_law<L>,
  static constexpr Run table[] = {MEGASCALE_LAWS(MS_ROW)};
#undef MS_ROW
  table[job.law](job, progress);
}

}  // namespace megascale
