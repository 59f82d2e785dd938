"""Loss curves: from the one table of records to smoothed loss against consumed tokens.

A record's loss is that of the model *before* the step it describes. A training loss logged after
`tokens` consumed tokens and averaged since the previous record therefore belongs to the middle of
`previous` and `tokens - batch`; a single step's loss belongs to `tokens - batch`. Validation losses
belong to `tokens` itself. At a thousand steps this moves a token count by a thousandth, which is
what batch sizes differ by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from megascale.curves.records import VALIDATION, Records, roughness, split_runs
from megascale.errors import FitError

Array = npt.NDArray[np.float64]

MIN_RECORDS = {"train": 8, "validation": 4}
"""Losses that a curve needs at least."""
DENSE_EVALUATIONS = 10
"""Evaluations in the middle run from which on these are taken rather than training losses."""
PLATEAU = 1e-3
"""Relative departure from the peak learning rate that ends the constant phase."""


@dataclass(frozen=True, slots=True)
class Window:
    """Disjoint smoothing windows, measured in tokens.

    Attributes:
        kind: "log": a window spans tokens t to t (1 + size); "tokens": `size` tokens; "none".
        size: the ratio minus one, or the tokens.
    """

    kind: Literal["log", "tokens", "none"] = "log"
    size: float = 0.05

    def __post_init__(self) -> None:
        if self.kind not in ("log", "tokens", "none"):
            raise FitError.of("window.kind", self.kind, "must be log, tokens or none", "log")
        if self.kind != "none" and not self.size > 0:
            raise FitError.of("window.size", self.size, "must be positive", 0.05)

    def index(self, tokens: Array) -> Array:
        """Number of the window each token count lies in."""
        if self.kind == "log":
            return np.floor(np.log(tokens / tokens[0]) / np.log1p(self.size))
        if self.kind == "tokens":
            return np.floor(tokens / self.size)
        return np.arange(len(tokens), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Curve:
    """One run's loss against consumed tokens, smoothed.

    Attributes:
        run: the run's id.
        tokens: consumed tokens, rising.
        loss: nats per token.
        error: standard error of each loss from the scatter of the records within the run; it does
            not know how another seed would differ. NaN where there are too few records.
        batch_tokens: global batch, or None where it changed during the run.
        n_params: parameters, counted as the source counts them; None where unknown.
        lr: peak learning rate, or None.
        loss_kind: of the records it was made from.
        sources: the log files.
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

    def at(self, tokens: npt.ArrayLike) -> Array:
        """Loss at token counts, by straight lines in log tokens; NaN outside the curve."""
        x = np.log(np.asarray(tokens, dtype=np.float64))
        return np.interp(x, np.log(self.tokens), self.loss, left=np.nan, right=np.nan)


@dataclass(frozen=True, slots=True)
class Dropped:
    """A run that gave no curve, and why."""

    run: str
    reason: str


@dataclass(frozen=True, slots=True)
class Curves:
    """Curves of many runs and what was left out."""

    curves: list[Curve]
    dropped: list[Dropped] = field(default_factory=list)

    def constant_batch(self) -> list[Curve]:
        """Those of runs whose batch never changed."""
        return [curve for curve in self.curves if curve.batch_tokens is not None]


def smooth(
    tokens: npt.ArrayLike,
    loss: npt.ArrayLike,
    window: Window | None = None,
    weights: npt.ArrayLike | None = None,
) -> tuple[Array, Array, Array]:
    """Average a curve over disjoint windows of tokens.

    Args:
        tokens: positions, positive and rising.
        loss: one a position, finite.
        window: default 5 % of the tokens.
        weights: tokens that each loss was averaged over; default alike.

    Returns:
        Position (weighted mean of log tokens), loss (weighted mean) and its standard error, one a
        non-empty window. The error comes from second differences in log tokens, averaged over
        `records.NOISE_RECORDS` records: the trend drops out, a bend within three records does not.

    Raises:
        FitError: lengths differ, positions do not rise, or a value is not finite.
    """
    x = np.asarray(tokens, dtype=np.float64)
    y = np.asarray(loss, dtype=np.float64)
    w = np.ones_like(x) if weights is None else np.asarray(weights, dtype=np.float64)
    if x.shape != y.shape or x.shape != w.shape or x.ndim != 1:
        raise FitError.of("loss", f"{y.shape} losses", f"must be as many as tokens, {x.shape}")
    if len(x) == 0:
        return x, y, y.copy()
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise FitError.of("loss", "NaN or infinity", "must be finite")
    if x[0] <= 0 or (np.diff(x) <= 0).any():
        raise FitError.of("tokens", float(x[0]), "must be positive and rise from record to record")
    starts = np.flatnonzero(np.diff((window or Window()).index(x), prepend=-1.0) > 0)
    total = np.add.reduceat(w, starts)
    where = np.exp(np.add.reduceat(w * np.log(x), starts) / total)
    where = np.where(np.diff(starts, append=len(x)) == 1, x[starts], where)
    mean = np.add.reduceat(w * y, starts) / total
    variance = roughness(np.log(x), y)
    error = np.sqrt(np.add.reduceat(w * w * variance, starts)) / total
    return where, mean, error


