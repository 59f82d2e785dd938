"""The curves of runs that are to be compared, from the one table of records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from megascale.curves.compare import Curve
from megascale.curves.records import VALIDATION, Records, split_runs
from megascale.errors import DataError
from megascale.runs.table import RunTable

TRAIN = "train"
AUTO = "auto"
LEAST = 3
"""Losses that a run needs."""
ENOUGH_EVALUATIONS = 4
"""Evaluations that every run needs for "auto" to compare these."""


def curves_of_logs(logs: Sequence[RunTable], loss: str = AUTO) -> tuple[str, list[Curve]]:
    """One curve a run, all of the same kind of loss.

    Args:
        logs: what `load_runs` gave, in the order of the comparison.
        loss: "train"; "validation" (one set that all runs have); "validation:SET"; or "auto":
            validation where all runs have at least `ENOUGH_EVALUATIONS` of one set, else training
            losses, else whatever evaluations there are.

    Returns:
        What was taken: "train", or the kind of validation loss; and the curves, in the order of
        the logs' runs.

    Raises:
        DataError: an illegal `loss`, a run without records, consumed tokens, or such losses.
    """
    if loss not in (AUTO, TRAIN, VALIDATION) and not loss.startswith(f"{VALIDATION}:"):
        rule = "must be auto, train, validation or validation:SET"
        raise DataError.of("--loss", loss, rule, AUTO)
    runs: list[Records] = []
    for table in logs:
        runs += (own := list(split_runs(table.table)))
        known = {records.run for records in own}
        empty = [one.run for one in table.runs if one.run not in known]
        if empty:
            raise DataError.of(empty[0], "no records", f"needs {LEAST} records with a loss or more")
    names = _names(runs)
    for records, name in zip(runs, names, strict=True):
        _require_tokens(records, name)
    wanted = _choice(runs, names, loss)
    return wanted, [_curve(run, name, wanted) for run, name in zip(runs, names, strict=True)]


def _names(runs: Sequence[Records]) -> list[str]:
    """Run ids; with their first file's folder where two are alike."""
    names = [records.run for records in runs]
    if len(set(names)) == len(names):
        return names
    return [f"{Path(records.sources[0]).parent}/{records.run}" for records in runs]


def _require_tokens(records: Records, name: str) -> None:
    if np.isfinite(records.tokens).any():
        return
    lacks = "its log has no consumed tokens"
    if np.isfinite(records.step).any():
        nearest = "--batch-tokens SIZE, or --batch-samples SIZE with --seq-length LENGTH"
        raise DataError.of(name, "no tokens", f"{lacks}; state its batch", nearest)
    raise DataError.of(name, "no tokens", f"{lacks} and no steps to count them by")


def _choice(runs: Sequence[Records], names: Sequence[str], loss: str) -> str:
    """`train`, or the kind of validation loss that all runs have."""
    if loss != AUTO and loss != VALIDATION:
        return loss
    shared = set.intersection(*(set(records.kinds()) for records in runs))
    counts = {
        kind: min(records.kinds()[kind] for records in runs)
        for kind in sorted(shared)
        if kind.startswith(VALIDATION)
    }
    best = max(counts, key=lambda kind: counts[kind]) if counts else None
    trained = all(len(records.losses_of(TRAIN)[0]) >= LEAST for records in runs)
    if loss == AUTO and trained and (best is None or counts[best] < ENOUGH_EVALUATIONS):
        return TRAIN
    if best is None:
        raise DataError(f"The runs have no kind of loss in common: {_inventory(runs, names)}.")
    return best


def _inventory(runs: Sequence[Records], names: Sequence[str]) -> str:
    """What every run has, in words."""
    parts = []
    for records, name in zip(runs, names, strict=True):
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in records.kinds().items())
        parts.append(f"{name} has {kinds or 'no loss'}")
    return "; ".join(parts)


def _curve(records: Records, name: str, wanted: str) -> Curve:
    rows, kind = records.losses_of(wanted)
    rows = rows[records.tokens[rows] > 0]
    if len(rows) < LEAST:
        rule = f"needs {LEAST} {wanted} losses with tokens; {_inventory([records], [name])}"
        raise DataError.of(name, f"{len(rows)} losses", rule)
    tokens = records.tokens[rows]
    places, weight = records.places(rows, kind)
    clock = records.clock()
    seconds = np.full(len(rows), np.nan)
    if clock is not None and tokens[-1] <= clock[0][-1]:
        seconds = np.interp(tokens, np.append(0.0, clock[0]), np.append(0.0, clock[1]))
    return Curve(
        name=name,
        tokens=tokens,
        middle=np.maximum.accumulate(places),
        loss=records.loss[rows],
        weight=weight,
        steps=records.step[rows],
        seconds=seconds,
        batch=records.batch_at(tokens),
        kind=kind,
        source=records.sources[0] if records.sources else "",
    )
