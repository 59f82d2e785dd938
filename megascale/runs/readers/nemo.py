"""The console of NeMo 2 (its Lightning `ProgressPrinter`).

`global_step` counts from 0. Every field but that one is a mean over the steps since the line
before, consumed samples included: what had been consumed at the line itself follows from the batch.
Losses and rates have four significant digits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from megascale.runs.readers.base import (
    INTERVAL_MEAN,
    VALIDATION,
    FileRead,
    ReadOptions,
    RunMeta,
    Source,
    exact_int,
    filled,
    real,
)
from megascale.runs.readers.consoles import Row, scan, without_colours

NAME = "nemo"
ORDERED = True

_LINE = re.compile(
    r"Training epoch (?P<epoch>\d+), iteration (?P<iteration>\d+)/(?P<last>\d+) \|(?P<fields>.*)"
    r"|(?P<validated>(?<!Sanity checking )Validation: iteration \d+/)"
)
_SNIFF = re.compile(rb"Training epoch \d+, iteration \d+/\d+ \| [^\n]*loss: ")
_ROUNDING = 1e-3
"""Four significant digits: how far a mean that is no whole number may be off."""
_EXACT_BITS = 24


def sniff(head: bytes, path: str) -> bool:
    return _SNIFF.search(without_colours(head)) is not None


def read(source: Source, options: ReadOptions) -> FileRead:
    """Read the training lines; a validation loss is the one that the line after it shows."""
    found = FileRead(source.path, NAME)
    last: int | None = None
    validated = False

    def rows(match: re.Match[str]) -> Iterator[Row]:
        nonlocal last, validated
        if match["validated"] is not None:
            validated = True
            return
        pairs = (cell.partition(":") for cell in match["fields"].split("|"))
        fields = {key.strip(): value.strip() for key, _, value in pairs}
        step = exact_int(fields.get("global_step"))
        if step is None and match["epoch"] == "0":
            step = exact_int(match["iteration"])
        step = None if step is None else step + 1
        if validated and "val_loss" in fields and last is not None:
            yield {"step": last, "loss": fields["val_loss"], "loss_kind": VALIDATION}
        validated = False
        end = exact_int(match["last"])
        row: Row = {
            "step": step,
            "total": None if end is None else end + 1,
            "loss": fields.get("reduced_train_loss", fields.get("loss")),
            "loss_kind": INTERVAL_MEAN,
            "lr": real(fields.get("lr")),
            "grad_norm": real(fields.get("grad_norm")),
            "samples": exact_int(fields.get("consumed_samples")),
            "batch_samples": exact_int(fields.get("global_batch_size")),
        }
        took = real(fields.get("train_step_timing in s"))
        if took is not None and step is not None and step > (last or 0):
            row["seconds"] = took * (step - (last or 0))
        last = step
        yield row

    scan(source, found, b"iteration ", _LINE, rows)
    found.runs = [RunMeta(run="")]
    _undo_means(found)
    if found.table["samples"].null_count() and found.table.height:
        found.note(
            "missing_field",
            "consumed samples are means over the lines' intervals, and do not follow everywhere "
            "from them and from global_batch_size; there they are left empty",
        )
    return filled(found, options)


@dataclass(slots=True)
class _Counted:
    """The training line before: its finished steps and what was consumed, where that is known."""

    step: int = 0
    samples: int | None = 0


def _undo_means(found: FileRead) -> None:
    """Put what had been consumed at each line in the place of the mean over its interval."""
    train = found.table["loss_kind"] == INTERVAL_MEAN
    table = found.table.filter(train).select("step", "samples", "batch_samples")
    steps = table["step"].to_list()
    before = _Counted()
    counted: dict[int, int | None] = {0: 0}
    for index, (step, mean, batch) in enumerate(table.rows()):
        if step == before.step:
            continue  # another process printed it too
        interval = step - before.step
        later = next((one - step for one in steps[index + 1 : index + 99] if one > step), None)
        if interval <= 0 or (index == 0 and later is not None and later < step):
            interval = later or 1  # begins in the middle of a run
            before = _Counted(step - interval, counted.get(step - interval))
        before = _Counted(step, _consumed(before, interval, mean, batch))
        counted[step] = before.samples
    samples = [counted.get(step) for step in found.table["step"].to_list()]
    found.table = found.table.with_columns(samples=pl.Series(samples, dtype=pl.Int64))


def _consumed(before: _Counted, interval: int, mean: int | None, batch: int | None) -> int | None:
    """What had been consumed at a line, if its mean and its batch agree on it.

    The first line of a run may have no count, or one without its first step's.
    """
    if batch is None or batch <= 0:
        return None
    if mean is None:
        return interval * batch if before.step == 0 and interval == 1 else None
    if interval == 1:
        return mean if _is_exact(mean, batch) else None
    growth = batch * (interval - 1)
    if before.samples is None:
        known = growth % 2 == 0 and (mean + growth // 2) % batch == 0
        return mean + growth // 2 if known else None
    expected = before.samples + interval * batch
    shown = [expected - growth / 2]
    if before.step == 0:
        shown.append(shown[0] - batch / interval)
    return expected if any(_near(mean, one) for one in shown) else None


def _near(shown: float, expected: float) -> bool:
    return abs(shown - expected) <= _ROUNDING * abs(expected)


def _is_exact(samples: int, batch: int) -> bool:
    """Whether a float32, which the count is on its way to the line, holds it exactly."""
    spacing = 1 << max(samples.bit_length() - _EXACT_BITS, 0)
    return (batch & -batch) % spacing == 0
