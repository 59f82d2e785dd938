"""Tables of any origin as the one table: which column is what, and nothing rounded on the way."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from megascale.errors import DataError
from megascale.runs.readers import fields
from megascale.runs.readers.base import (
    EMA,
    INSTANTANEOUS,
    LOSS_KINDS,
    VALIDATION,
    Clock,
    FileRead,
    ReadOptions,
    RunMeta,
    exact_int,
    real,
    rows_table,
)
from megascale.runs.readers.counters import (
    RANK_TOKENS,
    counts_from_zero,
    counts_micro_batches,
    is_lightning,
    token_axis,
)
from megascale.runs.readers.identity import tell_apart
from megascale.units import CountError, read_count

_INTEGERS = ("step", "tokens", "samples", "batch_tokens", "batch_samples")
_REALS = ("lr", "grad_norm", "seconds")
SMOOTHED = re.compile(r"(?<![a-z])(?:ema|smooth\w*|running|moving)(?![a-z])")
"""Names of losses that are moving averages."""
LEAST_SIZE, MOST_TOKENS = 1_000, 100_000
SHOWN = 40
"""So many characters of a name are shown in a message."""
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
            nearest = [_clipped(one) for one in close]
            raise DataError.of(f"columns.{ours}", name, f"no such column in {where}", nearest)
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
    records = list(records)
    names = list(dict.fromkeys(name for _, record in records for name in record))
    mapped, late = _counters(mapped, names, sets, [record for _, record in records], found)
    rows: list[dict[str, Any]] = []
    metas: dict[str, RunMeta] = {}
    sizes: dict[int, int | None] = {}
    several: dict[str, int] = {}
    nonfinite: list[int] = []
    losses: list[tuple[str, str | None]] = [(mapped["loss"], None)] if "loss" in mapped else []
    losses += [(name, label) for name, label in sets]
    if "loss" in mapped and SMOOTHED.search(mapped["loss"].lower()):
        kind = EMA
    kind = options.loss_kind or kind
    clock = Clock()
    for line, record in records:
        row, wrong = _common(record, mapped)
        if wrong:
            found.reject(line, wrong)
            continue
        run = str(record.get(mapped["run"], "")) if "run" in mapped else ""
        meta = metas.setdefault(run, RunMeta(run=run))
        if "n_params" in mapped:
            place = f"{found.path}:{line}"
            sizes[line] = size_of(record.get(mapped["n_params"]), mapped["n_params"], place)
            meta.n_params = meta.n_params or sizes[line]
            if sizes[line] not in (None, meta.n_params):
                several.setdefault(run, line)
        if late and "step" in row:
            row["step"] += 1
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
    apart = tell_apart(found, records, names, sizes)
    for run, line in [] if apart else several.items():
        message = f"{mapped['n_params']} takes several values in one run{f' ({run})' * bool(run)}"
        found.note("mixed_runs", message, line)
    found.malformed.sort(key=lambda bad: bad.line)
    refuse_sizes(found, mapped.get("n_params", ""))


def _counters(
    mapped: Mapping[str, str],
    names: Sequence[str],
    sets: Sequence[tuple[str, str]],
    records: Sequence[Mapping[str, Any]],
    found: FileRead,
) -> tuple[dict[str, str], bool]:
    """The columns with the axis that is meant, and whether steps are numbered from 0."""
    mapped = dict(mapped)
    axis = token_axis(names, records) if mapped.get("tokens") == RANK_TOKENS else None
    if axis is not None and axis != mapped["tokens"]:
        found.note("derived", f"tokens are {axis}: {mapped['tokens']} are those of one rank")
        mapped["tokens"] = axis
    step = mapped.get("step")
    if step is None:
        return mapped, False
    if counts_micro_batches(step, names, records):
        found.note("derived", f"{step} counts micro-batches, as iter does: it is left empty")
        del mapped["step"]
        return mapped, False
    late = is_lightning(names) or counts_from_zero(mapped, [name for name, _ in sets], records)
    if late:
        found.note("derived", f"{step} is counted from 0: one step more is finished at each row")
    return mapped, late


def size_of(value: Any, column: str, where: str) -> int | None:
    """Return N from a cell: a count, or a text with its unit such as 124M; None where it is empty.

    Args:
        value: of the cell.
        column, where: its column and place, for the message.

    Raises:
        DataError: it is something else.
    """
    if _absent(value):
        return None
    try:
        return read_count(exact_int(value) or value)
    except CountError:
        rule = "must be a whole number of parameters, or one with its unit"
        raise DataError.of(f"{column} of {where}", value, rule, "124000000 or 124M") from None


def refuse_sizes(found: FileRead, column: str, least: int = LEAST_SIZE) -> None:
    """Refuse sizes that cannot be parameters: millions or billions of them, most likely.

    Args:
        found: with its rows and runs.
        column: where the sizes stand.
        least: a size below is none where no tokens are known.

    Raises:
        DataError: a size is so small that its run saw 100,000 tokens and more for each parameter
            (the most known are 60,000), or below `least`.
    """
    reached = dict(found.table.group_by("run").agg(pl.col("tokens").max()).rows())
    for meta in found.runs:
        size = meta.n_params
        if size is None:
            continue
        tokens = reached.get(meta.run or None)
        if size < least if tokens is None else tokens > MOST_TOKENS * size:
            rule = "is too small for a count of parameters; state it in parameters, or its unit"
            raise DataError.of(f"{column} of {found.path}", size, rule, f"{size}M")


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
    shown = ", ".join(_clipped(name) for name in list(names)[:12])
    return f"no column is known to be a loss; there are: {shown}"


def _clipped(name: str) -> str:
    return name if len(name) <= SHOWN else f"{name[:SHOWN]}..."
