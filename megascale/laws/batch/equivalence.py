"""The best batch for a number of tokens, read straight off the curves, beside that for a loss."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import polars as pl

from megascale import fitting
from megascale.arrays import Array
from megascale.curves.crossing import by_batch, by_setting
from megascale.curves.curve import Curve, mean_curve
from megascale.laws.batch.optimum import OptimalBatches


def best_batch_at_tokens(
    curves: Iterable[Curve], tokens: Sequence[float], *, reach: float = 4.0
) -> pl.DataFrame:
    """The batch of lowest loss after so many tokens, straight from the curves.

    A quadratic in log B through the batches within `reach` of the lowest loss. It asks the second
    question of the equivalence, without E(S).

    Args:
        curves: of constant batch; seeds of one batch are averaged.
        tokens: data budgets, counted at the peak learning rate.
        reach: batches within this factor of the best one enter the quadratic.

    Returns:
        n_params, lr, tokens, batch_tokens, log_error, loss; budgets at which fewer than four
        batches have a loss, or where the minimum lies outside the batches, have nulls.
    """
    rows = []
    for (n_params, lr), group in by_setting(curves).items():
        means = [mean_curve(same) for same in by_batch(group).values()]
        sizes = np.array([curve.batch_tokens for curve in means], dtype=np.float64)
        for budget in tokens:
            losses = np.array([float(curve.at(budget + curve.ramp_tokens)) for curve in means])
            found = _quadratic_minimum(sizes, losses, reach)
            rows.append({"n_params": n_params, "lr": lr, "tokens": float(budget), **found})
    return pl.DataFrame(rows, infer_schema_length=None)


def _quadratic_minimum(batch: Array, loss: Array, reach: float) -> dict[str, float | None]:
    none: dict[str, float | None] = {"batch_tokens": None, "log_error": None, "loss": None}
    known = np.isfinite(loss)
    if known.sum() < 4:
        return none
    batch, loss = batch[known], loss[known]
    near = np.abs(np.log(batch / batch[np.argmin(loss)])) <= np.log(reach) + 1e-9
    if near.sum() < 4:
        near = np.argsort(np.abs(np.log(batch / batch[np.argmin(loss)])))[:4]
    result = fitting.fit("log_quadratic", batch[near], loss[near], errors="status")
    best = float(result["eta_opt"][0])
    if not result["C"][0] > 0 or not batch.min() <= best <= batch.max():
        return none
    error = float(result.errors["eta_opt"][0] / best)
    return {"batch_tokens": best, "log_error": error, "loss": float(result["L_min"][0])}


def equivalence(optimal: OptimalBatches, curves: Iterable[Curve]) -> pl.DataFrame:
    """The two best batches side by side: for the loss, and for the tokens it took.

    Returns:
        The used rows of `optimal.table` with `by_tokens`, the best batch after E_min tokens, and
        `log_ratio`, log of that over B_opt. By the equivalence it is zero up to noise.
    """
    rows = optimal.table.filter(pl.col("used"))
    curves = list(curves)
    found = []
    for n_params, lr, tokens in rows.select("n_params", "lr", "tokens").iter_rows():
        same = [curve for curve in curves if (curve.n_params, curve.lr) == (n_params, lr)]
        table = best_batch_at_tokens(same, [tokens])
        found.append(table["batch_tokens"][0] if len(table) else None)
    by_tokens = pl.Series("by_tokens", found, dtype=pl.Float64)
    return rows.with_columns(by_tokens, (by_tokens / rows["batch_tokens"]).log().alias("log_ratio"))
