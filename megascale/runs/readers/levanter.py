"""Levanter's console: its progress lines, and what its JSON tracker writes into the log.

Progress lines round the step to three digits from 1,000 on (`1.23kit`): there only the tracker
tells which step it was. Losses are those of one step.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import polars as pl

from megascale.runs.readers.base import (
    INSTANTANEOUS,
    VALIDATION,
    FileRead,
    ReadOptions,
    RunMeta,
    Source,
    exact_int,
    real,
)
from megascale.runs.readers.consoles import Row, scan, without_colours
from megascale.runs.readers.documents import mapping

NAME = "levanter"
ORDERED = True

_PROGRESS = re.compile(
    r"Progress on:train\s+(?P<step>[\d.]+)(?P<unit>[kMG]?)it/.*?postfix:loss=(?P<loss>[^\s,]+)"
)
_TRACKED = re.compile(r'(?P<json>\{"tracker": ?"json_logger", ?"event": ?"log",.*)')
_SNIFF = re.compile(
    rb"Progress on:train\s+[\d.]+[kMG]?it/.*?postfix:loss="
    rb'|\{"tracker": ?"json_logger", ?"event": ?"log"'
)
_BESIDE = {"tokens": "/total_tokens", "lr": "/learning_rate", "grad_norm": "/norm/total"}
"""What the tracker logs of a step in records of their own, by the ends of its names."""


def sniff(head: bytes, path: str) -> bool:
    return _SNIFF.search(without_colours(head)) is not None


def read(source: Source, options: ReadOptions) -> FileRead:
    """Read the tracker's records if there are any, else the progress lines with an exact step."""
    found = FileRead(source.path, NAME)
    if b'"json_logger"' in source.data:
        _tracker(source, found)
    else:
        _progress(source, found)
    without = found.table["tokens"].null_count() == found.table.height
    if without and options.batch_tokens is None and options.batch_samples is None:
        found.note("missing_field", "the log does not state the batch, so no tokens")
    found.runs = [RunMeta(run="")]
    return found


def _progress(source: Source, found: FileRead) -> None:
    rounded: list[str] = []

    def rows(match: re.Match[str]) -> Iterator[Row]:
        if match["unit"]:
            rounded.append(match["step"] + match["unit"])
        else:
            step = exact_int(match["step"])
            yield {"step": step, "loss": match["loss"], "loss_kind": INSTANTANEOUS}

    scan(source, found, b"Progress on:train", _PROGRESS, rows)
    if rounded:
        found.note(
            "coarse_precision",
            f"{len(rounded)} progress lines round their step ({rounded[0]}it) and are left out: "
            "use the tracker's history (W&B, TensorBoard or json_logger)",
        )


def _tracker(source: Source, found: FileRead) -> None:
    beside: dict[int, dict[str, Any]] = {}

    def rows(match: re.Match[str]) -> Iterator[Row]:
        try:
            record = mapping(json.loads(match["json"]))
        except (ValueError, RecursionError):
            yield {"step": None}
            return
        metrics = _flat(mapping(record.get("metrics")))
        step = exact_int(record.get("step"))
        if step is not None:
            step += 1
            for ours, end in _BESIDE.items():
                value = next((metrics[key] for key in metrics if key.endswith(end)), None)
                if value is not None:
                    beside.setdefault(step, {})[ours] = value
        for key, value in metrics.items():
            if key == "train/loss":
                yield {"step": step, "loss": value, "loss_kind": INSTANTANEOUS}
            elif key.startswith("eval/") and key.split("/")[-1] == "loss":
                name = key[len("eval/") : -len("loss")].strip("/")
                kind = f"{VALIDATION}:{name}" if name else VALIDATION
                yield {"step": step, "loss": value, "loss_kind": kind}

    scan(source, found, b'"json_logger"', _TRACKED, rows)
    steps = found.table["step"].to_list()
    train = found.table["loss_kind"] == INSTANTANEOUS
    for ours, number in (("tokens", exact_int), ("lr", real), ("grad_norm", real)):
        values = [number(beside.get(step, {}).get(ours)) for step in steps]
        column = pl.Series(ours, values, dtype=found.table.schema[ours])
        keep = pl.lit(True) if ours == "tokens" else pl.lit(train)
        found.table = found.table.with_columns(pl.when(keep).then(column).alias(ours))


def _flat(metrics: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in metrics.items():
        name = f"{prefix}/{key}" if prefix else key
        flat |= _flat(value, name) if isinstance(value, dict) else {name: value}
    return flat
