"""What the runs behind a law have shown: outside it no law is safe to optimise."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from megascale.fitting.history import History
from megascale.schedule.lr import Shape, decayed
from megascale.units import short_count

Range = tuple[float, float]

SLACK = 0.05
"""Relative distance beyond a range that still counts as seen: a log has rows, not every step."""


@dataclass(frozen=True, slots=True)
class SeenRanges:
    """Ranges of the histories that a law was fitted to.

    Attributes:
        tokens: of the longest run.
        batch: batches in tokens, of all runs.
        batch_decayed: of the runs whose learning rate decays; None where none does. A batch that
            was seen at a constant rate only says nothing about the end of a decay.
        peak: largest learning rates.
        decay_share: decays as shares of their runs' tokens, those without left out; None for none.
        final_ratio: last learning rates over the peaks, of the runs that decay.
        warmup_tokens: middle of the warmups.
        shapes: of the decays, those that a schedule can have.
        n_params: sizes of their models; None where a run does not say.
    """

    tokens: float
    batch: Range
    batch_decayed: Range | None
    peak: Range
    decay_share: Range | None
    final_ratio: Range | None
    warmup_tokens: float = 0.0
    shapes: tuple[Shape, ...] = ()
    n_params: Range | None = None

    @classmethod
    def of_histories(cls, histories: Iterable[History]) -> SeenRanges:
        """The ranges of some runs, at least one."""
        runs = list(histories)
        decays = [(run, *_decay(run)) for run in runs]
        falling = [(run, share, final) for run, share, final in decays if share > 0]
        return cls(
            tokens=max(run.total_tokens for run in runs),
            batch=_range(size for run in runs for size in (run.batch.min(), run.batch.max())),
            batch_decayed=_range(
                size for run, _, _ in falling for size in (run.batch.min(), run.batch.max())
            )
            if falling
            else None,
            peak=_range(run.peak for run in runs),
            decay_share=_range(share for _, share, _ in falling) if falling else None,
            final_ratio=_range(final for _, _, final in falling) if falling else None,
            warmup_tokens=float(np.median([_warmup(run) for run in runs])),
            shapes=tuple(dict.fromkeys(s for run in runs if (s := decay_shape(run)) is not None)),
            n_params=None
            if any(run.n_params is None for run in runs)
            else _range(run.n_params or 0.0 for run in runs),
        )


def _range(values: Iterable[float]) -> Range:
    found = [float(value) for value in values]
    return min(found), max(found)


def _decay(history: History) -> tuple[float, float]:
    """(share of the tokens in the final decay, last learning rate over the peak)."""
    peak, last = history.peak, float(history.lr_end[-1])
    if last > 0.9 * peak:
        return 0.0, 1.0
    return float(1 - _decay_start(history) / history.total_tokens), last / peak


def _decay_start(history: History) -> float:
    """Tokens after which the learning rate never comes to its peak again."""
    peak = history.peak
    high = np.flatnonzero(np.maximum(history.lr_start, history.lr_end) >= peak * (1 - 1e-6))
    section = int(high[-1])
    falls = history.lr_start[section] > history.lr_end[section]
    return float(history.tokens[section] if falls else history.tokens[section + 1])


def decay_shape(history: History) -> Shape | None:
    """The shape of a history's final decay: the one whose curve it follows; None where it has no
    decay, or follows none within a fiftieth of the peak."""
    share, final = _decay(history)
    if share == 0:
        return None
    begin, end = _decay_start(history), history.total_tokens
    at = np.linspace(begin, end, 66)[1:-1]
    section = np.searchsorted(history.tokens, at, side="right") - 1
    left, right = history.tokens[section], history.tokens[section + 1]
    along = (at - left) / (right - left)
    rate = (
        history.lr_start[section] * (1 - along) + history.lr_end[section] * along
    ) / history.peak
    progress = (at - begin) / (end - begin)
    shapes: tuple[Shape, ...] = ("linear", "1-sqrt", "cosine", "exponential")
    off = {
        shape: float(np.abs(rate - [decayed(1.0, final, p, shape) for p in progress]).mean())
        for shape in (shapes if final > 0 else shapes[:3])
    }
    best = min(off, key=off.__getitem__)
    return best if off[best] <= 0.02 else None


def unseen_by_runs(history: History, seen: SeenRanges) -> tuple[str, ...]:
    """What of a schedule no run behind a law has shown, in words; empty where all of it is seen."""
    found = []
    share, final = _decay(history)
    batches = seen.batch_decayed if share and seen.batch_decayed else seen.batch
    if history.total_tokens > seen.tokens * (1 + SLACK):
        found.append(
            f"{short_count(round(history.total_tokens))} tokens, the longest run has "
            f"{short_count(round(seen.tokens))}"
        )
    for size in (float(history.batch.min()), float(history.batch.max())):
        if not is_inside(size, batches):
            kind = "runs with a decay have " if batches is not seen.batch else "runs have "
            found.append(f"a batch of {short_count(round(size))}, {kind}{range_words(batches)}")
    known = history.n_params
    if known is not None and seen.n_params is not None and not is_inside(known, seen.n_params):
        have = range_words(seen.n_params)
        found.append(f"{short_count(round(known))} parameters, runs have {have}")
    if not is_inside(history.peak, seen.peak):
        have = range_words(seen.peak)
        found.append(f"a peak learning rate of {history.peak:.3g}, runs have {have}")
    if share and seen.decay_share is None:
        found.append("a decay of the learning rate, no run has one")
    elif share and seen.decay_share is not None and seen.final_ratio is not None:
        if not is_inside(share, seen.decay_share):
            have = range_words(seen.decay_share)
            found.append(f"a decay over {share:.3g} of the run, runs have {have}")
        if not is_inside(final, seen.final_ratio):
            have = range_words(seen.final_ratio)
            found.append(f"a last learning rate of {final:.3g} of the peak, runs have {have}")
    return tuple(dict.fromkeys(found))


def is_inside(value: float, limits: Range) -> bool:
    """Whether a value lies in a range, or a little beyond."""
    return limits[0] * (1 - SLACK) <= value <= limits[1] * (1 + SLACK)


def range_words(limits: Range) -> str:
    """`256 to 1.024K`."""

    def word(value: float) -> str:
        return short_count(round(value)) if value >= 100 else f"{value:.3g}"

    low, high = map(word, limits)
    return low if low == high else f"{low} to {high}"


def _warmup(history: History) -> float:
    """Tokens at which the rate first comes to its peak."""
    if history.lr_start[0] >= history.peak * (1 - 1e-6):
        return 0.0
    return float(history.tokens[1 + int(np.argmax(history.lr_end >= history.peak * (1 - 1e-6)))])