def curves_from_table(
    table: pl.DataFrame,
    *,
    n_params: Mapping[str, float | None] | None = None,
    loss: str = "auto",
    window: Window | None = None,
    phase: Literal["stable", "all"] = "stable",
) -> Curves:
    """Smoothed curves of every run of the one table.

    Args:
        table: columns run, step, tokens, batch_tokens, lr, loss, loss_kind, source (others are
            ignored; all but run, tokens and loss may hold nulls or be absent).
        n_params: parameters by run.
        loss: which losses: "train", "validation", "validation:SET", or "auto": validation where
            it gives as many curves as training losses do, of ten evaluations or more in the
            middle run; else training losses.
        window: smoothing, default 5 % of the tokens. Validation losses are never averaged.
        phase: "stable" keeps the records at the peak learning rate (within 1e-3) of runs that log
            one, which leaves out warmup and decay; "all" keeps every record.

    Raises:
        FitError: a needed column is missing, or an option is not legal.
    """
    for name in ("run", "tokens", "loss"):
        if name not in table.columns:
            raise FitError.of("column", name, "is not in the table", list(table.columns))
    if loss not in ("auto", "train", VALIDATION) and not loss.startswith(f"{VALIDATION}:"):
        rule = "must be auto, train, validation or validation:SET"
        raise FitError.of("loss", loss, rule, "auto")
    if phase not in ("stable", "all"):
        raise FitError.of("phase", phase, "must be stable or all", "stable")
    if table.is_empty():
        return Curves([])
    runs = list(split_runs(table))
    sizes = {run: None if size is None else float(size) for run, size in (n_params or {}).items()}

    def of(kind: str) -> Curves:
        curves, dropped = [], []
        for records in runs:
            built = _curve(records, kind, window or Window(), phase)
            if isinstance(built, str):
                dropped.append(Dropped(records.run, built))
            else:
                curves.append(replace(built, n_params=sizes.get(records.run)))
        return Curves(curves, dropped)

    if loss != "auto":
        return of(loss)
    train, evaluated = of("train"), of(VALIDATION)
    lengths = [len(curve.tokens) for curve in evaluated.curves]
    dense = bool(lengths) and np.median(lengths) >= DENSE_EVALUATIONS
    if not train.curves or (dense and len(evaluated.curves) >= len(train.curves)):
        return evaluated if evaluated.curves else train
    return train


def _curve(records: Records, wanted: str, window: Window, phase: str) -> Curve | str:
    """The run's curve, or in words why there is none."""
    if not np.isfinite(records.tokens).any():
        return "the log has no tokens: state the batch and the sequence length"
    rows, kind = records.losses_of(wanted)
    least = MIN_RECORDS[wanted.partition(":")[0]]
    if len(rows) < least:
        return f"{len(rows)} {wanted} losses, of at least {least}"
    batch = records.constant_batch()
    losses = records.loss[rows]
    tokens, weights = records.places(rows, kind)
    rates = records.rates_at(rows)
    keep = tokens > 0
    if phase == "stable" and np.isfinite(rates).any():
        keep &= rates >= np.nanmax(rates) * (1 - PLATEAU)
    if keep.sum() < least:
        return f"{int(keep.sum())} losses at the peak learning rate, of at least {least}"
    where = np.maximum.accumulate(tokens[keep])
    rising = np.diff(where, prepend=0.0) > 0
    smoothing = window if wanted == "train" else Window("none")
    positions, values, errors = smooth(
        where[rising], losses[keep][rising], smoothing, weights[keep][rising]
    )
    return Curve(
        run=records.run,
        tokens=positions,
        loss=values,
        error=errors,
        batch_tokens=batch,
        lr=float(np.nanmax(rates)) if np.isfinite(rates).any() else None,
        loss_kind=kind,
        sources=records.sources,
    )


def mean_curve(curves: list[Curve]) -> Curve:
    """The mean of runs that differ in their seed alone, where all of them have points.

    Its error is the spread between the runs over the root of their number, so it includes what a
    seed changes; a single curve is returned as it is.

    Raises:
        FitError: no curve, or curves that do not overlap.
    """
    if not curves:
        raise FitError.of("curves", "none", "must hold at least one")
    if len(curves) == 1:
        return curves[0]
    low = max(curve.tokens[0] for curve in curves)
    high = min(curve.tokens[-1] for curve in curves)
    first = curves[0]
    grid = first.tokens[(first.tokens >= low) & (first.tokens <= high)]
    if len(grid) == 0:
        raise FitError.of("curves", [curve.run for curve in curves], "must overlap in tokens")
    losses = np.stack([curve.at(grid) for curve in curves])
    return Curve(
        run=f"mean of {len(curves)}: {', '.join(curve.run for curve in curves[:3])}"
        + (", ..." if len(curves) > 3 else ""),
        tokens=grid,
        loss=losses.mean(axis=0),
        error=losses.std(axis=0, ddof=1) / np.sqrt(len(curves)),
        batch_tokens=first.batch_tokens,
        n_params=first.n_params,
        lr=first.lr,
        loss_kind=first.loss_kind,
        sources=tuple(sorted({name for curve in curves for name in curve.sources})),
    )
