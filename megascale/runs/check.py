"""What is odd about logs: what a fit must know before it trusts them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from megascale.errors import DataError
from megascale.runs.readers.base import VALIDATION, FileRead
from megascale.runs.table import LoadedRun, RunTable

PROBLEM = "problem"
NOTE = "note"

SPIKE_LEVEL_ROWS = 16
"""Rows before a row whose median is the level it is held against."""
SPIKE_SPREAD_ROWS = 64
"""Rows before a row that say how far from that level rows usually are."""
SPIKE_SPREADS = 8.0
SPIKE_LEAST = 0.1
"""A spike exceeds the usual by that many robust standard deviations and that many nats."""
COARSE_STEP = 5e-3
"""Losses that are all multiples of such a step are too coarse for a fit (nats per token)."""
COARSE_LEAST_ROWS = 8
LINES_SHOWN = 5

MIXED = "mixed_runs"
"""The kind of a note that says that rows under one name are of several runs."""

_PROBLEM_NOTES = frozenset({"coarse_precision", "damaged", "sampled", MIXED, "unknown_unit"})


@dataclass(frozen=True, slots=True)
class Finding:
    """One odd thing.

    Attributes:
        run: the run's id.
        severity: `problem` (a fit on this would be wrong or impossible) or `note`.
        kind: `malformed`, `no_rows`, `missing_tokens`, `missing_field`, `coarse_precision`,
            `non_monotone`, `restart`, `separate_runs`, `mixed_runs`, `unknown_unit`, `duplicate`,
            `batch_change`, `spike`, `nonfinite_loss`, `skipped`, `torn`, `damaged`, `sampled`,
            `equal_curve` or `derived`.
        message: one sentence.
        source, line: where; 0 when it concerns the file as a whole.
    """

    run: str
    severity: str
    kind: str
    message: str
    source: str
    line: int = 0

    def __str__(self) -> str:
        place = f"{self.source}:{self.line}" if self.line else self.source
        return f"{place}: {self.severity}: {self.message}"

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as plain JSON types."""
        return asdict(self)


def check_runs(loaded: RunTable) -> list[Finding]:
    """Return everything odd about the loaded runs, run by run, problems first."""
    findings: list[Finding] = []
    seen: set[int] = set()
    copies = dict(equal_curves(loaded))
    for run in loaded.runs:
        found = list(_of_table(loaded, run))
        if run.run in copies:
            message = f"has the losses of {copies[run.run]}, all of them: it is no further seed"
            source = str(loaded.files[run.files[0]].path)
            found.append(Finding(run.run, PROBLEM, "equal_curve", message, source))
        for index in run.files:
            if index not in seen:  # a file of many runs is reported once
                found += _of_file(run.run, loaded.files[index])
                seen.add(index)
        findings += sorted(found, key=lambda finding: finding.severity == NOTE)
    return findings


def refuse_mixed(loaded: RunTable) -> None:
    """Refuse logs that hold several runs under one name: what is fitted to them means nothing.

    Raises:
        DataError: there is one; `runs check` shows all of them.
    """
    found = mixed_logs(loaded)
    if not found:
        return
    place, message = found[0]
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    rule = f"{message}{more}; leave it out, or divide it (megascale runs check shows all)"
    raise DataError.of("log", place, rule)


def mixed_logs(loaded: RunTable) -> list[tuple[str, str]]:
    """Return where logs hold several runs under one name, and what tells it."""
    return [
        (f"{read.path}:{note.line}" if note.line else str(read.path), note.message)
        for read in loaded.files
        for note in read.notes
        if note.kind == MIXED
    ]


def equal_curves(loaded: RunTable) -> list[tuple[str, str]]:
    """Return runs whose losses are those of an earlier run, all of them, with that run's name.

    Two seeds do not have the same losses to the last digit at the same tokens: the log is that of
    one run twice. Runs of fewer than `COARSE_LEAST_ROWS` losses are not judged.
    """
    losses = loaded.table.filter(pl.col("loss").is_not_null())
    parts = losses.partition_by("run", as_dict=True, maintain_order=True)
    found = []
    first: dict[tuple[int, ...], str] = {}
    for run in loaded.runs:
        own = parts.get((run.run,))
        if own is None or len(own) < COARSE_LEAST_ROWS:
            continue
        key = tuple(own.select("step", "tokens", "loss", "loss_kind").hash_rows().to_list())
        other = first.setdefault(key, run.run)
        if other != run.run:
            found.append((run.run, other))
    return found


def _of_file(run: str, read: FileRead) -> Iterator[Finding]:
    source = str(read.path)
    for line in read.malformed[:LINES_SHOWN]:
        yield Finding(run, PROBLEM, "malformed", line.reason, source, line.line)
    if read.malformed_count > LINES_SHOWN:
        message = f"{read.malformed_count:,} malformed lines in all"
        yield Finding(run, PROBLEM, "malformed", message, source)
    for note in read.notes:
        severity = PROBLEM if note.kind in _PROBLEM_NOTES else NOTE
        yield Finding(run, severity, note.kind, note.message, source, note.line)
    if read.superseded:
        message = f"{read.superseded:,} rows were written again after a restart"
        yield Finding(run, NOTE, "restart", message, source)


