"""The one table of log records as plain arrays, run by run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

INTERVAL_MEAN = "interval_mean"
TRAIN_KINDS = (INTERVAL_MEAN, "instantaneous", "ema")
"""Kinds of training loss, the one that a curve is made from first."""
VALIDATION = "validation"
NUMBERS = ("step", "tokens", "batch_tokens", "lr", "loss", "seconds")
NOISE_RECORDS = 41
"""Records around one over which the scatter of single records is averaged."""


@dataclass(frozen=True)
class Records:
    """Records of one run, in the table's order.

    Attributes:
        run: the run's id.
        step, tokens, batch_tokens, lr, loss, seconds: NaN where the table says nothing.
        kind: of each loss; empty where the table does not say.
        sources: the files they come from.
    """

    run: str
    step: Array
    tokens: Array
    batch_tokens: Array
    lr: Array
    loss: Array
    seconds: Array
    kind: npt.NDArray[np.object_]
    sources: tuple[str, ...]

    def losses_of(self, wanted: str) -> tuple[Index, str]:
        """Rows with a finite loss of the wanted kind by rising tokens, the last one of each count.

        Of several kinds of training loss the first of `TRAIN_KINDS` is taken; of several validation
        sets the one that is named (`validation:SET`), else the one with most records.

        Returns:
            Row numbers and the kind taken.
        """
        finite = np.flatnonzero(np.isfinite(self.loss) & np.isfinite(self.tokens))
        validation = wanted != "train"
        found = {
            name: count
            for name, count in self.kinds().items()
            if name.startswith(VALIDATION) == validation
        }
        if not found or (":" in wanted and wanted not in found):
            return np.empty(0, dtype=np.int64), ""
        if ":" in wanted:
            chosen = wanted
        elif validation:
            chosen = max(found, key=lambda name: found[name])
        else:
            ranks = {name: rank for rank, name in enumerate(TRAIN_KINDS)}
            chosen = min(found, key=lambda name: ranks.get(name, len(ranks)))
        rows = finite[self.kind[finite] == chosen]
        rows = rows[np.argsort(self.tokens[rows], kind="stable")]
        last = np.diff(self.tokens[rows], append=np.inf) > 0
        return rows[last], chosen

    def kinds(self) -> dict[str, int]:
        """How many finite losses with consumed tokens there are of every kind."""
        finite = np.isfinite(self.loss) & np.isfinite(self.tokens)
        names, counts = np.unique(self.kind[finite].astype(str), return_counts=True)
        return {str(name): int(count) for name, count in zip(names, counts, strict=True)}

    def places(self, rows: Index, kind: str) -> tuple[Array, Array]:
        """Where in consumed tokens the losses of `rows` stand, and the tokens behind each.

        A training loss is that of the model before its step: one step's stands at `tokens - batch`,
        an interval's mean in the middle of the row before and that. A validation loss stands at
        `tokens`. Losses that are no interval means all weigh 1.

        Args:
            rows: of one kind, by rising tokens, as `losses_of` gives them.
            kind: theirs.
        """
        tokens = self.tokens[rows]
        if kind.startswith(VALIDATION):
            return tokens, np.ones_like(tokens)
        step = self.batch_tokens[rows]
        step = np.where(np.isfinite(step), step, self.constant_batch() or 0.0)
        before = np.maximum(tokens - step, 0.0)
        if kind != INTERVAL_MEAN:
            return before, np.ones_like(tokens)
        previous = np.concatenate([[0.0], tokens[:-1]])
        return (np.minimum(previous, before) + before) / 2, tokens - previous

    def clock(self) -> tuple[Array, Array] | None:
        """Consumed tokens and the wall clock (seconds) spent until then; None where not logged.

        Taken from the kind of loss with the most rows that have a time; a first row without one
        counts as zero, so the clock then starts there.
        """
        timed = np.isfinite(self.seconds) & np.isfinite(self.tokens)
        if not timed.any():
            return None
        names, counts = np.unique(self.kind[timed].astype(str), return_counts=True)
        rows = np.flatnonzero((self.kind == names[np.argmax(counts)]) & np.isfinite(self.tokens))
        rows = rows[np.argsort(self.tokens[rows], kind="stable")]
        seconds = self.seconds[rows].copy()
        if np.isnan(seconds[0]):
            seconds[0] = 0.0
        if np.isnan(seconds).any():
            return None
        return self.tokens[rows], np.cumsum(seconds)

    def batch_at(self, tokens: Array) -> Array:
        """The global batch (tokens) of the step that ends at `tokens`, or of the next one logged.

        NaN where no row says, unless it follows from tokens over steps.
        """
        known = np.flatnonzero(np.isfinite(self.batch_tokens) & np.isfinite(self.tokens))
        if len(known) == 0:
            return np.full(len(tokens), self.constant_batch() or np.nan)
        known = known[np.argsort(self.tokens[known], kind="stable")]
        at = np.searchsorted(self.tokens[known], tokens, side="left")
        return self.batch_tokens[known[np.minimum(at, len(known) - 1)]]

    def constant_batch(self) -> float | None:
        """The global batch in tokens, or None where it changed or cannot be told.

        Without a batch in the log it follows from tokens over steps where that never changes.
        """
        known = np.unique(self.batch_tokens[np.isfinite(self.batch_tokens)])
        if len(known):
            return float(known[0]) if len(known) == 1 else None
        both = (self.step > 0) & (self.tokens > 0)
        ratio = np.unique(self.tokens[both] / self.step[both])
        return float(ratio[0]) if len(ratio) == 1 else None

    def rates_at(self, rows: Index) -> Array:
        """The learning rate of rows; where they have none, the last one logged before."""
        own = self.lr[rows]
        logged = np.flatnonzero(np.isfinite(self.lr) & np.isfinite(self.tokens))
        if np.isfinite(own).any() or len(logged) == 0:
            return own
        logged = logged[np.argsort(self.tokens[logged], kind="stable")]
        at = np.searchsorted(self.tokens[logged], self.tokens[rows], side="right") - 1
        return np.where(at >= 0, self.lr[logged][np.maximum(at, 0)], np.nan)


def roughness(x: Array, y: Array) -> Array:
    """Variance of single records around the local trend; NaN for fewer than three.

    From second differences, averaged over `NOISE_RECORDS` records: a trend drops out of them, a
    bend within three records does not.

    Args:
        x: rising positions; shape [n].
        y: values; [n].
    """
    if len(x) < 3:
        return np.full(len(x), np.nan)
    share = (x[1:-1] - x[:-2]) / (x[2:] - x[:-2])
    bend = y[1:-1] - (1 - share) * y[:-2] - share * y[2:]
    value = bend**2 / (1 + share**2 + (1 - share) ** 2)
    sums = np.concatenate([[0.0], np.cumsum(value)])
    half = NOISE_RECORDS // 2
    middle = np.arange(len(x)) - 1
    low = np.clip(middle - half, 0, max(0, len(value) - NOISE_RECORDS))
    high = np.minimum(low + NOISE_RECORDS, len(value))
    return (sums[high] - sums[low]) / (high - low)


def split_runs(table: pl.DataFrame) -> Iterator[Records]:
    """The table's runs in order of appearance.

    Args:
        table: column run, with those of `Records` where they are known.
    """
    columns = {name: _numbers(table, name) for name in NUMBERS}
    kind = _texts(table, "loss_kind")
    source = _texts(table, "source")
    runs = _texts(table, "run")
    first: dict[str, int] = {}
    number = np.array([first.setdefault(run, len(first)) for run in runs], dtype=np.int64)
    order = np.argsort(number, kind="stable")
    bounds = np.searchsorted(number[order], np.arange(len(first) + 1))
    for place, run in enumerate(first):
        rows = order[bounds[place] : bounds[place + 1]]
        yield Records(
            run=run,
            **{name: values[rows] for name, values in columns.items()},
            kind=kind[rows],
            sources=tuple(sorted({text for text in source[rows] if text})),
        )


def _numbers(table: pl.DataFrame, name: str) -> Array:
    if name not in table.columns:
        return np.full(len(table), np.nan)
    return table[name].cast(pl.Float64).fill_null(float("nan")).to_numpy()


def _texts(table: pl.DataFrame, name: str) -> npt.NDArray[np.object_]:
    if name not in table.columns:
        return np.full(len(table), "", dtype=object)
    return np.array(table[name].cast(pl.String).fill_null("").to_list(), dtype=object)
