"""The console of Composer and llm-foundry: a line with the batch, then one indented line a metric.

A batch is an optimizer step; its loss is that of the batch alone, the cross entropy where it is
shown, else the total, which has auxiliary losses in it. `time/token` and `time/sample` were counted
before the batch. Learning rates are printed with four decimals, too few to be taken.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from megascale.runs.readers.base import (
    INSTANTANEOUS,
    VALIDATION,
    FileRead,
    ReadOptions,
    RunMeta,
    Source,
    exact_int,
    filled,
    real,
    rows_table,
)
from megascale.runs.readers.consoles import Row, without_colours
from megascale.runs.readers.opening import ends_torn, text_lines

NAME = "composer"
ORDERED = True

_HEAD = re.compile(
    r"\[Eval batch=\d+/\d+\] Eval on"
    r"|(?P<epoch>\[epoch=\d+\])?\[(?P<unit>batch|token|sample|iteration|second)=(?P<count>\d+)"
    r"(?:/\d+)?\]"
)
_METRIC = re.compile(r"\s(?P<kind>Train|Eval) (?P<key>[^\s:][^:]*): (?P<value>\S+)\s*$")
_SNIFF = re.compile(rb"\[\w+=\d+(?:/\d+)?\]:\r?\n[^\n]*\sTrain [^\s:][^:\n]*: ")
_LOSSES = ("metrics/train/LanguageCrossEntropy", "loss/train/total")
_EVALUATED = re.compile(r"metrics/(?P<set>.+)/LanguageCrossEntropy")


def sniff(head: bytes, path: str) -> bool:
    return _SNIFF.search(without_colours(head)) is not None


def read(source: Source, options: ReadOptions) -> FileRead:
    """Read every batch that shows a loss, and the evaluations after the batch shown last."""
    found = FileRead(source.path, NAME)
    blocks = _blocks(without_colours(source.data), found)
    shown = (name for name in _LOSSES if any(f"Train {name}" in one.metrics for one in blocks))
    loss = next(shown, _LOSSES[-1])  # the same in all blocks: the last one may be cut off
    rows: list[Row] = []
    before: dict[str, dict[int, int]] = {"token": {}, "sample": {}}
    step = 0
    for block in blocks:
        if block.unit is None:
            rows += _evaluation(block, step, found)
            continue
        step = block.step or step
        if block.step is None:
            found.reject(block.line, "no step: neither time/batch nor a batch of the whole run")
            continue
        for unit, counts in before.items():
            count = exact_int(block.metrics.get(f"Train time/{unit}"))
            if count is not None:
                counts[step - 1] = count
            if block.unit == unit:
                counts[step] = block.count
        rows += _training(block, loss, found)
    for name, unit in (("tokens", "token"), ("samples", "sample")):
        counts = before[unit]
        batch = _constant_batch(counts)
        for row in rows:
            step = row["step"]
            row[name] = counts.get(step, None if batch is None else batch * step)
            begun = counts.get(step - 1)
            if begun is not None and row[name] is not None and row["loss_kind"] == INSTANTANEOUS:
                row[f"batch_{name}"] = (row[name] - begun) or None
    found.table = rows_table(rows)
    silent = all(row["tokens"] is None and row["samples"] is None for row in rows)
    if rows and silent and options.batch_tokens is None and options.batch_samples is None:
        found.note("missing_field", "the log counts no tokens, and does not state the batch")
    found.runs = [RunMeta(run="")]
    return filled(found, options)


@dataclass(slots=True)
class _Block:
    """What is printed at once: after a batch, or after an evaluation (`unit` is None)."""

    line: int
    unit: str | None
    count: int = 0
    in_epoch: bool = False
    metrics: dict[str, str] = field(default_factory=dict)

    @property
    def step(self) -> int | None:
        """Finished batches of the run."""
        begun = exact_int(self.metrics.get("Train time/batch"))
        if begun is not None:
            return begun + 1
        return self.count if self.unit == "batch" and not self.in_epoch else None


def _blocks(data: bytes, found: FileRead) -> list[_Block]:
    torn = data.count(b"\n") + 1 if ends_torn(data) else 0
    blocks: list[_Block] = []
    for number, text in text_lines(data):
        metric = _METRIC.search(text) if blocks else None
        if metric is not None:
            if number == torn:
                found.note("torn", "the last line was cut off while it was written", number)
            else:
                blocks[-1].metrics[f"{metric['kind']} {metric['key']}"] = metric["value"]
            continue
        head = _HEAD.search(text)
        if head is not None and number != torn:
            count = exact_int(head["count"]) or 0
            blocks.append(_Block(number, head["unit"], count, head["epoch"] is not None))
    return [block for block in blocks if block.metrics]


def _training(block: _Block, name: str, found: FileRead) -> Sequence[Row]:
    text = block.metrics.get(f"Train {name}")
    if text is None:
        return []
    row: Row = {"step": block.step, "loss_kind": INSTANTANEOUS, "line": block.line}
    row["grad_norm"] = real(block.metrics.get("Train l2_norm/grad/global"))
    return _finite(row, name, text, found)


def _evaluation(block: _Block, step: int, found: FileRead) -> Sequence[Row]:
    rows: list[Row] = []
    for key, text in block.metrics.items():
        match = _EVALUATED.search(key)
        if match is not None and key.startswith("Eval "):
            kind = VALIDATION if match["set"] == "eval" else f"{VALIDATION}:{match['set']}"
            row = {"step": step, "loss_kind": kind, "line": block.line}
            rows += _finite(row, key, text, found)
    return rows


def _finite(row: Row, name: str, text: str, found: FileRead) -> Sequence[Row]:
    row["loss"] = real(text)
    if row["loss"] is None:
        found.note("nonfinite_loss", f"{name} = {text[:40]}", row["line"])
        return []
    return [row]


def _constant_batch(before: dict[int, int]) -> int | None:
    """What a batch consumes, if the counts after all the steps shown agree on it."""
    steps = [step for step in before if step > 0]
    if not steps:
        return None
    batch, left = divmod(before[steps[0]], steps[0])
    return batch if not left and all(before[step] == batch * step for step in steps) else None