def _of_table(loaded: RunTable, run: LoadedRun) -> Iterator[Finding]:
    rows = loaded.rows(run.run)
    source = str(loaded.files[run.files[0]].path)
    if rows["loss"].null_count() == rows.height:
        yield Finding(run.run, PROBLEM, "no_rows", "no loss was read", source)
        return
    validation = pl.col("loss_kind").str.starts_with(VALIDATION)
    train = rows.filter(~validation)
    for finding in (
        _missing(rows, train),
        _backward_tokens(train),
        _backward_tokens(rows.filter(validation & (pl.col("loss_kind") == VALIDATION))),
        *_batch_changes(train),
        *_coarse(rows),
        *_spikes(train),
    ):
        if finding is not None:
            severity, kind, message, where, line = finding
            yield Finding(run.run, severity, kind, message, where or source, line or 0)


Part = tuple[str, str, str, str | None, int | None] | None


def _missing(rows: pl.DataFrame, train: pl.DataFrame) -> Part:
    if rows["tokens"].null_count() == rows.height:
        lacks = "samples are there: state --seq-length"
        if rows["samples"].null_count() == rows.height:
            lacks = "state --batch-tokens, or --batch-samples and --seq-length, if it was constant"
        return PROBLEM, "missing_tokens", f"no consumed tokens; {lacks}", None, None
    of = train if train.height else rows
    names = [name for name in ("step", "batch_tokens", "lr") if of[name].null_count() == of.height]
    holes = of["tokens"].null_count()
    if holes:
        names.append(f"tokens in {holes:,} of {of.height:,} rows")
    if not names:
        return None
    return NOTE, "missing_field", f"the log does not say: {', '.join(names)}", None, None


def _backward_tokens(rows: pl.DataFrame) -> Part:
    known = rows.filter(pl.col("tokens").is_not_null() & pl.col("step").is_not_null())
    back = known.filter(pl.col("tokens").diff() <= 0)
    if back.is_empty():
        return None
    first = back.row(0, named=True)
    message = (
        f"consumed tokens do not grow with the step at {back.height:,} rows, first at step "
        f"{first['step']:,}"
    )
    return PROBLEM, "non_monotone", message, first["source"], first["line"]


def _batch_changes(train: pl.DataFrame) -> Iterator[Part]:
    for name, unit in (("batch_tokens", "tokens"), ("batch_samples", "samples")):
        known = train.filter(pl.col(name).is_not_null())
        if known.is_empty():
            continue
        before = pl.col(name).shift()
        changes = known.with_columns(before=before).filter(pl.col(name) != pl.col("before"))
        for row in changes.head(LINES_SHOWN).iter_rows(named=True):
            at = f"step {row['step']:,}" if row["step"] is not None else "an unknown step"
            if row["tokens"] is not None:
                at += f", {row['tokens']:,} tokens"
            message = f"the batch goes from {row['before']:,} to {row[name]:,} {unit} by {at}"
            yield NOTE, "batch_change", message, row["source"], row["line"]
        if changes.height > LINES_SHOWN:
            sizes = changes[name].to_list()
            message = (
                f"{changes.height:,} batch changes in all, to between {min(sizes):,} and "
                f"{max(sizes):,} {unit}"
            )
            yield NOTE, "batch_change", message, None, None
        return


def _coarse(rows: pl.DataFrame) -> Iterator[Part]:
    for kind in rows["loss_kind"].unique(maintain_order=True):
        part = rows.filter((pl.col("loss_kind") == kind) & pl.col("loss").is_not_null())
        losses = part["loss"].to_numpy()
        if len(losses) < COARSE_LEAST_ROWS:
            continue
        for step in (0.1, 0.01, COARSE_STEP):
            if np.abs(losses / step - np.round(losses / step)).max() < 1e-6:
                message = (
                    f"{kind} losses are multiples of {step:g}: too coarse for a fit; use a log "
                    "with more digits (TensorBoard, W&B history)"
                )
                row = part.row(0, named=True)
                yield PROBLEM, "coarse_precision", message, row["source"], row["line"]
                break


def _usual(column: str, rows: int) -> pl.Expr:
    """The median of the rows before."""
    return pl.col(column).rolling_median(rows, min_samples=rows // 4).shift()


def _spikes(train: pl.DataFrame) -> Iterator[Part]:
    known = train.filter(pl.col("loss").is_not_null())
    if known.height <= SPIKE_LEVEL_ROWS:
        return
    lag = pl.col("loss") - _usual("loss", SPIKE_LEVEL_ROWS)  # below zero while the loss falls
    over = pl.col("lag") - _usual("lag", SPIKE_SPREAD_ROWS)
    spread = 1.4826 * _usual("deviation", SPIKE_SPREAD_ROWS)
    high = (
        known.with_columns(lag=lag)
        .with_columns(over=over)
        .with_columns(deviation=pl.col("over").abs())
        .with_columns(
            high=((pl.col("over") > SPIKE_SPREADS * spread) & (pl.col("over") > SPIKE_LEAST))
        )
        .with_columns(pl.col("high").fill_null(False))
    )
    flags = high["high"].to_numpy()
    begins = np.flatnonzero(flags & ~np.concatenate(([False], flags[:-1])))
    for begin in begins[:LINES_SHOWN]:
        length = int(np.argmin(np.append(flags[begin:], False)))
        row = high.slice(int(begin), length).sort("over").row(-1, named=True)
        at = f"step {row['step']:,}" if row["step"] is not None else "an unknown step"
        message = (
            f"a spike to {row['loss']:.4g} at {at}, {row['over']:.3g} above what came before, "
            f"{length:,} rows long"
        )
        yield NOTE, "spike", message, row["source"], row["line"]
    if len(begins) > LINES_SHOWN:
        yield NOTE, "spike", f"{len(begins):,} spikes in all", None, None
