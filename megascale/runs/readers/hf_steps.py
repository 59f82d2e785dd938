"""At which steps Hugging Face's Trainer printed its dictionaries, which show an epoch alone.

Either a progress bar is drawn anew after each of them, or the epochs and the start-up lines leave
one whole logging interval. Nothing is assumed where several would do.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from megascale.runs.readers.base import exact_int, real

_BAR = re.compile(rb"[|%] *(\d+)/(\d+) \[\d")
_INTERVAL_MOST = 100_000
_FULL = 1e-9
"""Relative error of an epoch that is printed in full."""


@dataclass(slots=True)
class Entry:
    """One printed dictionary.

    Attributes:
        start, end: where it stands in the log, in bytes.
        line: its line, counted from 1.
        fields: its values as text.
        quoted: names of the values that were quoted, so rounded to four significant digits.
        train: it is of a training interval, not of an evaluation.
        step: finished steps; None while they are not known.
    """

    start: int
    end: int
    line: int
    fields: Mapping[str, str]
    quoted: Collection[str]
    train: bool
    step: int | None = None

    @property
    def epoch(self) -> float | None:
        return real(self.fields.get("epoch"))


@dataclass(frozen=True, slots=True)
class Header:
    """What is said about a launch's steps before its first dictionary.

    Attributes:
        total: optimizer steps of the whole run.
        examples: training examples of an epoch.
        batch: examples a step.
        interval: steps between two dictionaries.
        resumed: finished steps when the launch began.
    """

    total: int | None = None
    examples: int | None = None
    batch: int | None = None
    interval: int | None = None
    resumed: int = 0


def place(entries: Sequence[Entry], header: Header, bars: Bars) -> None:
    """Give every entry of one launch its step, where that follows."""
    if any(entry.step is not None for entry in entries):  # some programs print it
        return
    train = [entry for entry in entries if entry.train]
    for entry, step in bars.steps(entries, header.total) or _by_epochs(train, header):
        entry.step = step
    placed = [entry for entry in train if entry.step is not None]
    shown = {entry.fields.get("epoch"): entry.step for entry in placed}
    pace = _pace([entry.step or 0 for entry in placed], _epochs(placed), header)
    for entry in entries:
        if not entry.train and entry.step is None and "epoch" in entry.fields:
            entry.step = shown.get(entry.fields["epoch"], _only_step(entry, pace))


class Bars:
    """The progress bars of a log: where they were drawn, and how far they were."""

    def __init__(self, data: bytes) -> None:
        found = [(match.start(), int(match[1]), int(match[2])) for match in _BAR.finditer(data)]
        self._at = [at for at, _, _ in found]
        self._shown = [(done, total) for _, done, total in found]

    def _between(self, start: int, end: int) -> list[tuple[int, int]]:
        return self._shown[bisect_left(self._at, start) : bisect_left(self._at, end)]

    def steps(self, entries: Sequence[Entry], total: int | None) -> list[tuple[Entry, int]]:
        """Return the first drawing of the training's bar after each entry; empty where some have
        none.

        Where the printed lines were kept back, as in a pipe, several stand together without a bar
        between them, and nothing follows. The last entry may have none: the log may end there.
        """
        after = [
            self._between(entry.end, entries[at + 1].start if at + 1 < len(entries) else 2**62)
            for at, entry in enumerate(entries)
        ]
        if not after or not any(after):
            return []
        needed = [bars for at, bars in enumerate(after) if at + 1 < len(after) or bars]
        totals = set.intersection(*({total for _, total in bars} for bars in needed))
        if total is not None:
            totals &= {total}
        for one in sorted(totals, reverse=True):
            placed = [
                (entry, next(done for done, whole in bars if whole == one))
                for entry, bars in zip(entries, after, strict=True)
                if any(whole == one for _, whole in bars)
            ]
            if _rises([step for entry, step in placed if entry.train], one):
                return placed
        return []


def _rises(steps: Sequence[int], total: int) -> bool:
    upward = all(left < right for left, right in pairwise(steps))
    return bool(steps) and upward and steps[0] > 0 and steps[-1] <= total


def _by_epochs(train: Sequence[Entry], header: Header) -> list[tuple[Entry, int]]:
    """Steps at a constant interval, where one alone agrees with all epochs."""
    epochs = _epochs(train)
    if not epochs:
        return []
    found = [
        steps
        for first in ((False,) if header.resumed else (False, True))
        for interval in _intervals(epochs, header, first)
        if _pace(steps := _at_interval(len(train), interval, header, first), epochs, header)
    ]
    distinct = {tuple(steps) for steps in found}
    if len(distinct) != 1:
        return []
    return list(zip(train, found[0], strict=True))


def _epochs(train: Sequence[Entry]) -> list[tuple[float, float]]:
    """Lowest and highest epoch that would be printed as each entry's; empty if one has none."""
    texts = [entry.fields.get("epoch", "") for entry in train]
    values = [real(text) for text in texts]
    if not texts or any(value is None or value <= 0 for value in values):
        return []
    decimals = max(len(text.partition(".")[2]) for text in texts)
    bounds = []
    for entry, value in zip(train, values, strict=True):
        assert value is not None
        if "epoch" in entry.quoted:  # four significant digits
            off = 0.5 * 10.0 ** (math.floor(math.log10(value)) - 3)
        else:
            off = 0.5 * 10.0**-decimals if decimals <= 4 else 0.0
        off += _FULL * value
        bounds.append((value - off, value + off))
    return bounds


