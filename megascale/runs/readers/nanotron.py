"""nanotron's console log. Every number is rounded to three significant digits."""

from __future__ import annotations

import re
from collections.abc import Iterator

from megascale.runs.readers.base import (
    INSTANTANEOUS,
    FileRead,
    ReadOptions,
    RunMeta,
    Source,
    exact_int,
    real,
)
from megascale.runs.readers.consoles import Row, scan, without_colours

NAME = "nanotron"
ORDERED = True

_LINE = re.compile(r"iteration:\s*(?P<step>\d+)\s*/\s*(?P<total>\d+)\s*\|(?P<fields>.*)")
_SNIFF = re.compile(rb"iteration:\s*\d+\s*/\s*\d+\s*\|[^\n]*consumed_tokens:")
_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


def sniff(head: bytes, path: str) -> bool:
    return _SNIFF.search(without_colours(head)) is not None


def read(source: Source, options: ReadOptions) -> FileRead:
    """Read the iteration lines; consumed tokens only where the user states the batch."""
    found = FileRead(source.path, NAME)
    scan(source, found, b"iteration:", _LINE, _rows)
    if found.table.height:
        found.note(
            "coarse_precision",
            "nanotron prints three significant digits (a loss of 2.35 is 2.345 to 2.355), too "
            "coarse for a fit: use its TensorBoard or W&B history instead",
            found.table["line"][0],
        )
        if options.batch_tokens is None and options.batch_samples is None:
            found.note(
                "missing_field",
                "consumed tokens and batch are rounded to three digits, so they are left empty; "
                "state the batch to have tokens = steps x batch",
            )
    found.runs = [RunMeta(run="")]
    return found


def _rows(match: re.Match[str]) -> Iterator[Row]:
    fields = {}
    for cell in match["fields"].split("|"):
        key, colon, value = cell.partition(":")
        if colon:
            fields[key.strip()] = value.strip()
    loss = _human(fields.get("lm_loss", fields.get("loss", "")))
    yield {
        "step": exact_int(match["step"]),
        "total": exact_int(match["total"]),
        "loss": fields.get("lm_loss", fields.get("loss")) if loss is None else loss,
        "lr": _human(fields.get("lr", "")),
        "grad_norm": _human(fields.get("grad_norm", "")),
        "loss_kind": INSTANTANEOUS,
    }


def _human(text: str) -> float | None:
    """2.1K -> 2100; None where it is no number."""
    unit = text[-1:] if text[-1:] in _UNITS else ""
    number = real(text[: len(text) - len(unit)])
    return None if number is None else number * _UNITS[unit]
