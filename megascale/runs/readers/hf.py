"""Hugging Face's `trainer_state.json`. Its `loss` is the mean since the last log.

The global batch is not in it: `train_batch_size` is that of one device.
"""

from __future__ import annotations

from typing import Any

from megascale.errors import DataError
from megascale.runs.readers.base import (
    INTERVAL_MEAN,
    VALIDATION,
    FileRead,
    ReadOptions,
    RunMeta,
    Source,
    exact_int,
    real,
    rows_table,
)
from megascale.runs.readers.documents import document, mapping

NAME = "hf"
ORDERED = False


def sniff(head: bytes, path: str) -> bool:
    return head.lstrip().startswith(b"{") and b'"log_history"' in head


def read(source: Source, options: ReadOptions) -> FileRead:
    """Read the log history.

    Raises:
        DataError: no JSON object with a `log_history`.
    """
    found = FileRead(source.path, NAME)
    state = mapping(document(source, NAME))
    history = state.get("log_history")
    if not isinstance(history, list):
        raise DataError.of(NAME, str(source.path), "has no list 'log_history'")
    rows: list[dict[str, Any]] = []
    for number, entry in enumerate(history, start=1):
        if not isinstance(entry, dict):
            found.reject(number, "an entry of log_history that is no object")
        else:
            rows += _rows(number, entry, found)
    found.table = rows_table(rows)
    if rows and all(row["tokens"] is None for row in rows):
        found.note(
            "missing_field",
            "num_input_tokens_seen was not counted and the global batch is not in the file, so "
            "no tokens: state the batch",
        )
    kept = ("max_steps", "total_flos", "train_batch_size", "num_train_epochs", "logging_steps")
    found.runs = [RunMeta(run="", extra={key: state[key] for key in kept if key in state})]
    return found


def _rows(number: int, entry: dict[str, Any], found: FileRead) -> list[dict[str, Any]]:
    losses = [("loss", INTERVAL_MEAN)] if "loss" in entry else []
    evaluated = [key for key in entry if key.startswith("eval_") and key.endswith("loss")]
    for key in evaluated:
        name = key[len("eval_") : -len("loss")].strip("_")
        losses.append((key, f"{VALIDATION}:{name}" if name else VALIDATION))
    step = exact_int(entry.get("step"))
    rows = []
    for key, kind in losses:
        loss = real(entry[key])
        if step is None:
            found.reject(number, "an entry of log_history without a step")
        elif loss is None:
            found.note("nonfinite_loss", f"{key} = {str(entry[key])[:40]}", number)
        else:
            rows.append(
                {
                    "step": step,
                    "tokens": exact_int(entry.get("num_input_tokens_seen")) or None,
                    "loss": loss,
                    "loss_kind": kind,
                    "lr": real(entry.get("learning_rate")),
                    "grad_norm": real(entry.get("grad_norm")),
                    "line": number,
                }
            )
    return rows
