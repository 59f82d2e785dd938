#!/usr/bin/env bash
# The whole loop from a fresh clone: installs into .venv, prepares a corpus from text that this
# installation carries, trains six small runs that differ in their batch alone, fits the law that
# says which batch a budget asks for, trains a small Qwen3-MoE on two processes with the schedule of
# that law and once more at the best fixed batch, compares the two and writes one page. Run again, it
# reuses what is there and goes on where it was stopped. Arguments are config overrides for the two
# MoE runs, e.g.  bash launch/quickstart.sh lr.peak=3e-3
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh
prepare_environment
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

out=runs/quickstart
megascale() { .venv/bin/megascale "$@"; }
say() { printf '\n== %s\n' "$*"; }
train() {
  .venv/bin/python -m torch.distributed.run --standalone --nproc-per-node 2 --max-restarts 1 \
    -m megascale train "$@"
}

say "1/6 corpus"
megascale data default -o .cache/default-corpus

say "2/6 small runs at a constant learning rate, one for each batch size"
megascale sweep configs/quickstart/batches.yaml -o "$out/batches"

say "3/6 the law: the best batch for a budget of tokens, fitted to their curves"
fitted=0
rm -f "$out/law.json"
megascale fit "$out/batches" --law loss_surface --bootstrap 200 \
  --name quickstart -o "$out/law.json" || fitted=$?
if [ "$fitted" -ne 0 ]; then
  [ "$fitted" -eq 7 ] && [ -f "$out/law.json" ] || exit "$fitted"
  echo "The fit is not sure of itself (exit code 7, see above); its law is used all the same."
fi

say "4/6 the schedule of that law, and the fixed batch that it calls best for the whole budget"
schedule=(--law-file "$out/law.json" --model configs/models/studies/moe-w64.yaml --tokens 1M
  --interval 100K --initial 256 --min-batch 256 --max-batch 4Ki --seq-length 64 --micro-batch 2
  --dp 2 --max-rounding 0.5)
megascale schedule "${schedule[@]}"
fixed="$(megascale schedule "${schedule[@]}" --json | .venv/bin/python -c '
import json, sys
batches = json.load(sys.stdin)["fixed_batches"]
print(next(b["batch_tokens"] for b in batches if b["meaning"].startswith("best for the whole")))')"

say "5/6 the MoE with the growing batch, then at a fixed batch of $fixed tokens"
train configs/quickstart/growing.yaml "$@"
train configs/quickstart/fixed.yaml "batch.schedule={0: $fixed}" "$@"

say "6/6 what came out"
megascale compare "$out/growing" "$out/fixed" --plot "$out/compare.png"
megascale report "$out" --law-file "$out/law.json" --title "The quickstart's loop" -o "$out/report.html"
echo "The page: $PWD/$out/report.html"
