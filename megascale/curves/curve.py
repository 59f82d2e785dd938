"""One run's loss against consumed tokens: where it stands, how it is smoothed, what time it took.

A record's loss is that of the model *before* the step it describes. A training loss logged after
`tokens` consumed tokens and averaged since the previous record therefore belongs to the middle of
`previous` and `tokens - batch`; a single step's loss belongs to `tokens - batch`. Validation losses
belong to `tokens` itself. At a thousand steps this moves a token count by a thousandth, which is
what batch sizes differ by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from megascale.arrays import Array
from megascale.curves.records import VALIDATION, Placed
from megascale.curves.smoothing import NOISE_RECORDS, Trend, Window, joined_points, local_trend
from megascale.errors import FitError


@dataclass(frozen=True, slots=True)
class RecordCounts:
    """Counts after each record of a run; NaN where the log does not say.

    Attributes:
        tokens: consumed, rising; shape [n].
        steps: finished steps; [n].
        seconds: wall clock; [n].
        batch: realised global batch (tokens) of each record's last step; [n].
    """

    tokens: Array
    steps: Array
    seconds: Array
    batch: Array

    def steps_at(self, tokens: float) -> float | None:
        """Finished steps after so many tokens; None where the log does not say."""
        return self._at(self.steps, tokens)

    def seconds_at(self, tokens: float) -> float | None:
        """Wall clock after so many tokens; None where the log does not say."""
        return self._at(self.seconds, tokens)

    def _at(self, values: Array, tokens: float) -> float | None:
        """A count that grows with tokens from 0, between records."""
        if np.isnan(values).any():
            return None
        if tokens < self.tokens[0]:
            return float(values[0] * tokens / self.tokens[0])
        return float(np.interp(tokens, self.tokens, values))


@dataclass(frozen=True)
class Curve:
    """One run's loss against consumed tokens, smoothed.

    Attributes:
        run: the run's id.
        tokens: consumed tokens of the curve's points, rising: of windows of training losses, of
            every validation loss; shape [n].
        loss: of the points, nats per token; [n].
        error: standard error of each loss from the scatter of the records within the run; it does
            not know how another seed would differ. NaN where there are too few records; [n].
        batch_tokens: global batch, or None where it changed during the run.
        n_params: parameters, counted as the source counts them; None where unknown.
        lr: peak learning rate, or None.
        loss_kind: of the records it was made from.
        sources: the log files.
        window: of the smoothing.
        end: consumed tokens at the end of the run; None takes those of the last point.
        placed: the losses before smoothing; None where they are not known.
        clock: steps, seconds and batch after each record; None where they are not known.
        whole: the curve that this one is a stretch of; None where it is one itself.
        ramp_tokens: tokens by which the rise of the learning rate to its peak puts the run behind
            one that begins there (`Records.ramp_tokens`).
    """

    run: str
    tokens: Array
    loss: Array
    error: Array
    batch_tokens: float | None = None
    n_params: float | None = None
    lr: float | None = None
    loss_kind: str = ""
    sources: tuple[str, ...] = ()
    window: Window = field(default_factory=Window)
    end: float | None = None
    placed: Placed | None = None
    clock: RecordCounts | None = None
    whole: Curve | None = None
    ramp_tokens: float = 0.0

    @property
    def is_validation(self) -> bool:
        """Whether the losses are evaluations, which are not averaged."""
        return self.loss_kind.startswith(VALIDATION)

    @property
    def last(self) -> float:
        """Consumed tokens where the curve ends."""
        return float(self.tokens[-1] if self.end is None else self.end)

    @cached_property
    def trend(self) -> Trend:
        """The smooth curve that tells where a loss is reached and where curves cross."""
        if self.whole is not None:
            return self.whole.trend
        x = np.log(self.tokens)
        if self.window.kind == "none" and not self.is_validation:
            return joined_points(x, self.loss, self.error, float(np.log(self.last)))
        return local_trend(x, self.loss, self.error, float(np.log(self.last)))

    @cached_property
    def line(self) -> Trend:
        """The smooth curve that losses are read from: of evaluations these themselves."""
        if self.whole is not None:
            return self.whole.line
        if self.is_validation:
            return joined_points(np.log(self.tokens), self.loss, self.error)
        return self.trend

    def at(self, tokens: npt.ArrayLike) -> Array:
        """Loss at token counts; NaN outside the curve.

        A training loss is read from the trend, a validation loss from monotone cubics in log
        tokens between the evaluations.
        """
        return self._read(self.line.loss, tokens)

    def error_at(self, tokens: npt.ArrayLike) -> Array:
        """Standard error of `at`, from the scatter within the run; NaN where it is not known."""
        return self._read(self.line.error, tokens)

    @property
    def final(self) -> float:
        """Smoothed loss at the curve's end; of evaluations the last one."""
        return float(self.at(self.last))

    @property
    def lowest(self) -> float:
        """The lowest loss that the trend, or an evaluation, has within the curve."""
        ends = np.log([self.tokens[0], self.last])
        found = []
        for line in (self.trend, self.line):
            found.append(np.interp(ends, line.x, line.loss))
            found.append(line.loss[(line.x >= ends[0]) & (line.x <= ends[1])])
        return float(np.concatenate(found).min())

    def _read(self, values: Array, tokens: npt.ArrayLike) -> Array:
        t = np.asarray(tokens, dtype=np.float64)
        found = np.interp(np.log(t), self.line.x, values, left=np.nan, right=np.nan)
        return np.where((t >= self.tokens[0]) & (t <= self.last), found, np.nan)

    def stretch(self, first: float, last: float) -> Curve:
        """The part between two token counts; losses there are those of the whole curve."""
        keep = (self.tokens >= first) & (self.tokens <= last)
        return replace(
            self,
            tokens=self.tokens[keep],
            loss=self.loss[keep],
            error=self.error[keep],
            end=min(last, self.last),
            whole=self.whole or self,
        )


