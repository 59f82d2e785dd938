#!/usr/bin/env bash
# The whole loop from a fresh clone: installs into .venv, prepares a corpus from text that this
# installation carries, trains six small runs that differ in their batch alone and four whose batch or
# learning rate changes on the way, fits the law that says which batch a budget asks for and the law of
# whole schedules, writes down what the latter says of three schedules it has not seen, trains these,
# and says whether it was right and whether growing the batch helped. Then it trains a small Qwen3-MoE
# on two processes with a growing batch and once more at a fixed one, compares the two and writes one
# page. Run again, it reuses what is there and goes on where it was stopped. Arguments are config
# overrides for the two MoE runs, e.g.  bash launch/quickstart.sh lr.peak=3e-3
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

say "1/9 corpus"
megascale data default -o .cache/default-corpus

say "2/9 small runs at a constant learning rate, one for each batch size"
megascale sweep configs/quickstart/batches.yaml -o "$out/batches"

say "3/9 small runs whose batch or learning rate changes on the way"
megascale sweep configs/quickstart/schedules.yaml -o "$out/schedules"

say "4/9 the law of whole schedules, and what it says of three schedules it has not seen"
megascale fit "$out/batches" "$out/schedules" --law schedule --name quickstart-schedules \
  -o "$out/schedule-law.json"
if [ ! -f "$out/predictions.json" ]; then
  megascale sweep configs/quickstart/predicted.yaml -o "$out/predicted" --export "$out/planned" >/dev/null
  megascale predict --law-file "$out/schedule-law.json" "$out"/planned/{fixed-512,growing,fixed-256}.yaml \
    --plot "$out/predictions.png" --json >"$out/predictions.part"
  mv "$out/predictions.part" "$out/predictions.json"
fi
echo "Written down before their runs: $out/predictions.json and predictions.png"

say "5/9 those schedules, trained; what was predicted beside what was measured"
megascale sweep configs/quickstart/predicted.yaml -o "$out/predicted"
megascale predict --measured "$out/predictions.json" "$out/predicted"

say "6/9 the law of fixed batches: the best batch for a budget of tokens, fitted to their curves"
fitted=0
rm -f "$out/law.json"
megascale fit "$out/batches" --law loss_surface --bootstrap 200 \
  --name quickstart -o "$out/law.json" || fitted=$?
if [ "$fitted" -ne 0 ]; then
  [ "$fitted" -eq 7 ] && [ -f "$out/law.json" ] || exit "$fitted"
  echo "The fit is not sure of itself (exit code 7, see above); its law is used all the same."
fi

say "7/9 the schedule of that law, and the fixed batch that it calls best for the whole budget"
schedule=(--law-file "$out/law.json" --model configs/models/studies/moe-w64.yaml --tokens 1M
  --interval 100K --initial 256 --min-batch 256 --max-batch 4Ki --seq-length 64 --micro-batch 2
  --dp 2 --max-rounding 0.5)
megascale schedule "${schedule[@]}"
fixed="$(megascale schedule "${schedule[@]}" --json | .venv/bin/python -c '
import json, sys
batches = json.load(sys.stdin)["fixed_batches"]
print(next(b["batch_tokens"] for b in batches if b["meaning"].startswith("best for the whole")))')"

say "8/9 the MoE with the growing batch, then at a fixed batch of $fixed tokens"
train configs/quickstart/growing.yaml "$@"
train configs/quickstart/fixed.yaml "batch.schedule={0: $fixed}" "$@"

say "9/9 what came out"
megascale compare "$out/growing" "$out/fixed" --plot "$out/compare.png"
megascale report "$out" --law-file "$out/law.json" --title "The quickstart's loop" -o "$out/report.html"

say "in short"
megascale predict --measured "$out/predictions.json" "$out/predicted" | head -n 1
megascale compare "$out/fixed" "$out/growing" | head -n 1
cat <<NEXT
The page: $PWD/$out/report.html
Next:
  megascale predict --law-file $out/schedule-law.json --batch '0:256,800K:512' --lr 5e-3 --warmup 50K \\
    --decay 300K --final-ratio 0.05 --tokens 1M      # ask it about a schedule of your own
  megascale schedule --optimize steps --runs $out/batches --runs $out/schedules --tokens 1M \\
    --seq-length 64 --micro-batch 4 --lr 5e-3        # the schedule of fewest steps
  megascale fit YOUR_LOGS --law schedule -o law.json # the same for your runs, of any trainer
NEXT
