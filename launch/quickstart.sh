#!/usr/bin/env bash
# From a fresh clone to a trained model, a log and a loss plot: installs into .venv, prepares a
# corpus from text that this installation carries, trains a small Qwen3-MoE on two processes while
# the batch grows. Run again, it reuses the installation and the corpus, and resumes or shows the
# run. Arguments are config overrides, e.g.  bash launch/quickstart.sh name=second lr.peak=1e-3
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh
prepare_environment
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

.venv/bin/megascale data default -o .cache/default-corpus
.venv/bin/megascale train configs/quickstart.yaml --dry-run --world-size 2 "$@"
.venv/bin/python -m torch.distributed.run --standalone --nproc-per-node 2 --max-restarts 1 \
  -m megascale train configs/quickstart.yaml "$@"
