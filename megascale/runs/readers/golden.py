"""Megatron-LM's golden values: one JSON object of step -> value per TensorBoard tag."""

from __future__ import annotations

from typing import Any

from megascale.errors import DataError
from megascale.runs.readers import fields
from megascale.runs.readers.base import (
    INSTANTANEOUS,
    FileRead,
    ReadOptions,
    RunMeta,
    Source,
    exact_int,
    real,
    rows_table,
)
from megascale.runs.readers.documents import document, mapping

NAME = "megatron-golden"
ORDERED = False


def sniff(head: bytes, path: str) -> bool:
    return head.lstrip().startswith(b"{") and b'"step_interval"' in head and b'"values"' in head


def read(source: Source, options: ReadOptions) -> FileRead:
    """Read the loss, and what else was kept on the same steps. Lines count the values.

    The time since the value before is that step's time, as if the steps between had taken it too.

    Raises:
        DataError: no JSON object, or none of its tags is a loss.
    """
    found = FileRead(source.path, NAME)
    stated = _tags(source)
    tags = {key: _values(mapping(value)) for key, value in stated.items()}
    loss_tag = fields.find("loss", tags)
    if loss_tag is None:
        raise DataError.of(NAME, str(source.path), "no tag is known to be a loss")
    beside = {ours: tags.get(fields.find(ours, tags) or "", {}) for ours in ("lr", "grad_norm")}
    times = tags.get("iteration-time", {})
    rows, missing = [], []
    last = 0
    for number, (text, value) in enumerate(tags[loss_tag].items(), start=1):
        step, loss = exact_int(text), real(value)
        if step is None:
            found.reject(number, f"step {text[:40]!r} is no integer")
        elif loss is None:
            missing.append(number)
        else:
            row = {"step": step, "loss": loss, "loss_kind": INSTANTANEOUS, "line": number}
            row |= {ours: real(values.get(text)) for ours, values in beside.items()}
            took = real(times.get(text))
            row["seconds"] = took * (step - last) if took is not None and step > last else None
            last = max(last, step)
            rows.append(row)
    if isinstance(mapping(stated[loss_tag]).get("values"), list):
        found.note(
            "derived",
            "start_step is a place in the list of logged values, from 0: that of step 1",
        )
    if missing:
        found.note("nonfinite_loss", f"{len(missing)} values are 'nan': not run", missing[0])
    found.table = rows_table(rows)
    found.runs = [RunMeta(run="")]
    return found


def _tags(source: Source) -> dict:
    return mapping(document(source, NAME))


def _values(tag: dict[str, Any]) -> dict[str, Any]:
    """Values by their step as text.

    Before their steps were written beside them, they were a list: every `step_interval`-th of the
    logged values from place `start_step` on, where the first place, 0, is that of step 1.
    """
    values = tag.get("values")
    if not isinstance(values, list):
        return mapping(values)
    start, interval = exact_int(tag.get("start_step", 0)), exact_int(tag.get("step_interval", 1))
    if start is None or start < 0 or interval is None or interval < 1:
        return {}
    return {str(start + place * interval + 1): value for place, value in enumerate(values)}
