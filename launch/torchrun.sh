#!/usr/bin/env bash
# One node or many, with c10d rendezvous. Run the same line on every node:
#   bash launch/torchrun.sh configs/my-run.yaml train.total_tokens=10B
# One node needs no variable. For many set, the same everywhere:
#   NNODES          number of nodes (default 1), or MIN:MAX for elastic starts
#   HEAD_NODE       host:port of one of them (required when NNODES is not 1)
#   RUN_ID          any name, the same on every node (default megascale)
# and optionally NPROC_PER_NODE (default: GPUs, or 1 without any), MAX_RESTARTS (default 3),
# SHUTDOWN_TIMEOUT (default 100): seconds a worker has after SIGTERM to write its checkpoint, and
# JOIN_TIMEOUT (default 1800): seconds the other nodes wait for one that is missing or was lost.
# A run resumes by itself: after a restart every rank loads the newest whole checkpoint.
# The exit code is the run's: 75 after a signal and a checkpoint (docs/exit-codes.md).
# Whatever is wrong with the config, the data or the run directory is said before torchrun starts.
# Paths are relative to where you are. docs/launch.md has the rest.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,14s/^# \{0,1\}//p' "$0"; exit 2; }
root="$(cd "$(dirname "$0")/.." && pwd)"
python="${PYTHON:-$([ -x "$root/.venv/bin/python" ] && echo "$root/.venv/bin/python" || echo python3)}"
nodes="${NNODES:-1}"
gpus="$({ nvidia-smi -L 2>/dev/null || true; } | grep -c '^GPU' || true)"
[ "$gpus" != 0 ] || gpus=1

if [ "$nodes" = 1 ]; then
  rendezvous=(--standalone)
else
  : "${HEAD_NODE:?set HEAD_NODE=host:port, the same on every node}"
  rendezvous=(--rdzv-backend c10d --rdzv-endpoint "$HEAD_NODE" --rdzv-id "${RUN_ID:-megascale}"
    --rdzv-conf "join_timeout=${JOIN_TIMEOUT:-1800}")
  # torch otherwise hands restarted ranks the address of a store that may have died with its node.
  export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
fi
nproc="${NPROC_PER_NODE:-$gpus}"
# Where several ranks find no OMP_NUM_THREADS, torchrun gives each one thread: give them all cores.
if [ -z "${OMP_NUM_THREADS:-}" ] && [[ "$nproc" =~ ^[0-9]+$ ]]; then
  OMP_NUM_THREADS="$("$python" -m megascale.machine "$nproc")" && export OMP_NUM_THREADS
fi
if [[ "$nodes" =~ ^[0-9]+$ ]] && [[ "$nproc" =~ ^[0-9]+$ ]]; then
  code=0
  "$python" -m megascale train "$@" --dry-run --world-size "$((nodes * nproc))" || code=$?
  # A node that comes back may find the run directory still held by the workers of another one.
  [ "$code" = 0 ] || { [ "$code" = 5 ] && [ "$nodes" != 1 ]; } || exit "$code"
fi
# Without torch there is no torchrun; the verb says what to install.
"$python" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)' ||
  exec "$python" -m megascale train "$@"
exec "$python" -m megascale.train.launcher --nnodes "$nodes" \
  --nproc-per-node "$nproc" --max-restarts "${MAX_RESTARTS:-3}" \
  --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 \
  --shutdown_timeout "${SHUTDOWN_TIMEOUT:-100}" "${rendezvous[@]}" -m megascale train "$@"
