"""What a study's runs say: loss at equal tokens, tokens to a loss, mean and spread over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megascale.formats.run_log import RunData, read_run
from megascale.sweep.expand import PlannedRun
from megascale.train.checks import run_path

Array = npt.NDArray[np.float64]
WINDOW = 0.05
"""Share of the curve's tokens over which training losses are averaged."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One run's loss against consumed tokens.

    Attributes:
        tokens: positions, rising.
        loss: nats per token; of all held-out sources alike where the run was evaluated, else of
            the training tokens, averaged over the 5 % of the run before each position.
        kind: `validation` or `training`.
    """

    tokens: Array
    loss: Array
    kind: str

    def at(self, tokens: float) -> float | None:
        """Loss at a token count, by a straight line in log tokens; None outside the curve."""
        if not len(self.tokens) or not self.tokens[0] <= tokens <= self.tokens[-1]:
            return None
        return float(np.interp(np.log(tokens), np.log(self.tokens), self.loss))

    def reaches(self, loss: float) -> float | None:
        """Tokens at which the curve first comes down to a loss; None where it does not."""
        below = np.flatnonzero(self.loss <= loss)
        if len(below) == 0 or below[0] == 0:
            return None
        at = int(below[0])
        x, y = np.log(self.tokens[at - 1 : at + 1]), self.loss[at - 1 : at + 1]
        return float(np.exp(x[0] + (y[0] - loss) / (y[0] - y[1]) * (x[1] - x[0])))


@dataclass(frozen=True, slots=True)
class RunResult:
    """One finished run.

    Attributes:
        run, group, arm, point, values, seed: as planned.
        path: its directory.
        tokens, steps: at its end.
        started_at: tokens it began with (a branch's parent's).
        batch: its global batches (tokens) in order.
        loss: the curve's last value.
        seconds: time in training steps, all attempts that count.
        curve: loss against tokens.
    """

    run: str
    group: str
    arm: str
    point: dict[str, str]
    values: dict[str, Any]
    seed: int
    path: Path
    tokens: int
    steps: int
    started_at: int
    batch: tuple[int, ...]
    loss: float
    seconds: float
    curve: Curve
    peak_lr: float
    parameters: int


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean over seeds and their sample standard deviation (None for one seed)."""

    mean: float
    deviation: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Spread | None:
        """None where a value is missing: a mean over some of the seeds would mislead."""
        known = [value for value in values if value is not None]
        if not known or len(known) < len(values):
            return None
        deviation = float(np.std(known, ddof=1)) if len(known) > 1 else None
        return cls(float(np.mean(known)), deviation, len(known))

    def text(self, form: str = ".4f") -> str:
        """`2.1234 ± 0.0040`."""
        if self.deviation is None:
            return format(self.mean, form)
        return f"{format(self.mean, form)} ± {format(self.deviation, form)}"


@dataclass(frozen=True, slots=True)
class GroupResult:
    """Runs that differ in their seed alone.

    Attributes:
        group: arm and axis points.
        branch: whether its runs start from others' checkpoints.
        tokens: at the end.
        steps, seconds: means over seeds.
        loss: at the end.
        equal_tokens: the token count all groups of the same start have.
        loss_at_equal: loss there.
        tokens_to: for each target loss, tokens to reach it; None where a seed does not, or was
            there before the first point of its curve.
        first_tokens: the latest first point of the curves of a group that is at a target there, by
            target; the target was reached before that.
        against: difference of the loss at equal tokens to the baseline's, seed by seed.
        baseline: which group that is.
    """

    group: str
    branch: bool
    tokens: int
    steps: float
    seconds: float
    loss: Spread
    equal_tokens: int
    loss_at_equal: Spread | None
    tokens_to: dict[float, Spread | None]
    first_tokens: dict[float, int]
    against: Spread | None = None
    baseline: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        plain = asdict(self)
        del plain["first_tokens"]
        return plain | {
            "tokens_to": [
                {
                    "loss": loss,
                    "tokens": None if spread is None else asdict(spread),
                    "before": self.first_tokens.get(loss),
                }
                for loss, spread in self.tokens_to.items()
            ]
        }


def read_results(runs: Sequence[PlannedRun]) -> list[RunResult]:
    """Read the logs of finished runs.

    Raises:
        RunError: a log is missing or not readable.
    """
    return [_result(run) for run in runs]


def curve_of(run: RunData) -> Curve:
    """The loss curve of a log."""
    held_out: dict[int, list[float]] = {}
    last: dict[tuple[int, str], float] = {}
    for event in run.events:
        if event["kind"] == "evaluation":
            last[event["tokens"], str(event.get("source"))] = float(event["loss"])
    for (tokens, _), loss in sorted(last.items()):
        held_out.setdefault(tokens, []).append(loss)
    held_out.pop(0, None)
    if held_out:
        means = [float(np.mean(losses)) for losses in held_out.values()]
        return Curve(np.array(list(held_out), dtype=np.float64), np.array(means), "validation")
    return _training_curve(run)


