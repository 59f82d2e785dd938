"""Tables of any origin as the one table: which column is what, and nothing rounded on the way."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from megascale.errors import DataError
from megascale.runs.readers import fields
from megascale.runs.readers.base import (
    INSTANTANEOUS,
    LOSS_KINDS,
    VALIDATION,
    Clock,
    FileRead,
    ReadOptions,
    RunMeta,
    exact_int,
    positive,
    real,
    rows_table,
)

_INTEGERS = ("step", "tokens", "samples", "batch_tokens", "batch_samples")
_REALS = ("lr", "grad_norm", "seconds")
MAPPABLE = ("run", *_INTEGERS, *_REALS, "runtime", "loss", "validation", "n_params", "loss_kind")


def column_map(names: Sequence[str], options: ReadOptions, where: str) -> dict[str, str]:
    """Return our columns -> theirs: those the user names, the rest by the names that are known.

    Raises:
        DataError: a column was named that the table does not have, or one that is not ours.
    """
    stated = dict(options.columns)
    for ours, name in stated.items():
        if ours not in MAPPABLE:
            raise DataError.of(f"columns.{ours}", name, "not a column of the table", MAPPABLE)
        if name not in names:
            close = difflib.get_close_matches(name, names, n=3) or list(names)[:8]
            raise DataError.of(f"columns.{ours}", name, f"no such column in {where}", close)
    mapped = {}
    taken = set(stated.values())
    for ours in MAPPABLE:
        theirs: str | None = stated.get(ours)
        if theirs is None and ours in fields.NAMES:
            found = fields.find(ours, [name for name in names if name not in taken])
            theirs = found if "loss" not in stated or ours != "validation" else None
        if theirs is None and ours in ("loss_kind", "n_params") and ours in names:
            theirs = ours
        if theirs is not None:
            mapped[ours] = theirs
    return mapped


def rows_of(
    records: Iterable[tuple[int, Mapping[str, Any]]],
    mapped: Mapping[str, str],
    found: FileRead,
    options: ReadOptions,
    sets: Sequence[tuple[str, str]] = (),
    kind: str = INSTANTANEOUS,
) -> None:
    """Fill the table with records; those with a count that is no exact integer are reported.

    Args:
        records: line number and values by their names.
        mapped: our columns -> theirs.
        sets: validation losses: their names and the names of their sets.
        kind: what the training loss is, unless a column or the user says.
    """
    rows: list[dict[str, Any]] = []
    metas: dict[str, RunMeta] = {}
    nonfinite: list[int] = []
    losses: list[tuple[str, str | None]] = [(mapped["loss"], None)] if "loss" in mapped else []
    losses += [(name, label) for name, label in sets]
    kind = options.loss_kind or kind
    clock = Clock()
    for line, record in records:
        row, wrong = _common(record, mapped)
        if wrong:
            found.reject(line, wrong)
            continue
        run = str(record.get(mapped["run"], "")) if "run" in mapped else ""
        if run not in metas:
            params = positive(record.get(mapped["n_params"])) if "n_params" in mapped else None
            metas[run] = RunMeta(run=run, n_params=params)
        for name, label in losses:
            value = record.get(name)
            if _absent(value):
                continue
            loss = real(value)
            if loss is None:
                if str(value).strip().lower().lstrip("+-") in ("inf", "infinity"):
                    nonfinite.append(line)
                else:
                    found.reject(line, f"{name} = {str(value)[:40]!r} is no number")
                continue
            stated = str(record.get(mapped["loss_kind"], "")) if "loss_kind" in mapped else ""
            own_kind = kind if label is None else (f"{VALIDATION}:{label}" if label else VALIDATION)
            if label is None and stated.partition(":")[0] in LOSS_KINDS:
                own_kind = stated
            made = {**row, "run": run or None, "loss": loss, "loss_kind": own_kind, "line": line}
            if "runtime" in mapped:
                elapsed = real(record.get(mapped["runtime"]))
                made["seconds"] = clock.since((run, own_kind), elapsed)
            rows.append(made)
    if nonfinite:
        found.note("nonfinite_loss", f"{len(nonfinite)} losses are not finite", nonfinite[0])
    found.table = rows_table(rows)
    found.runs = list(metas.values()) or [RunMeta(run="")]


def _common(record: Mapping[str, Any], mapped: Mapping[str, str]) -> tuple[dict[str, Any], str]:
    row: dict[str, Any] = {}
    for ours in _INTEGERS:
        if ours in mapped:
            value = record.get(mapped[ours])
            if _absent(value):
                continue
            row[ours] = exact_int(value)
            if row[ours] is None:
                return row, f"{mapped[ours]} = {str(value)[:40]!r} is no exact integer"
    for ours in _REALS:
        if ours in mapped:
            row[ours] = real(record.get(mapped[ours]))
    return row, ""


def _absent(value: Any) -> bool:
    """Empty cells, and the NaN that sparse tables put where nothing was logged."""
    if value is None or isinstance(value, float):
        return value is None or value != value
    return isinstance(value, str) and value.strip().lower() in ("", "nan", "none", "null", "n/a")


def require_loss(mapped: Mapping[str, str], sets: Sequence[Any], names: Sequence[str]) -> str:
    """Return what is missing when no column is a loss; empty when one is."""
    if "loss" in mapped or sets:
        return ""
    return f"no column is known to be a loss; there are: {', '.join(list(names)[:12])}"
