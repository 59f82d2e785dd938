"""The studies of whole schedules, rebuilt from their logs: what was predicted, what was measured.

Logs of `configs/studies/schedule_fit.yaml`, `schedule_held_out.yaml` and `schedule_planned.yaml` at
workstation scale lie in docs/studies as compressed tables; predictions that were written before
the second study's runs lie beside them. The first two studies were also run with two other models
(one seed). Prints the tables of docs/studies.md. The law is fitted again to the first study and
predicts the second by the present rule for intervals, beside what was written; one or two minutes
on one core.

    python -m benchmarks.schedule_study
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy.stats import spearmanr

from megascale.laws.schedule.histories import runs_of_table
from megascale.propose.fittable_runs import fittable_runs
from megascale.propose.prediction import PredictedSchedule, predict_schedules
from megascale.propose.schedule_law import search_schedule_law

from .study_logs import FOLDER, Ends, by_seed, mean_of_pairs, read_ends, read_log

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
    (
        "plan/planned",
        "plan/fixed",
        "short decay: the planner's proposal, against its opponent, 256",
    ),
    ("plan/late", "plan/fixed", "short decay: 256 > 1Ki at seven tenths, against 256"),
    ("plan/remaining", "plan/fixed", "short decay: 1 / remaining, against 256"),
    ("plan/follow", "plan/fixed", "short decay: the best fixed batch so far, against 256"),
    ("plan/fixed-long", "plan/fixed", "256: long deep decay against short"),
    ("plan/planned", "plan/fixed-long", "the proposal under the short decay, against the long one"),
    ("plan/planned-long", "plan/fixed-long", "long decay: 256 > 512 at six tenths, against 256"),
    ("plan/joint-10", "plan/fixed-long", "planned with the decay, 10 % fewer steps, against it"),
    ("plan/joint-20", "plan/fixed-long", "the same, 20 % fewer steps"),
    ("plan/joint-30", "plan/fixed-long", "the same, 30 % fewer steps"),
)
"""(schedule, opponent, what it asks); `plan/` are arms of schedule_planned (five seeds)."""
MODELS = {"moe": "MoE, 0.27M parameters", "w96": "dense, 0.2M parameters"}
"""Studies of one seed with other models, by the ending of their files."""


WEIGHT_DECAY = 0.1
"""Of all runs."""


def predict_again() -> list[PredictedSchedule]:
    """The second study's schedules by a law fitted to the first one's runs, as `megascale fit
    --law schedule` and `megascale predict` do; of the second only batches and rates are read."""
    runs, loss, begin = fittable_runs(read_log(FIT), weight_decay=WEIGHT_DECAY)
    law = search_schedule_law(
        runs, loss=loss, from_tokens=begin, weight_decay=WEIGHT_DECAY, threads=1
    ).law
    table = read_log(HELD_OUT)
    names = [one["schedule"] for one in json.loads(PREDICTIONS.read_text())["schedules"]]
    seeds = [f"{name}_seed-1" for name in names]
    held = runs_of_table(table, loss=loss, weight_decay=WEIGHT_DECAY, names=seeds)
    histories = [replace(run.history, name=name) for run, name in zip(held, names, strict=True)]
    return predict_schedules(law, histories, [()] * len(histories))


def predicted_table(measured: Mapping[str, Ends], again: Sequence[PredictedSchedule]) -> list[str]:
    """One line a schedule: written before its runs, measured, predicted by the present rule."""
    written = json.loads(PREDICTIONS.read_text())
    before = {one["schedule"]: (one["end"]["value"], one["end"]["low"], one["end"]["high"])
              for one in written["schedules"]}  # fmt: skip
    outside = {one["schedule"] for one in written["schedules"] if one["outside"]}
    now = {one.name: (one.end.value, one.end.low, one.end.high) for one in again}
    lines = [
        "| schedule | written before | 90 % interval | measured, mean of seeds | spread | off | "
        "holds | now | 90 % interval | off | holds |",
        "|" + "---|" * 11,
    ]
    shown = [name for name in before if name in measured and name in now]
    for name in shown:
        ends = measured[name]
        cells = []
        for value, low, high in (before[name], now[name]):
            holds = "yes" if low <= ends.mean <= high else "no"
            cells.append(
                (f"{value:.3f} | {low:.3f} to {high:.3f}", f"{ends.mean - value:+.3f}", holds)
            )
        (first, off, holds), (second, *rest) = cells
        spread = "" if np.isnan(ends.spread) else f"{ends.spread:.3f}"
        mark = " (outside)" if name in outside else ""
        lines.append(
            f"| {name}{mark} | {first} | {ends.mean:.3f} ({len(ends.loss)}) | {spread} | {off} | "
            f"{holds} | {second} | {' | '.join(rest)} |"
        )
    lines.append("")
    for words, said in (("Written before", before), ("By the present rule", now)):
        lines += ["", f"{words}: {summary(measured, said, shown)}"]
    gaps = {one.name: one.against_first for one in again if one.against_first is not None}
    first_end = measured[again[0].name].mean
    off = [(gap, measured[name].mean - first_end) for name, gap in gaps.items()]
    inside = sum(gap.low <= true <= gap.high for gap, true in off)
    half = np.mean([0.5 * (gap.high - gap.low) for gap, _ in off])
    old = {one["schedule"]: one["against_first"] for one in written["schedules"]}
    old_half = np.mean([0.5 * (old[name]["high"] - old[name]["low"]) for name in gaps])
    wrong = np.sqrt(np.mean([(gap.value - true) ** 2 for gap, true in off]))
    lines += [
        "",
        f"Differences to {again[0].name}: {inside} of {len(off)} hold, {wrong:.3f} rms, half an "
        f"interval is {half:.3f} in the mean (written before: {old_half:.3f}).",
    ]
    return lines


def summary(
    measured: Mapping[str, Ends],
    said: Mapping[str, tuple[float, float, float]],
    names: Sequence[str],
) -> str:
    """How predictions stand to what was measured, in one sentence."""
    ends = [measured[name] for name in names]
    values, low, high = np.array([said[name] for name in names]).T
    error = np.array([one.mean for one in ends]) - values
    inside = sum((low <= [one.mean for one in ends]) & ([one.mean for one in ends] <= high))
    near = sum(abs(off) <= 2 * one.spread for off, one in zip(error, ends, strict=True))
    seeds = f" {near} predictions are within twice the spread over seeds;"
    if all(np.isnan(one.spread) for one in ends):
        seeds = ""
    rank = spearmanr(values, [one.mean for one in ends]).statistic if len(names) > 2 else np.nan
    return (
        f"{inside} of {len(names)} intervals hold;{seeds} off by {error.mean():+.3f} in the mean, "
        f"{np.sqrt((error**2).mean()):.3f} rms, {error.std(ddof=1):.3f} around the mean; rank "
        f"correlation {rank:.2f}; half an interval is {0.5 * (high - low).mean():.3f} in the mean."
    )


def model_table(name: str) -> list[str]:
    """One line a schedule of another model (one seed): written before its runs, and measured."""
    measured = read_ends(FOLDER / f"schedule_held_out_{name}.csv.gz")
    written = json.loads((FOLDER / f"schedule_predictions_{name}.json").read_text())["schedules"]
    lines = [
        "| schedule | written before | 90 % interval | measured | off | holds |",
        "|---|---|---|---|---|---|",
    ]
    said = {}
    for one in written:
        end, arm = one["end"], one["schedule"]
        said[arm] = (end["value"], end["low"], end["high"])
        mean = measured[arm].mean
        lines.append(
            f"| {arm}{' (outside)' if one['outside'] else ''} | {end['value']:.3f} | "
            f"{end['low']:.3f} to {end['high']:.3f} | {mean:.3f} | {mean - end['value']:+.3f} | "
            f"{'yes' if end['low'] <= mean <= end['high'] else 'no'} |"
        )
    return [*lines, "", summary(measured, said, list(said))]


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
    measured |= read_ends(HELD_OUT)
    measured |= {f"plan/{arm}": ends for arm, ends in read_ends(PLANNED).items()}
    print("\n".join(predicted_table(measured, predict_again())), end="\n\n")
    print("\n".join(paired_table(measured)))
    for name, model in MODELS.items():
        print(f"\n{model}\n\n" + "\n".join(model_table(name)))


if __name__ == "__main__":
    main()
