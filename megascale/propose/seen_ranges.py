"""What the runs behind a law have shown: outside it no law is safe to optimise."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from megascale.fitting.history import History

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
        n_params: sizes of their models; None where a run does not say.
    """

    tokens: float
    batch: Range
    batch_decayed: Range | None
    peak: Range
    decay_share: Range | None
    final_ratio: Range | None
    warmup_tokens: float = 0.0
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
    high = np.flatnonzero(np.maximum(history.lr_start, history.lr_end) >= peak * (1 - 1e-6))
    section = int(high[-1])
    falls = history.lr_start[section] > history.lr_end[section]
    begin = history.tokens[section] if falls else history.tokens[section + 1]
    return float(1 - begin / history.total_tokens), last / peak


def _warmup(history: History) -> float:
    """Tokens at which the rate first comes to its peak."""
    if history.lr_start[0] >= history.peak * (1 - 1e-6):
        return 0.0
    return float(history.tokens[1 + int(np.argmax(history.lr_end >= history.peak * (1 - 1e-6)))])
