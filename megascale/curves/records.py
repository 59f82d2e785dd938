"""The one table of log records as plain arrays, run by run, and where each loss stands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np
import numpy.typing as npt
import polars as pl

from megascale.arrays import Array, Index

INTERVAL_MEAN = "interval_mean"
TRAIN_KINDS = (INTERVAL_MEAN, "instantaneous", "ema")
"""Kinds of training loss, the one that a curve is made from first."""
VALIDATION = "validation"
PLATEAU = 1e-3
"""Relative departure from the peak learning rate that ends the constant phase."""
LATE = 4.0
"""A log whose first record comes after so many of its longest intervals did not begin at 0."""
NUMBERS = ("step", "tokens", "batch_tokens", "lr", "loss", "seconds")


@dataclass(frozen=True, slots=True)
class Placed:
    """Losses of one kind on the token axis, by rising tokens.

    Attributes:
        rows: of `Records`, one a loss; shape [n].
        after: consumed tokens after each record; [n].
        tokens: where each loss stands, not decreasing; [n].
        loss: nats per token; [n].
        weight: tokens behind each; [n].
        kind: of the losses, as in the one table; of several sets their names with commas.
    """

    rows: Index
    after: Array
    tokens: Array
    loss: Array
    weight: Array
    kind: str

    def __len__(self) -> int:
        return len(self.rows)


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

    def losses_of(self, wanted: str) -> Placed | None:
        """Return the finite losses of the wanted kind where they stand; None where there are none.

        Args:
            wanted: "train": of several kinds the first of `TRAIN_KINDS`. "validation:SET", several
                sets with commas: their mean where all were evaluated. "validation": every set that
                was evaluated as often as the one evaluated most.
        """
        if wanted.startswith(VALIDATION):
            return self._validation(wanted)
        ranks = {name: rank for rank, name in enumerate(TRAIN_KINDS)}
        found = [name for name in self.kinds if not name.startswith(VALIDATION)]
        if not found:
            return None
        kind = min(found, key=lambda name: ranks.get(name, len(ranks)))
        rows = self._rows_of(kind)
        return self._placed(rows, self.loss[rows], kind)

    def sets(self) -> tuple[str, ...]:
        """Return the validation kinds that were evaluated as often as the one evaluated most."""
        counts = {kind: n for kind, n in self.kinds.items() if kind.startswith(VALIDATION)}
        most = max(counts.values(), default=0)
        return tuple(kind for kind, count in counts.items() if count == most)

    @cached_property
    def kinds(self) -> dict[str, int]:
        """How many token counts have a finite loss of every kind."""
        finite = np.isfinite(self.loss) & np.isfinite(self.tokens)
        names = np.unique(self.kind[finite].astype(str))
        return {str(name): len(self._rows_of(str(name))) for name in names}

    def _rows_of(self, kind: str) -> Index:
        """Rows of one kind by rising tokens, the last one of each count."""
        finite = np.isfinite(self.loss) & np.isfinite(self.tokens)
        rows = np.flatnonzero(finite & (self.kind == kind))
        rows = rows[np.argsort(self.tokens[rows], kind="stable")]
        return rows[np.diff(self.tokens[rows], append=np.inf) > 0]

    def _validation(self, wanted: str) -> Placed | None:
        kinds = self.kinds
        if wanted == VALIDATION:
            names = self.sets()
        elif wanted in kinds:
            names = (wanted,)
        else:
            names = tuple(f"{VALIDATION}:{name}" for name in wanted.partition(":")[2].split(","))
        if not names or any(name not in kinds for name in names):
            return None
        rows = [self._rows_of(name) for name in names]
        common = reduce(np.intersect1d, [self.tokens[own] for own in rows])
        rows = [own[np.searchsorted(self.tokens[own], common)] for own in rows]
        loss = np.mean([self.loss[own] for own in rows], axis=0)
        return self._placed(rows[0], loss, validation_name(names)) if len(common) else None

    def _placed(self, rows: Index, loss: Array, kind: str) -> Placed:
        """Losses where they stand.

        A training loss is that of the model before its step: one step's stands at `tokens - batch`,
        an interval's mean in the middle of the row before and that. A validation loss stands at
        `tokens`. Losses that are no interval means all weigh 1. The first interval of a log that
        begins late (a branch) is taken to be as long as its longest.
        """
        tokens = self.tokens[rows]
        place, weight = tokens, np.ones_like(tokens)
        if not kind.startswith(VALIDATION):
            step = self.batch_tokens[rows]
            step = np.where(np.isfinite(step), step, self.constant_batch() or 0.0)
            before = place = np.maximum(tokens - step, 0.0)
            if kind == INTERVAL_MEAN:
                longest = float(np.diff(tokens).max()) if len(tokens) > 1 else np.inf
                begun = tokens[0] - longest if tokens[0] > LATE * longest else 0.0
                previous = np.concatenate([[begun], tokens[:-1]])
                place = (np.minimum(previous, before) + before) / 2
                weight = tokens - previous
        return Placed(rows, tokens, np.maximum.accumulate(place), loss, weight, kind)

    def clock(self) -> tuple[Array, Array] | None:
        """Return the consumed tokens and the wall clock (seconds) spent until then; None where not
        logged.

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
        """Return the global batch (tokens) of the step that ends at `tokens`, or of the next one
        logged.

        NaN where no row says, unless it follows from tokens over steps.
        """
        known = np.flatnonzero(np.isfinite(self.batch_tokens) & np.isfinite(self.tokens))
        if len(known) == 0:
            return np.full(len(tokens), self.constant_batch() or np.nan)
        known = known[np.argsort(self.tokens[known], kind="stable")]
        at = np.searchsorted(self.tokens[known], tokens, side="left")
        return self.batch_tokens[known[np.minimum(at, len(known) - 1)]]

    def constant_batch(self) -> float | None:
        """Return the global batch in tokens, or None where it changed or cannot be told.

        Without a batch in the log it follows from tokens over steps where that never changes.
        """
        known = np.unique(self.batch_tokens[np.isfinite(self.batch_tokens)])
        if len(known):
            return float(known[0]) if len(known) == 1 else None
        both = (self.step > 0) & (self.tokens > 0)
        ratio = np.unique(self.tokens[both] / self.step[both])
        return float(ratio[0]) if len(ratio) == 1 else None

    def ramp_tokens(self) -> float:
        """Return the tokens by which a rising learning rate puts the run behind one that begins at
        its peak: the integral of 1 - lr / peak over consumed tokens until the peak.

        Progress at a constant batch goes with the sum of learning rates (docs/schedule-law.md), so
        a warmup of W tokens from zero costs W / 2. 0 where no learning rate is logged, where the
        first record is at the peak already, and for a log that begins late (a branch).
        """
        known = np.flatnonzero(np.isfinite(self.lr) & (self.tokens > 0))
        known = known[np.argsort(self.tokens[known], kind="stable")]
        known = known[np.diff(self.tokens[known], append=np.inf) > 0]
        if len(known) < 2 or not self.lr[known].max() > 0:
            return 0.0
        tokens, share = self.tokens[known], self.lr[known] / self.lr[known].max()
        top = int(np.argmax(share >= 1 - PLATEAU))
        if top == 0 or tokens[0] > LATE * np.diff(tokens).max():
            return 0.0
        rise = (share[1] - share[0]) / (tokens[1] - tokens[0])
        first = float(np.clip(share[0] - rise * tokens[0], 0.0, share[0]))
        at = np.concatenate([[0.0], tokens[: top + 1]])
        behind = 1 - np.concatenate([[first], share[: top + 1]])
        return float(np.sum(np.diff(at) * (behind[1:] + behind[:-1]) / 2))

    def rates_at(self, rows: Index) -> Array:
        """Return the learning rate of rows; where they have none, the last one logged before."""
        own = self.lr[rows]
        logged = np.flatnonzero(np.isfinite(self.lr) & np.isfinite(self.tokens))
        if np.isfinite(own).any() or len(logged) == 0:
            return own
        logged = logged[np.argsort(self.tokens[logged], kind="stable")]
        at = np.searchsorted(self.tokens[logged], self.tokens[rows], side="right") - 1
        return np.where(at >= 0, self.lr[logged][np.maximum(at, 0)], np.nan)


def validation_name(kinds: Sequence[str]) -> str:
    """Return one name of several validation kinds: `validation:code,web`."""
    if len(kinds) == 1:
        return kinds[0]
    return f"{VALIDATION}:{','.join(kind.partition(':')[2] for kind in kinds)}"


def split_runs(table: pl.DataFrame) -> Iterator[Records]:
    """Return the table's runs in order of appearance.

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
