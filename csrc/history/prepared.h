// What of a job does not depend on the parameters.
#pragma once

#include <cmath>
#include <vector>

#include "history/family.h"

namespace megascale {
inline namespace MS_ISA {

struct Prepared {
  const HistoryJob* job;
  std::vector<double> log_lr, log_batch;  // a piece; 0 where the learning rate is 0
  int64_t pieces, points;

  explicit Prepared(const HistoryJob& given) : job(&given) {
    pieces = given.piece_offsets[given.runs];
    points = given.point_offsets[given.runs];
    log_lr.resize(pieces);
    log_batch.resize(pieces);
    for (int64_t i = 0; i < pieces; ++i) {
      log_lr[i] = given.lr[i] > 0 ? std::log(given.lr[i]) : 0;
      log_batch[i] = std::log(given.batch[i] / given.batch_ref);
    }
  }
  double log_size(int64_t run) const { return job->log_size ? job->log_size[run] : 0; }
  // Pieces of a run from which its noise is injected.
  int64_t settled(int64_t run) const { return job->settled ? job->settled[run] : 0; }
};

}  // namespace MS_ISA
}  // namespace megascale
