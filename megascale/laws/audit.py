"""Extrapolation audits: refit without the hardest points and say how wrong the law would have been.

Three questions, as far as the points allow them: the largest N, the lowest losses, the longest
horizons. A law that only ever interpolated has proved nothing about the run it is made for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from megascale import fitting
from megascale.arrays import Array
from megascale.curves.curve import Curve
from megascale.errors import FitError
from megascale.laws.learning_rate import loss_penalty, rate_law
from megascale.laws.power import PowerLaw

LARGEST_N = "largest N"
LOWEST_LOSS = "lowest loss"
LONGEST_HORIZON = "longest horizon"


@dataclass(frozen=True, slots=True)
class Audit:
    """One refit without some of the points.

    Attributes:
        question: what was held out.
        kept, held_out: points.
        reach: how far beyond the kept points it went, as a ratio of N, of tokens, or of tokens.
        log_error: rms of log(predicted / observed).
        worst: predicted over observed where they differ most.
        in_band: share of the held-out points within the 90 % band of the refitted law.
        cost, worst_cost: mean and largest price of following it.
        cost_unit: `share of tokens` more than the best batch needs, or `nats` above the best loss.
        note: why there is no number, where there is none.
    """

    question: str
    kept: int
    held_out: int
    reach: float | None = None
    log_error: float | None = None
    worst: float | None = None
    in_band: float | None = None
    cost: float | None = None
    worst_cost: float | None = None
    cost_unit: str = ""
    note: str = ""


def audit_rate_law(optima: pl.DataFrame) -> list[Audit]:
    """Hold out optima of `learning_rate.optimal_rates` and predict them by the others' law.

    The price of a wrong rate is that of the held-out cell's own quadratic.
    """
    used = optima["usable"].to_numpy()
    audits = []
    for question, held in holdouts(optima, used, "loss").items():
        kept = used & ~held
        try:
            law = rate_law(optima.with_columns(pl.Series("usable", kept)))
        except FitError as error:
            audits.append(Audit(question, int(kept.sum()), int(held.sum()), note=str(error)))
            continue
        rows = np.flatnonzero(held)
        tokens = optima["tokens"].to_numpy()[rows]
        n = optima["n_params"].to_numpy()[rows] if law.with_n else None
        observed = optima["lr_opt"].to_numpy()[rows]
        curvature = optima["curvature"].to_numpy()[rows]
        cost = loss_penalty(curvature, np.log(law.at(n, tokens) / observed))
        audits.append(audited(question, optima, kept, rows, law, n, tokens, observed, cost, "nats"))
    return audits


def audit_loss_curves(curves: Iterable[Curve], fraction: float = 0.5) -> pl.DataFrame:
    """Predict every curve's last quarter of tokens by L(D) fitted to its beginning.

    Args:
        curves: any.
        fraction: of the tokens, that the fit sees.

    Returns:
        run, seen (points), error: predicted minus observed mean loss of the last quarter, in
        nats. Curves with fewer than six seen points are left out.

    Raises:
        FitError: the fraction leaves nothing to predict, or no curve has points enough.
    """
    if not 0 < fraction <= 0.75:
        raise FitError.of("fraction", fraction, "must be above 0 and at most 0.75", 0.5)
    able, x, y = [], [], []
    for curve in curves:
        seen = curve.tokens <= fraction * curve.tokens[-1]
        if seen.sum() >= 6:
            able.append(curve)
            x.append(curve.tokens[seen])
            y.append(curve.loss[seen])
    if not able:
        raise FitError.of("curves", 0, "none has six points in the part to be fitted")
    result = fitting.fit("loss_curve", x, y, residual="absolute", errors="status")
    rows = []
    for i, curve in enumerate(able):
        last = curve.tokens >= 0.75 * curve.tokens[-1]
        gap = result.predict(curve.tokens[last], problem=i) - curve.loss[last]
        error = float(gap.mean()) if result.solved[i] else None
        rows.append({"run": curve.run, "seen": len(x[i]), "error": error})
    return pl.DataFrame(rows)


def holdouts(
    table: pl.DataFrame, used: npt.NDArray[np.bool_], loss: str
) -> dict[str, npt.NDArray[np.bool_]]:
    """Which rows each question holds out; questions the rows cannot answer are left out."""
    out = {}
    known = table["n_params"].null_count() == 0
    n = table["n_params"].to_numpy() if known else np.zeros(len(table))
    if len(np.unique(n[used])) >= 2:
        out[LARGEST_N] = used & (n == n[used].max())
    losses, tokens = table[loss].to_numpy(), table["tokens"].to_numpy()
    lowest = np.zeros(len(table), dtype=bool)
    for size in np.unique(n[used]):
        rows = np.flatnonzero(used & (n == size))
        if len(rows) >= 3:
            lowest[rows[np.argsort(losses[rows])[: max(1, len(rows) // 4)]]] = True
    if lowest.any():
        out[LOWEST_LOSS] = lowest
    far = used & (tokens > tokens[used].max() / 2) if used.any() else used
    if far.any() and not far[used].all():
        out[LONGEST_HORIZON] = far
    return out


def audited(
    question: str,
    table: pl.DataFrame,
    kept: npt.NDArray[np.bool_],
    rows: npt.NDArray[np.int64],
    law: PowerLaw,
    n: Array | None,
    tokens: Array,
    observed: Array,
    cost: Array,
    cost_unit: str,
) -> Audit:
    """How wrong a law fitted to the kept points is at the rows held out."""
    axis = "n_params" if question == LARGEST_N else "tokens"
    values = table[axis].to_numpy()
    ratio = np.log(law.at(n, tokens) / observed)
    low, high = law.band(n, tokens)
    return Audit(
        question=question,
        kept=int(kept.sum()),
        held_out=len(rows),
        reach=float(values[rows].max() / values[kept].max()),
        log_error=float(np.sqrt((ratio**2).mean())),
        worst=float(np.exp(ratio[np.argmax(np.abs(ratio))])),
        in_band=float(((observed >= low) & (observed <= high)).mean()),
        cost=float(cost.mean()),
        worst_cost=float(cost.max()),
        cost_unit=cost_unit,
    )


def audit_table(audits: list[Audit]) -> pl.DataFrame:
    """One row a question."""
    return pl.DataFrame([asdict(audit) for audit in audits], infer_schema_length=None)
