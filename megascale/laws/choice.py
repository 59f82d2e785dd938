"""Which law of a loss or another quantity a table of points supports: AICc and held-out points.

`laws.batch.select` compares the laws of tokens and steps, whose points belong to target losses;
here are laws of one table: L(D) with a floor or without, L(N, D), power laws. All are fitted to
log y, so that their residuals can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from megascale import fitting
from megascale.arrays import Array
from megascale.errors import FitError
from megascale.fitting.catalogue import engine_law

Rows = npt.NDArray[Any]

RIVALS: dict[int, tuple[str, ...]] = {
    1: ("loss_curve", "power_law"),
    2: ("chinchilla", "power_law"),
}
"""Laws of a positive quantity, by the number of its inputs."""
FOLDS = 10


@dataclass(frozen=True, slots=True)
class FormVerdict:
    """How one law did.

    Attributes:
        law: its name.
        parameters: of the problems compared, without the residuals' variance.
        rms: of log y.
        aicc: summed over the problems, one variance for all.
        held_out: rms of log y at points that the fit has not seen, values of the last input left
            out together; NaN where too few are left.
        beyond: the same at the largest quarter of the last input, predicted from the rest.
        failed: fits that did not converge.
    """

    law: str
    parameters: int
    rms: float
    aicc: float
    held_out: float
    beyond: float
    failed: int


def compare_laws(
    x: Sequence[Array], y: Array, owner: Rows | None = None, laws: Sequence[str] | None = None
) -> list[FormVerdict]:
    """Fit rival laws to the same points, best by AICc first.

    AICc and rms are of the problems that every law describes with finite numbers, so that one
    failed fit decides nothing; `failed` counts them.

    Args:
        x: inputs, one (points,) array each: D; or N and D.
        y: (points,) positive target.
        owner: a number a point where several problems are fitted side by side; None for one.
        laws: which; None for those of `RIVALS`.

    Raises:
        FitError: no rivals for so many inputs, or a law that takes another number.
    """
    columns = np.stack([np.asarray(column, dtype=np.float64) for column in x])
    y = np.asarray(y, dtype=np.float64)
    if laws is None:
        if len(columns) not in RIVALS:
            rule = "there are rival laws of one input or two; name one with --law"
            raise FitError.of("inputs", len(columns), rule, sorted(RIVALS))
        laws = RIVALS[len(columns)]
    owner = np.zeros(len(y), dtype=np.int64) if owner is None else np.asarray(owner)
    _, owner = np.unique(owner, return_inverse=True)
    problems = [np.flatnonzero(owner == p) for p in range(int(owner.max()) + 1)]
    fits = {law: _fit(law, columns, y, problems) for law in laws}
    residuals = {
        law: [
            np.log(y[rows] / fit.predict(*columns[:, rows], problem=p))
            for p, rows in enumerate(problems)
        ]
        for law, fit in fits.items()
    }
    finite = [
        all(np.isfinite(of[p]).all() for of in residuals.values()) for p in range(len(problems))
    ]
    compared = [p for p, known in enumerate(finite) if known] or list(range(len(problems)))
    verdicts = [
        _verdict(law, columns, y, problems, fits[law], [residuals[law][p] for p in compared])
        for law in laws
    ]
    return sorted(verdicts, key=lambda verdict: verdict.aicc)


def verdict_table(verdicts: Sequence[FormVerdict]) -> pl.DataFrame:
    """Return one row a law."""
    return pl.DataFrame([asdict(verdict) for verdict in verdicts])


def _verdict(
    law: str,
    x: Array,
    y: Array,
    problems: Sequence[Rows],
    result: fitting.FitResult,
    residuals: Sequence[Array],
) -> FormVerdict:
    """How a law did; `residuals` are of the problems that count for AICc."""
    free = len(engine_law(law, len(x)).params)
    residual = np.concatenate(residuals)
    n, k = len(residual), free * len(residuals) + 1
    total = float((residual**2).sum())
    aicc = np.inf
    if n > k + 1 and np.isfinite(total):
        with np.errstate(divide="ignore"):  # points without noise can be met exactly
            aicc = float(n * np.log(total / n) + 2 * k + 2 * k * (k + 1) / (n - k - 1))
    folds = [fold for rows in problems for fold in _folds(x[-1], rows)]
    far = [
        (rows[x[-1][rows] < edge], rows[x[-1][rows] >= edge]) for rows, edge in _edges(x, problems)
    ]
    return FormVerdict(
        law=law,
        parameters=free * len(residuals),
        rms=float(np.sqrt(total / n)),
        aicc=aicc,
        held_out=_unseen(law, x, y, folds, free),
        beyond=_unseen(law, x, y, far, free),
        failed=int((~result.solved).sum()),
    )


def _fit(law: str, x: Array, y: Array, problems: Sequence[Rows]) -> fitting.FitResult:
    rows = np.concatenate(problems)
    offsets = np.concatenate([[0], np.cumsum([len(each) for each in problems])])
    return fitting.fit(law, x[:, rows], y[rows], offsets=offsets, residual="log", errors="status")


def _edges(x: Array, problems: Sequence[Rows]) -> list[tuple[Rows, float]]:
    """Each problem's rows, and where the largest quarter of its last input begins."""
    out = []
    for rows in problems:
        values = np.unique(x[-1][rows])
        out.append((rows, float(values[-max(1, len(values) // 4)])))
    return out


def _folds(column: Array, rows: Rows) -> list[tuple[Rows, Rows]]:
    """(kept, left out) rows: distinct values dealt to at most ten folds in turn."""
    values, place = np.unique(column[rows], return_inverse=True)
    count = min(FOLDS, len(values))
    fold = place % count
    return [(rows[fold != f], rows[fold == f]) for f in range(count)]


def _unseen(
    law: str, x: Array, y: Array, parts: Sequence[tuple[Rows, Rows]], parameters: int
) -> float:
    """Root mean square of log errors at the left-out rows; fits of too few rows are not tried."""
    able = [
        (kept, left)
        for kept, left in parts
        if len(left) and len(kept) > parameters and (np.ptp(x[:, kept], axis=1) > 0).all()
    ]
    if not able:
        return float("nan")
    result = _fit(law, x, y, [kept for kept, _ in able])
    errors = [
        np.log(y[left] / result.predict(*x[:, left], problem=p))
        for p, (_, left) in enumerate(able)
        if result.solved[p]
    ]
    return float(np.sqrt((np.concatenate(errors) ** 2).mean())) if errors else float("nan")