def compare(
    results: Sequence[RunResult],
    *,
    targets: Sequence[float] | None = None,
    baseline: Sequence[str] = (),
) -> list[GroupResult]:
    """Compare groups of runs at equal tokens, at equal loss and with their baseline.

    Args:
        results: of one study.
        targets: losses (nats); None takes the lowest that every group reaches, rounded up.
        baseline: arms or labels of axis points; a group is compared with the group that has one
            of them in its place and is like it otherwise.

    Returns:
        One entry a group, in the runs' order. Branches are compared among each other.
    """
    groups: dict[str, list[RunResult]] = {}
    for result in results:
        groups.setdefault(result.group, []).append(result)
    if targets is None:
        stable = [result for result in results if result.started_at == 0]
        highest = max(float(result.curve.loss.min()) for result in stable or results)
        targets = [float(np.ceil(highest * 100) / 100)]
    compared = []
    for name, members in groups.items():
        branch = members[0].started_at > 0
        alike = [result for result in results if (result.started_at > 0) == branch]
        equal = min(int(result.curve.tokens[-1]) for result in alike)
        rival = _baseline(members[0], groups, baseline)
        against = None
        if rival is not None:
            by_seed = {result.seed: result for result in groups[rival]}
            pairs = [(one, by_seed.get(one.seed)) for one in members]
            against = Spread.of([_difference(one, other, equal) for one, other in pairs])
        loss = Spread.of([member.loss for member in members])
        assert loss is not None
        compared.append(
            GroupResult(
                group=name,
                branch=branch,
                tokens=members[0].tokens,
                steps=float(np.mean([member.steps for member in members])),
                seconds=float(np.mean([member.seconds for member in members])),
                loss=loss,
                equal_tokens=equal,
                loss_at_equal=Spread.of([member.curve.at(equal) for member in members]),
                tokens_to={
                    target: Spread.of([member.curve.reaches(target) for member in members])
                    for target in targets
                },
                first_tokens={
                    target: max(int(member.curve.tokens[0]) for member in members)
                    for target in targets
                    if all(member.curve.loss[0] <= target for member in members)
                },
                against=against,
                baseline=rival,
            )
        )
    return compared


def _difference(one: RunResult, other: RunResult | None, tokens: int) -> float | None:
    if other is None:
        return None
    mine, theirs = one.curve.at(tokens), other.curve.at(tokens)
    return None if mine is None or theirs is None else mine - theirs


def _baseline(
    member: RunResult, groups: dict[str, list[RunResult]], names: Sequence[str]
) -> str | None:
    own = [member.arm, *member.point.values()]
    if any(part in names for part in own):
        return None
    for group, others in groups.items():
        other = others[0]
        parts = [other.arm, *other.point.values()]
        if (other.started_at > 0) != (member.started_at > 0):
            continue
        changed = [(mine, its) for mine, its in zip(own, parts, strict=True) if mine != its]
        if len(changed) == 1 and changed[0][1] in names:
            return group
    return None


def _result(run: PlannedRun) -> RunResult:
    path = run_path(run.config)
    data = read_run(path)
    curve = curve_of(data)
    last = data.records[-1]
    first = data.records[0]
    return RunResult(
        run=run.name,
        group=run.group,
        arm=run.arm,
        point=run.point,
        values=run.values,
        seed=run.seed,
        path=path,
        tokens=last["tokens"],
        steps=last["step"],
        started_at=first["tokens"] - first["interval_tokens"],
        batch=tuple(dict.fromkeys(record["batch_tokens"] for record in data.records)),
        loss=float(curve.loss[-1]),
        seconds=sum(record["seconds"] for record in data.records),
        curve=curve,
        peak_lr=run.config.lr.peak,
        parameters=_parameters(run),
    )


def _parameters(run: PlannedRun) -> int:
    from megascale.model.count import count_parameters

    return count_parameters(run.config.model).non_embedding


def _training_curve(run: RunData) -> Curve:
    rows = [
        (record["tokens"], record["loss_sum"], record["loss_tokens"])
        for record in run.records
        if record.get("loss") is not None and record["loss_tokens"]
    ]
    table = np.array(rows, dtype=np.float64).reshape(-1, 3)
    tokens, sums, counts = table.T
    if not len(tokens):
        return Curve(tokens, tokens, "training")
    width = WINDOW * tokens[-1]
    total_sum = np.concatenate([[0.0], np.cumsum(sums)])
    total_count = np.concatenate([[0.0], np.cumsum(counts)])
    start = np.searchsorted(tokens, tokens - width, side="right")
    stop = np.arange(len(tokens)) + 1
    loss = (total_sum[stop] - total_sum[start]) / (total_count[stop] - total_count[start])
    return Curve(tokens, loss, "training")