@dataclass(frozen=True, slots=True)
class Dropped:
    """A run that gave no curve, and why."""

    run: str
    reason: str


@dataclass(frozen=True, slots=True)
class Curves:
    """Curves of many runs, of one kind of loss, and what was left out.

    Attributes:
        curves: of the runs that gave one.
        dropped: the others.
        loss: kind that was taken: "train", or that of the validation losses.
    """

    curves: list[Curve]
    dropped: list[Dropped] = field(default_factory=list)
    loss: str = ""

    def constant_batch(self) -> list[Curve]:
        """Those of runs whose batch never changed."""
        return [curve for curve in self.curves if curve.batch_tokens is not None]


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """The mean of runs that differ in their seed alone, where all of them have points.

    Its error is the spread between the runs, averaged over `NOISE_RECORDS` neighbouring points,
    over the root of their number, so it includes what a seed changes; a single curve is returned as
    it is.

    Raises:
        FitError: no curve, or curves that do not overlap.
    """
    if not curves:
        raise FitError.of("curves", "none", "must hold at least one")
    if len(curves) == 1:
        return curves[0]
    mean = _mean([curve.whole or curve for curve in curves])
    if any(curve.whole is not None for curve in curves):
        first, last = max(c.tokens[0] for c in curves), min(c.last for c in curves)
        mean = mean.stretch(first, last)
        if not len(mean.tokens):
            raise _apart(curves)
    return mean


def _mean(curves: Sequence[Curve]) -> Curve:
    low = max(curve.tokens[0] for curve in curves)
    high = min(curve.tokens[-1] for curve in curves)
    first = curves[0]
    grid = first.tokens[(first.tokens >= low) & (first.tokens <= high)]
    if len(grid) == 0:
        raise _apart(curves)
    losses = np.stack([np.interp(np.log(grid), np.log(c.tokens), c.loss) for c in curves])
    variance = losses.var(axis=0, ddof=1)
    around = np.ones(min(NOISE_RECORDS, len(grid)))
    near = np.convolve(variance, around, "same") / np.convolve(np.ones_like(grid), around, "same")
    return Curve(
        run=f"mean of {len(curves)}: {', '.join(curve.run for curve in curves[:3])}"
        + (", ..." if len(curves) > 3 else ""),
        tokens=grid,
        loss=losses.mean(axis=0),
        error=np.sqrt(near / len(curves)),
        batch_tokens=first.batch_tokens,
        n_params=first.n_params,
        lr=first.lr,
        loss_kind=first.loss_kind,
        sources=tuple(sorted({name for curve in curves for name in curve.sources})),
        window=first.window,
        end=min(curve.last for curve in curves),
        ramp_tokens=float(np.mean([curve.ramp_tokens for curve in curves])),
    )


def _apart(curves: Sequence[Curve]) -> FitError:
    return FitError.of("curves", [curve.run for curve in curves], "must overlap in tokens")
