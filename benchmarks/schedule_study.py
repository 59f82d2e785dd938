"""The studies of whole schedules, rebuilt from their logs: what was predicted, what was measured.

Logs of `configs/studies/schedule_fit.yaml`, `schedule_held_out.yaml` and two arms of
`schedule_planned.yaml` at workstation scale lie in docs/studies as compressed tables; predictions
that were written before the second study's runs lie beside them. Prints the tables of
docs/studies.md.

    python -m benchmarks.schedule_study
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
from scipy.stats import spearmanr

from .study_logs import FOLDER, Ends, by_seed, mean_of_pairs, read_ends

FIT, HELD_OUT = FOLDER / "schedule_fit.csv.gz", FOLDER / "schedule_held_out.csv.gz"
PLANNED = FOLDER / "schedule_planned.csv.gz"
PREDICTIONS = FOLDER / "schedule_predictions.json"
PAIRS = (
    ("up-twice", "small", "constant rate: 256 > 1Ki at half, against 256"),
    ("up-twice", "large", "the same against 1Ki, the best fixed batch"),
    ("ramp", "large", "constant rate: doubled every fifth, against 1Ki"),
    ("late", "middle", "constant rate: 512 > 2Ki at three quarters, against 512"),
    ("up-decay", "small-decay", "short decay: 256 > 1Ki at half, against 256"),
    ("late-decay", "small-decay", "short decay: 256 > 1Ki at seven tenths, against 256"),
    ("remaining-decay", "small-decay", "short decay: 1 / remaining, against 256"),
    ("inside-decay", "small-decay", "short decay: growth inside the decay, against 256"),
    ("up-long", "small-long", "long decay: 256 > 512 at six tenths, against 256"),
    ("up-long", "middle-long", "the same against 512"),
    ("small-long", "small-decay", "256: long deep decay against short"),
    ("small-sqrt", "small-decay", "256: 1-sqrt over three tenths against linear over two"),
    ("cosine", "small-decay", "256: cosine against the short decay"),
    ("planned", "fixed", "short decay: the planner's proposal, against its opponent, 256"),
)
"""(schedule, opponent, what it asks)."""


def predicted_table(measured: Mapping[str, Ends]) -> list[str]:
    """One line a schedule: predicted, measured, and whether the interval holds the mean."""
    written = json.loads(PREDICTIONS.read_text())
    lines = [
        "| schedule | predicted | 90 % interval | measured, mean of seeds | spread | off | holds |",
        "|---|---|---|---|---|---|---|",
    ]
    off, held, pairs, near = [], [], [], []
    for one in written["schedules"]:
        ends = measured.get(one["schedule"])
        if ends is None:
            continue
        end = one["end"]
        inside = end["low"] <= ends.mean <= end["high"]
        off.append(ends.mean - end["value"])
        held.append(inside)
        pairs.append((end["value"], ends.mean))
        near.append(abs(off[-1]) <= 2 * ends.spread)
        spread = "" if np.isnan(ends.spread) else f"{ends.spread:.3f}"
        name = one["schedule"] + (" (outside)" if one["outside"] else "")
        lines.append(
            f"| {name} | {end['value']:.3f} | {end['low']:.3f} to {end['high']:.3f} | "
            f"{ends.mean:.3f} ({len(ends.loss)}) | {spread} | {off[-1]:+.3f} | "
            f"{'yes' if inside else 'no'} |"
        )
    error = np.array(off)
    rank = spearmanr(*np.array(pairs).T).statistic if len(pairs) > 2 else np.nan
    lines += [
        "",
        f"{sum(held)} of {len(held)} intervals hold, and {sum(near)} predictions are within twice "
        f"the spread over seeds; off by {error.mean():+.3f} in the mean, "
        f"{np.sqrt((error**2).mean()):.3f} rms, {error.std(ddof=1):.3f} around the mean; rank "
        f"correlation {rank:.2f}.",
    ]
    return lines


def paired_table(measured: Mapping[str, Ends]) -> list[str]:
    """Differences paired by seed, with 95 % intervals of Student's t, and the ratio of steps."""
    lines = [
        "| question | difference (nats) | 95 % interval | seeds | steps |",
        "|---|---|---|---|---|",
    ]
    for name, rival, question in PAIRS:
        if name not in measured or rival not in measured:
            continue
        one, other = measured[name], measured[rival]
        gap = mean_of_pairs(list(by_seed(one.loss, other.loss).values()))
        between = f"{gap.low:+.3f} to {gap.high:+.3f}" if gap.pairs > 1 else ""
        lines.append(
            f"| {question} | {gap.mean:+.4f} | {between} | {gap.pairs} | "
            f"{one.steps / other.steps:.2f} |"
        )
    return lines


def main() -> None:
    """Print both tables."""
    measured = read_ends(FIT)
    for path in (HELD_OUT, PLANNED):
        measured |= read_ends(path)
    print("\n".join(predicted_table(measured)), end="\n\n")
    print("\n".join(paired_table(measured)))


if __name__ == "__main__":
    main()
