"""OLMo-core's console log: a line with the step, then one indented line per metric."""

from __future__ import annotations

import re
from typing import Any

from megascale.runs.readers import fields
from megascale.runs.readers.base import (
    INSTANTANEOUS,
    VALIDATION,
    FileRead,
    ReadOptions,
    RunMeta,
    Source,
    exact_int,
    real,
    rows_table,
)
from megascale.runs.readers.consoles import StampClock, separated, stamp_of, without_colours
from megascale.runs.readers.opening import ends_torn, text_lines

NAME = "olmo"
ORDERED = True

_STEP = re.compile(r"\[step=(?P<step>[\d,]+)/(?P<total>[\d,]+),\s*epoch=")
_METRIC = re.compile(r"^\s+(?P<key>[^\s=][^=]*?)=(?P<value>\S+)\s*$")
_SNIFF = re.compile(rb"\[step=[\d,]+/[\d,]+,\s*epoch=")


def sniff(head: bytes, path: str) -> bool:
    return _SNIFF.search(without_colours(head)) is not None


def read(source: Source, options: ReadOptions) -> FileRead:
    """Read every step that shows a loss, with the metrics printed below it."""
    found = FileRead(source.path, NAME)
    data = without_colours(source.data)
    torn = data.count(b"\n") + 1 if ends_torn(data) else 0
    rows: list[dict[str, Any]] = []
    stamps: dict[int, float | None] = {}
    totals: dict[int, int | None] = {}
    step, line, metrics = None, 0, dict[str, str]()
    for number, text in text_lines(data):
        match = _STEP.search(text)
        metric = None if match else _METRIC.match(text)
        if metric is not None and step is not None:
            if number == torn:
                found.note("torn", "the last line was cut off while it was written", number)
            else:
                metrics[metric["key"].strip()] = metric["value"]
        elif match is not None or metrics:
            rows += _rows(step, line, metrics, found)
            step, line, metrics = None, number, {}
            if match is not None:
                step, stamps[number] = exact_int(match["step"]), stamp_of(text)
                totals[number] = exact_int(match["total"])
    rows += _rows(step, line, metrics, found)
    clock = StampClock()
    for row in rows:
        row["seconds"] = clock.since(row["loss_kind"], row["step"], stamps.get(row["line"]))
        row["total"] = totals.get(row["line"])
    found.table = rows_table(separated(rows, (), found))
    if rows and all(row["tokens"] is None for row in rows):
        found.note("missing_field", "no 'throughput/total tokens' is printed, so no tokens")
    found.runs = [RunMeta(run="")]
    return found


def _rows(
    step: int | None, line: int, metrics: dict[str, str], found: FileRead
) -> list[dict[str, Any]]:
    if step is None:
        return []
    values = {
        "step": step,
        "line": line,
        "tokens": _whole(metrics, "tokens"),
        "batch_tokens": _whole(metrics, "batch_tokens"),
    }
    rows = []
    losses = [("train/CE loss", INSTANTANEOUS)]
    losses += [
        (key, f"{VALIDATION}:{key}")
        for key in metrics
        if key.startswith("eval/") and key.endswith("CE loss")
    ]
    for key, kind in losses:
        if key not in metrics:
            continue
        loss = real(metrics[key])
        if loss is None:
            found.note("nonfinite_loss", f"{key} = {metrics[key][:40]}", line)
            continue
        row = {**values, "loss": loss, "loss_kind": kind}
        if kind == INSTANTANEOUS:
            row["lr"] = _real(metrics, "lr")
            row["grad_norm"] = _real(metrics, "grad_norm")
        rows.append(row)
    return rows


def _whole(metrics: dict[str, str], ours: str) -> int | None:
    key = fields.find(ours, metrics)
    return None if key is None else exact_int(metrics[key])


def _real(metrics: dict[str, str], ours: str) -> float | None:
    key = fields.find(ours, metrics)
    return None if key is None else real(metrics[key])
