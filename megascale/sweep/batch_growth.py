"""What branches of several batches say: how far the batch can grow at a point of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

FEWEST_PAIRS = 6
"""Independent windows, after the correlation of neighbours is taken off, that an interval needs."""


@dataclass(frozen=True, slots=True)
class BatchDifference:
    """One batch against the smallest, over the same tokens.

    Attributes:
        batch_tokens: the batch.
        loss: mean training loss of the compared stretch, in nats per token.
        difference: its loss minus the smallest batch's; 0 for the smallest itself.
        low, high: interval of the difference; None where there are too few windows.
        verdict: `reference`, `no worse`, `worse` or `cannot tell`.
    """

    batch_tokens: int
    loss: float
    difference: float
    low: float | None
    high: float | None
    verdict: str


@dataclass(frozen=True, slots=True)
class BatchGrowth:
    """The answer of a set of branches.

    Attributes:
        rows: by ascending batch.
        tolerance: nats per token that count as no worse.
        confidence: of the intervals.
        grows_to: largest batch that is no worse, with all below it; None where none above the
            reference is.
        worse_from: smallest batch above it that is worse; None where none is.
    """

    rows: tuple[BatchDifference, ...]
    tolerance: float
    confidence: float
    grows_to: int | None
    worse_from: int | None

    def sentence(self, present: int) -> str:
        """The verdict in one sentence; `present` is the run's batch in tokens at the checkpoint."""
        smallest = self.rows[0].batch_tokens
        by = f"within {self.tolerance:g} nats per token of a batch of {smallest:,}"
        if self.grows_to is None and self.worse_from is None:
            return (
                f"cannot tell whether the batch can grow: no branch is surely {by}, or surely not"
            )
        if self.grows_to is None:
            text = f"no batch above {smallest:,} tokens is surely {by}"
        elif self.grows_to > present:
            text = (
                f"the batch can grow {self.grows_to / present:g}-fold now, to {self.grows_to:,} "
                f"tokens: {by}"
            )
        elif self.grows_to == present:
            text = f"the batch of {present:,} tokens is {by}; growth is not shown"
        else:
            text = (
                f"only a batch up to {self.grows_to:,} tokens is {by}, the present is {present:,}"
            )
        if self.worse_from is None:
            return text + "; no branch was surely worse, so it may grow further"
        return text + f"; {self.worse_from:,} is too large"

    def to_dict(self) -> dict[str, Any]:
        """The answer as plain JSON types."""
        from dataclasses import asdict

        return asdict(self) | {"rows": [asdict(row) for row in self.rows]}


def windowed_losses(
    records: Sequence[Mapping[str, Any]], *, start: int, window: int, count: int
) -> NDArray[np.float64]:
    """Mean training loss of each of `count` windows of `window` tokens from `start` on.

    Args:
        records: of a run, a record a step, whose batch divides `window`.

    Returns:
        [count] in nats per token; NaN for a window with a skipped step or without targets.
    """
    sums, tokens = np.zeros(count), np.zeros(count)
    for record in records:
        place = (record["tokens"] - record["interval_tokens"] - start) // window
        if 0 <= place < count:
            broken = record["skipped"] or record["loss"] is None
            sums[place] += np.nan if broken else record["loss_sum"]
            tokens[place] += record["loss_tokens"]
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums / np.where(tokens > 0, tokens, np.nan)


def batch_growth(
    losses: Mapping[int, NDArray[np.float64]], *, tolerance: float, confidence: float
) -> BatchGrowth:
    """Compare batches over the second half of their windows.

    The branches read the same tokens in the same order, so each window's losses are a pair and
    the data's own noise falls out of their difference. Windows in which a branch skipped a step
    are left out.

    Args:
        losses: batch in tokens -> windowed losses, all of one length.
        tolerance: difference in nats per token that counts as no worse.
        confidence: of the intervals, for example 0.95.
    """
    batches = sorted(losses)
    half = len(losses[batches[0]]) // 2
    reference = losses[batches[0]][half:]
    rows = []
    for batch in batches:
        own = losses[batch][half:]
        both = ~np.isnan(own) & ~np.isnan(reference)
        mean = float(own[both].mean()) if both.any() else float("nan")
        if batch == batches[0]:
            rows.append(BatchDifference(batch, mean, 0.0, 0.0, 0.0, "reference"))
            continue
        difference = (own - reference)[both]
        low, high = mean_interval(difference, confidence)
        verdict = "cannot tell"
        if low is not None and high is not None:
            verdict = "no worse" if high <= tolerance else "worse" if low > tolerance else verdict
        center = float(difference.mean()) if len(difference) else float("nan")
        rows.append(BatchDifference(batch, mean, center, low, high, verdict))
    grows_to = worse_from = None
    for row in rows[1:]:
        if row.verdict != "no worse":
            break
        grows_to = row.batch_tokens
    for row in rows[1:]:
        if row.verdict == "worse" and row.batch_tokens > (grows_to or 0):
            worse_from = row.batch_tokens
            break
    return BatchGrowth(tuple(rows), tolerance, confidence, grows_to, worse_from)


def mean_interval(
    values: NDArray[np.float64], confidence: float
) -> tuple[float | None, float | None]:
    """Interval of the mean of a series whose neighbours are correlated, by Student's t.

    The number of values is reduced by their first autocorrelation r to n (1 - r) / (1 + r), as for
    an autoregressive series of first order; a negative r counts as 0.

    Returns:
        Low and high; None where fewer than 6 independent values remain.
    """
    count = len(values)
    if count < FEWEST_PAIRS:
        return None, None
    centred = values - values.mean()
    square = float(centred @ centred)
    correlation = 0.0 if square == 0 else float(centred[1:] @ centred[:-1]) / square
    # of few values it is estimated too low by about (1 + 3 r) / n
    correlation = min(max(correlation + (1 + 3 * correlation) / count, 0.0), 0.99)
    independent = count * (1 - correlation) / (1 + correlation)
    if independent < FEWEST_PAIRS:
        return None, None
    error = (square / (count - 1) / independent) ** 0.5
    reach = float(student.ppf((1 + confidence) / 2, independent - 1)) * error
    return float(values.mean() - reach), float(values.mean() + reach)
