"""MLPerf training logs: `:::MLLOG` and a JSON object, after any prefix."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from megascale.runs.readers.base import (
    INSTANTANEOUS,
    VALIDATION,
    Clock,
    FileRead,
    ReadOptions,
    RunMeta,
    Source,
    exact_int,
    positive,
    real,
    rows_table,
)
from megascale.runs.readers.consoles import separate_note
from megascale.runs.readers.mlperf_axis import SAMPLES, STEPS, Evidence, shift_of, unit_of
from megascale.runs.readers.opening import ends_torn
from megascale.runs.readers.separation import label

NAME = "mlperf"
ORDERED = False

_MARK = b":::MLLOG"
_LOSS_BENCHMARKS = re.compile(r"gpt|llama|deepseek|mixtral|moe|qwen", re.IGNORECASE)
_EPOCHS_ARE_TOKENS = re.compile(r"gpt3", re.IGNORECASE)
"""Benchmarks whose `epoch_num` is consumed tokens."""
_EVALUATIONS = ("eval_loss", "eval_accuracy", "eval_error")
_LOSSES = ("reduced_train_loss", "train_loss", "training_loss", "loss")
_BEGINS = ("cache_clear", "init_start", "submission_benchmark", "submission_org", "run_start")
"""What a log says first; after the end of a run it is of another."""
_KEPT = re.compile(r"^(?:opt_|submission_|seed$|target|gradient_acc|init_checkpoint|max_steps)")

Row = dict[str, Any]
Key = tuple[str, int | None, int | None, int | None]


@dataclass(slots=True)
class _Run:
    """What was read of one run: what it states, its rows, and how many repeat one otherwise."""

    line: int = 0
    stated: dict[str, Any] = field(default_factory=dict)
    batches: set[int] = field(default_factory=set)
    rows: dict[Key, Row] = field(default_factory=dict)
    begun: float | None = None
    ended: bool = False
    differing: int = 0


def sniff(head: bytes, path: str) -> bool:
    return _MARK in head


def read(source: Source, options: ReadOptions) -> FileRead:
    """Read the evaluations and, where tracked, the training losses.

    A key that every rank prints is taken once per count. What is called a step may be a count of
    samples or tokens, and may be one batch low: see `mlperf_axis`. Where the unit cannot be told,
    steps and samples are left empty, and that is a problem of the log.
    """
    found = FileRead(source.path, NAME)
    runs = [_Run()]
    for number, event in _events(source.data, found):
        key = str(event.get("key"))
        if runs[-1].ended and key in _BEGINS:
            runs.append(_Run(number))
        _take(event, key, number, runs[-1], found)
    runs = [run for run in runs if run.rows] or runs[:1]
    rows: list[Row] = []
    for index, run in enumerate(runs):
        name = label(index) if len(runs) > 1 else ""
        _add_seconds(run)
        rows += [row | {"run": name or None} for row in _counted(run, options, found)]
        found.runs.append(_meta(name, run))
        if run.differing * 2 > len(run.rows):
            message = f"{run.differing:,} counts have several losses: several runs share this log"
            found.note("mixed_runs", message)
    if len(runs) > 1:
        found.note("separate_runs", separate_note(len(runs)), runs[1].line)
    found.table = rows_table(rows)
    return found


def _take(event: Row, key: str, number: int, run: _Run, found: FileRead) -> None:
    """What one event says."""
    value = event.get("value")
    metadata = event.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    if key in _EVALUATIONS:
        row: Row = {"loss": real(value), "loss_kind": VALIDATION}
    elif key == "tracked_stats" and isinstance(value, dict):
        name = next((name for name in _LOSSES if name in value), None)
        if name is None:
            return
        row = {"loss": real(value[name]), "loss_kind": INSTANTANEOUS, "lr": real(value.get("lr"))}
        row["step_seconds"] = real(value.get("train_step_time"))
    elif key in _LOSSES[:-1]:
        row = {"loss": real(value), "loss_kind": INSTANTANEOUS}
    elif key == "run_start":
        run.begun = real(event.get("time_ms"))
        return
    elif key == "run_stop":
        run.stated["status"], run.ended = metadata.get("status"), True
        return
    else:
        run.stated.setdefault(key, value)
        if key == "global_batch_size" and (size := positive(value)):
            run.batches.add(size)
        return
    counts = {
        "samples": exact_int(metadata.get("samples_count")),
        "step": exact_int(metadata.get("step", metadata.get("step_num"))),
        "epoch": exact_int(metadata.get("epoch_num")),
    }
    if row["loss"] is None:
        found.note("nonfinite_loss", f"{key} = {str(value)[:40]}", number)
    elif all(count is None for count in counts.values()):
        found.reject(number, f"{key} without samples_count, step or epoch_num")
    else:
        place: Key = (row["loss_kind"], counts["samples"], counts["step"], counts["epoch"])
        before = run.rows.get(place)
        run.differing += before is not None and before["loss"] != row["loss"]
        run.rows[place] = {**row, **counts, "line": number, "time_ms": real(event.get("time_ms"))}
        run.rows[place]["key"] = key


def _events(data: bytes, found: FileRead) -> Iterator[tuple[int, dict[str, Any]]]:
    torn = data.count(b"\n") + 1 if ends_torn(data) else 0
    for number, line in enumerate(data.split(b"\n"), start=1):
        at = line.find(_MARK)
        if at < 0:
            continue
        try:
            event = json.loads(line[at + len(_MARK) :].decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            event = None
        if isinstance(event, dict):
            yield number, event
        elif number == torn:
            found.note("torn", "the last line was cut off while it was written", number)
        else:
            found.reject(number, "no JSON object after :::MLLOG")


def _add_seconds(run: _Run) -> None:
    """Wall clock since the row before of the same key, evaluations included."""
    clock = Clock(None if run.begun is None else run.begun / 1000)
    for row in run.rows.values():
        at = row.pop("time_ms")
        row["seconds"] = clock.since(row["key"], None if at is None else at / 1000)


def _counted(run: _Run, options: ReadOptions, found: FileRead) -> list[Row]:
    """The rows of a run with finished steps and consumed samples, as far as they can be told."""
    batch = next(iter(run.batches)) if len(run.batches) == 1 else None
    seq = options.seq_length or positive(run.stated.get("max_sequence_length"))
    benchmark = str(run.stated.get("submission_benchmark") or "")
    rows = list(run.rows.values())
    if benchmark and not _LOSS_BENCHMARKS.search(benchmark):
        if any(row["key"] == "eval_accuracy" for row in rows):
            found.note("missing_field", f"eval_accuracy of {benchmark} is no loss: left out")
        rows = [row for row in rows if row["key"] != "eval_accuracy"]
    if len(run.batches) > 1:
        sizes = ", ".join(f"{size:,}" for size in sorted(run.batches))
        found.note("missing_field", f"the log states several global batches: {sizes}")
    for row in rows:
        _count_epochs(row, benchmark, seq, found)
    rows = [row for row in rows if row["samples"] is not None or row["step"] is not None]
    _count_samples(rows, batch, found)
    _count_steps(rows, batch, seq, positive(run.stated.get("max_steps")), found)
    rate = real(run.stated.get("opt_base_learning_rate"))
    rated = any(row.get("lr") is not None for row in rows)
    if rate is not None and rows and not rated:
        found.note("derived", f"lr is the base rate of the run, {rate:g}: no row has its own")
    for row in rows:
        row["batch_samples"] = batch
        if not rated:
            row["lr"] = rate
    return rows


def _count_epochs(row: Row, benchmark: str, seq: int | None, found: FileRead) -> None:
    """Samples of a row that is keyed by `epoch_num` alone."""
    tokens = row["epoch"]
    if tokens is None or row["samples"] is not None or row["step"] is not None:
        return
    if not _EPOCHS_ARE_TOKENS.search(benchmark):
        found.reject(row["line"], f"{row['key']} is keyed by epoch_num, whose unit is not known")
    elif seq is None or tokens % seq:
        found.reject(row["line"], f"epoch_num = {tokens:,} tokens are no whole sequences")
    else:
        row["samples"] = tokens // seq


def _count_samples(rows: list[Row], batch: int | None, found: FileRead) -> None:
    """Raise counts of samples that were logged one batch low."""
    for trained in (True, False):
        part = [row for row in rows if (row["loss_kind"] != VALIDATION) == trained]
        part = [row for row in part if row["samples"] is not None]
        low = shift_of([row["samples"] for row in part], batch, trained) if batch else 0
        if low:
            what = "training records" if trained else "evaluations"
            found.note("derived", f"samples of {what} are logged one batch of {low:,} low: raised")
        for row in part:
            row["samples"] += low
            if batch and row["samples"] % batch == 0:
                row["step"] = row["samples"] // batch


def _count_steps(
    rows: list[Row], batch: int | None, seq: int | None, planned: int | None, found: FileRead
) -> None:
    """Samples of rows that have a step alone, whatever it counts."""
    part = [row for row in rows if row["samples"] is None]
    if not part:
        return
    known = [row["samples"] for row in rows if row["samples"] is not None]
    train = [row for row in part if row["loss_kind"] != VALIDATION]
    passed = [
        row["seconds"] / row["step_seconds"]
        for row in train[1:]
        if row.get("seconds") and row.get("step_seconds")
    ]
    evidence = Evidence(batch, seq, max(known, default=None), planned, passed)
    unit = unit_of([row["step"] for row in train or part], evidence)
    if unit is None:
        for row in part:
            row["step"] = None
        message = (
            f"what its records call a step may be steps or samples: they are multiples of the "
            f"batch of {batch:,}, and no evaluation, plan or time tells which"
        )
        found.note("unknown_unit", message, part[0]["line"])
        return
    size = 1 if unit == STEPS else (batch or 1) * (1 if unit == SAMPLES else seq or 1)
    low = shift_of([row["step"] for row in train], size, True)
    if unit != STEPS:
        found.note("derived", f"what its records call a step counts {unit}")
    if low:
        found.note("derived", "steps are counted from 0: one more is finished at each record")
    for row in part:
        count = row["step"] + (low if row["loss_kind"] != VALIDATION else 0)
        row["step"] = count // size
        row["samples"] = exact_int(count // size * batch) if batch else None


def _meta(name: str, run: _Run) -> RunMeta:
    stated = run.stated
    return RunMeta(
        run=name,
        seq_length=positive(stated.get("max_sequence_length")),
        extra={
            key: value
            for key, value in stated.items()
            if (_KEPT.match(key) or key == "status") and isinstance(value, (str, int, float))
        },
    )
