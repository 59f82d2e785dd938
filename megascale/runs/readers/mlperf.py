"""MLPerf training logs: `:::MLLOG` and a JSON object, after any prefix."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
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
from megascale.runs.readers.opening import ends_torn

NAME = "mlperf"
ORDERED = False

_MARK = b":::MLLOG"
_LOSS_BENCHMARKS = re.compile(r"gpt|llama|deepseek|mixtral|moe|qwen", re.IGNORECASE)
_EVALUATIONS = ("eval_loss", "eval_accuracy", "eval_error")
_KEPT = re.compile(r"^(?:opt_|submission_|seed$|target|gradient_acc|init_checkpoint|max_steps)")


def sniff(head: bytes, path: str) -> bool:
    return _MARK in head


def read(source: Source, options: ReadOptions) -> FileRead:
    """Read the evaluations and, where tracked, the training losses.

    A key that every rank prints is taken once per sample count. Samples are as the submitter
    logged them; some count one batch less than was consumed.
    """
    found = FileRead(source.path, NAME)
    stated: dict[str, Any] = {}
    rows: dict[tuple[str, int | None, int | None], dict[str, Any]] = {}
    begun: float | None = None
    for number, event in _events(source.data, found):
        key, value = str(event.get("key")), event.get("value")
        metadata = event.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        samples = exact_int(metadata.get("samples_count"))
        step = exact_int(metadata.get("step", metadata.get("step_num")))
        if key in _EVALUATIONS:
            row = {"loss": real(value), "loss_kind": VALIDATION}
        elif key == "tracked_stats" and isinstance(value, dict):
            if "reduced_train_loss" not in value:
                continue
            row = {"loss": real(value["reduced_train_loss"]), "loss_kind": INSTANTANEOUS}
            row["lr"] = real(value.get("lr"))
        elif key == "run_start":
            begun = real(event.get("time_ms"))
            continue
        elif key == "run_stop":
            stated["status"] = metadata.get("status")
            continue
        else:
            stated.setdefault(key, value)
            continue
        if row["loss"] is None:
            found.note("nonfinite_loss", f"{key} = {str(value)[:40]}", number)
        elif samples is None and step is None:
            found.reject(number, f"{key} without samples_count or step")
        else:
            rows[key, samples, step] = {**row, "samples": samples, "step": step, "line": number}
            rows[key, samples, step]["time_ms"] = real(event.get("time_ms"))
    _add_seconds(rows, begun)
    _finish(found, stated, rows)
    return found


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


def _add_seconds(rows: dict[Any, dict[str, Any]], begun: float | None) -> None:
    """Wall clock since the row before of the same key, evaluations included."""
    clock = Clock(None if begun is None else begun / 1000)
    for (key, _, _), row in rows.items():
        at = row.pop("time_ms")
        row["seconds"] = clock.since(key, None if at is None else at / 1000)


def _finish(found: FileRead, stated: dict[str, Any], rows: dict[Any, dict[str, Any]]) -> None:
    batch = positive(stated.get("global_batch_size"))
    benchmark = str(stated.get("submission_benchmark") or "")
    if benchmark and not _LOSS_BENCHMARKS.search(benchmark):
        accurate = [key for key in rows if key[0] == "eval_accuracy"]
        if accurate:
            found.note("missing_field", f"eval_accuracy of {benchmark} is no loss: left out")
        rows = {key: row for key, row in rows.items() if key[0] != "eval_accuracy"}
    for row in rows.values():
        row["batch_samples"] = batch
        if row["step"] is None and batch and row["samples"] % batch == 0:
            row["step"] = row["samples"] // batch
        elif row["samples"] is None and batch:
            row["samples"] = exact_int(row["step"] * batch)
    found.table = rows_table(rows.values())
    found.runs = [
        RunMeta(
            run="",
            seq_length=positive(stated.get("max_sequence_length")),
            extra={
                key: value
                for key, value in stated.items()
                if (_KEPT.match(key) or key == "status") and isinstance(value, (str, int, float))
            },
        )
    ]