def _at_interval(count: int, interval: int, header: Header, first: bool) -> list[int]:
    """The steps of `count` entries, the first of them at step 1 if `first`."""
    begun = header.resumed // interval
    steps = [(begun + number) * interval for number in range(1, count + 1 - first)]
    return ([header.resumed + 1] if first else []) + steps


def _intervals(epochs: Sequence[tuple[float, float]], header: Header, first: bool) -> Iterator[int]:
    """Intervals that the start-up lines allow."""
    if header.interval is not None:
        if header.interval > 1 or not first:
            yield header.interval
        return
    if header.examples is None or header.batch is None or len(epochs) <= first:
        return
    least, most = _per_epoch(header)
    low, high = 1.0, float(_INTERVAL_MOST)
    if header.resumed:  # the first step is a multiple of the interval, which one is not known
        high = min(high, epochs[0][1] * most)
        apart = len(epochs) - 1
        if apart:
            low = max(low, (epochs[-1][0] * least - epochs[0][1] * most) / apart)
            high = min(high, (epochs[-1][1] * most - epochs[0][0] * least) / apart)
    else:
        for number, (lowest, highest) in enumerate(epochs[first:], start=1):
            low, high = max(low, lowest * least / number), min(high, highest * most / number)
    interval = math.ceil(low)
    while interval <= high:
        if interval > 1 or not first:
            yield interval
        interval += 1


def _per_epoch(header: Header) -> tuple[float, float]:
    """Fewest and most steps an epoch can have: whole micro-batches, and whole steps, are made."""
    assert header.examples is not None
    assert header.batch is not None
    steps = header.examples / header.batch
    return steps, steps + 1


def _pace(
    steps: Sequence[int], epochs: Sequence[tuple[float, float]], header: Header
) -> tuple[float, float] | None:
    """Fewest and most steps an epoch that give all the epochs shown; None if no number does."""
    if not steps or not epochs or (header.total is not None and steps[-1] > header.total):
        return None
    low = max(step / highest for step, (_, highest) in zip(steps, epochs, strict=True))
    high = min(step / max(lowest, 1e-300) for step, (lowest, _) in zip(steps, epochs, strict=True))
    if header.examples is not None and header.batch is not None:
        least, most = _per_epoch(header)
        low, high = max(low, least), min(high, most)
    return (low, high) if low <= high else None


def _only_step(entry: Entry, pace: tuple[float, float] | None) -> int | None:
    """The one whole step at an entry's epoch, if there is one alone."""
    bounds = _epochs([entry])
    if pace is None or not bounds:
        return None
    low, high = math.ceil(bounds[0][0] * pace[0]), math.floor(bounds[0][1] * pace[1])
    return low if low == high else None


def header_of(text: bytes) -> Header:
    """Return what a launch's lines before its first dictionary say."""
    return Header(
        total=_said(_TOTAL, text),
        examples=_said(_EXAMPLES, text),
        batch=_said(_BATCH, text),
        interval=_said(_INTERVAL, text),
        resumed=_said(_RESUMED, text) or 0,
    )


_TOTAL = re.compile(rb"Total (?:optimization )?steps = ([\d,]+)")
_EXAMPLES = re.compile(rb"Num examples = ([\d,]+)")
_BATCH = re.compile(rb"Total (?:train )?batch size \([^)]*\) = ([\d,]+)")
_INTERVAL = re.compile(rb"\blogging_steps['\"]?(?: *[=:] *| )([1-9]\d*)(?![\d.])")
_RESUMED = re.compile(
    rb"(?:Continuing training from|checkpoint with epoch \d+ and) global step (\d+)"
)


def _said(pattern: re.Pattern[bytes], text: bytes) -> int | None:
    found = pattern.findall(text)
    return exact_int(found[-1].decode()) if found else None
