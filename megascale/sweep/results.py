"""What a study's runs say: loss at equal tokens, tokens to a loss, mean and spread over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from megascale.curves.choice import AUTO, ENOUGH_EVALUATIONS, choose_loss
from megascale.curves.curve import Curve
from megascale.curves.reach import reach
from megascale.curves.records import split_runs
from megascale.curves.smoothing import Window
from megascale.curves.table import curve_of
from megascale.errors import RunError
from megascale.formats.run_log import RunData, read_run
from megascale.runs.table import load_runs
from megascale.sweep.expand import PlannedRun
from megascale.train.checks import run_path


@dataclass(frozen=True, slots=True)
class RunResult:
    """One finished run.

    Attributes:
        run, group, arm, point, values, seed: as planned.
        path: its directory.
        tokens, steps: at its end.
        started_at: tokens it began with (a branch's parent's).
        batch: its global batches (tokens) in order.
        loss: smoothed, at the curve's end.
        seconds: time in training steps, all attempts that count.
        curve: loss against tokens, of held-out sources where all runs were evaluated, see
            `choose_loss`.
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

    Runs from the start and branches are compared among each other; each kind is read by one kind
    of loss, which branches need to have been evaluated for once.

    Raises:
        RunError: a log is missing or not readable.
    """
    paths = {run.name: run_path(run.config) for run in runs}
    logs = {run.name: read_run(paths[run.name]) for run in runs}
    starts = {name: _started_at(log) for name, log in logs.items()}
    curves: dict[str, Curve] = {}
    for enough, names in (
        (ENOUGH_EVALUATIONS, [name for name, start in starts.items() if start == 0]),
        (1, [name for name, start in starts.items() if start > 0]),
    ):
        curves |= _curves({name: paths[name] for name in names}, enough)
    return [_result(run, logs[run.name], paths[run.name], curves[run.name]) for run in runs]


def _curves(paths: dict[str, Path], enough: int) -> dict[str, Curve]:
    """The curves of run directories, by one kind of loss.

    Raises:
        RunError: a log without losses.
    """
    if not paths:
        return {}
    records = {}
    for name, path in paths.items():
        found = list(split_runs(load_runs(path, cache=False).table))
        if len(found) != 1:
            raise RunError(f"{path}: {len(found)} runs with records, where there is one.")
        records[name] = found[0]
    wanted = choose_loss(list(records.values()), AUTO, enough)
    curves = {}
    for name, own in records.items():
        curve = curve_of(own, wanted, Window())
        if curve is None:
            raise RunError(f"{paths[name]}: no {wanted} loss in its log.")
        curves[name] = curve
    return curves


def compare_groups(
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
        highest = max(result.curve.lowest for result in stable or results)
        targets = [float(np.ceil(highest * 100) / 100)]
    compared = []
    for name, members in groups.items():
        branch = members[0].started_at > 0
        alike = [result for result in results if (result.started_at > 0) == branch]
        equal = min(int(result.curve.last) for result in alike)
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
                loss_at_equal=Spread.of([_loss_at(member, equal) for member in members]),
                tokens_to={
                    target: Spread.of([_tokens_to(member, target) for member in members])
                    for target in targets
                },
                first_tokens={
                    target: max(int(member.curve.tokens[0]) for member in members)
                    for target in targets
                    if all(member.curve.trend.loss[0] <= target for member in members)
                },
                against=against,
                baseline=rival,
            )
        )
    return compared


def _loss_at(result: RunResult, tokens: float) -> float | None:
    loss = float(result.curve.at(tokens))
    return loss if np.isfinite(loss) else None


def _tokens_to(result: RunResult, loss: float) -> float | None:
    found = reach(result.curve, loss)
    return None if isinstance(found, str) else found.tokens


def _difference(one: RunResult, other: RunResult | None, tokens: int) -> float | None:
    if other is None:
        return None
    mine, theirs = _loss_at(one, tokens), _loss_at(other, tokens)
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


def _started_at(data: RunData) -> int:
    first = data.records[0]
    return int(first["tokens"] - first["interval_tokens"])


def _result(run: PlannedRun, data: RunData, path: Path, curve: Curve) -> RunResult:
    last, peak_lr, parameters = data.records[-1], run.config.lr.peak, _parameters(run)
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
        started_at=_started_at(data),
        batch=tuple(dict.fromkeys(record["batch_tokens"] for record in data.records)),
        loss=curve.final,
        seconds=sum(record["seconds"] for record in data.records),
        curve=replace(curve, run=run.name, n_params=float(parameters), lr=peak_lr),
        peak_lr=peak_lr,
        parameters=parameters,
    )


def _parameters(run: PlannedRun) -> int:
    from megascale.model.count import count_parameters

    return count_parameters(run.config.model).non_embedding
