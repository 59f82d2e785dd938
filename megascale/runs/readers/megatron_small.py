"""Iteration lines of a small Megatron log, one by one.

Gives what the layouts of `megatron` give; for a few hundred lines a query of a table takes longer.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from megascale.runs.readers.base import INT64_MAX
from megascale.runs.readers.columns import WIDTH

LOSSES = ("lm loss", "lm-loss", "lm_loss", "lm loss value")
"""Names of the loss; of a line the first that it has."""

_WHOLE = re.compile(r"[+-]?[0-9]+")
_TIME = re.compile(r"[\d.]+")
_LAYOUTS = 8


def cells_of(text: str, begins: re.Pattern[str]) -> tuple[str, str, list[str]] | None:
    """Return the step of an iteration line, its total and its fields; None where it is none.

    Args:
        text: the line.
        begins: matches a first or second cell that names an iteration and the total.
    """
    cells = text.split("|")[:WIDTH]
    for first in (1, 2):
        match = begins.search(cells[first - 1]) if first <= len(cells) else None
        if match is not None:
            return match[1], match[2], cells[first:]
    return None


class Names:
    """Where the fields stand in a line, learnt once for all lines that are laid out alike."""

    def __init__(self, wanted: Collection[str]) -> None:
        self._wanted = wanted
        self._known: list[tuple[tuple[str, ...], list[tuple[str, int]], bool]] = []

    def values_of(self, cells: Sequence[str]) -> tuple[dict[str, str], bool]:
        """Return the texts of a line's wanted fields, the first of each; whether no name comes
        twice.
        """
        for starts, places, distinct in self._known:
            if len(cells) == len(starts) and all(map(str.startswith, cells, starts)):
                found = {name: cells[at][len(starts[at]) :].strip() for name, at in places}
                return found, distinct
        starts = tuple(key + colon if colon else "" for key, colon, _ in map(_cut, cells))
        names = [start[:-1].strip() for start in starts]
        places = [(name, names.index(name)) for name in self._wanted if name in names]
        filled = [name for name, start in zip(names, starts, strict=True) if start]
        fits = all(start or ":" not in cell for start, cell in zip(starts, cells, strict=True))
        known = (starts, places, len(set(filled)) == len(filled))
        if fits and all(starts[:-1]) and len(self._known) < _LAYOUTS:
            self._known.append(known)
        return {name: cells[at][len(starts[at]) :].strip() for name, at in places}, known[2]


def _cut(cell: str) -> tuple[str, str, str]:
    return cell.partition(":")


def read_values(
    step: str,
    fields: Mapping[str, str],
    counts: Sequence[str],
    rates: Sequence[str],
    losses: Sequence[str],
    times: Mapping[str, float],
) -> dict[str, Any] | None:
    """Return a line's numbers; None where one of them is no number, or a count is negative.

    Args:
        step: its text.
        fields: of `Names.values_of`.
        counts, rates: fields that are integers, and real numbers.
        losses: names of the loss, of which the first that is there counts.
        times: names of the time of an iteration, with its unit in seconds.
    """
    shown = next((fields[key] for key in losses if key in fields), None)
    row: dict[str, Any] = {"step": _integer(step), "loss": _real(shown), "shown_loss": shown}
    if row["step"] is None or (row["loss"] is None and shown is not None):
        return None
    for names, read in ((counts, _integer), (rates, _real)):
        for key in names:
            text = fields.get(key)
            row[key] = read(text)
            if row[key] is None and text is not None:
                return None
            if names is counts and row[key] is not None and row[key] < 0:
                return None
    timed = next((key for key in times if key in fields), None)
    match = _TIME.match(fields[timed]) if timed is not None else None
    seconds = _real(match[0]) if match is not None else None
    row["step_seconds"] = None if seconds is None or timed is None else seconds * times[timed]
    return row


def _integer(text: str | None) -> int | None:
    if text is None or not _WHOLE.fullmatch(text):
        return None
    value = int(text) if len(text) <= 20 else INT64_MAX + 1
    return value if abs(value) <= INT64_MAX else None


def _real(text: str | None) -> float | None:
    if text is None or "_" in text:
        return None
    try:
        return float(text)
    except ValueError:
        return None
