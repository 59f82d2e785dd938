"""The quadratic of a cell, which is all runs of one (N, D).

Near its optimum the loss is quadratic in the logarithms,
L = L_min + c_ee x^2 + c_eb x y + c_bb y^2 with x = log(eta / eta_opt), y = log(B / B_opt).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from megascale import fitting

REACH = 4.0
NEAR = 0.01
MIN_POINTS = 12
"""The quadratic takes runs within this factor of the best learning rate and batch and within this
share of the lowest loss, and at least so many where there are so many."""
LEAST_POINTS = 8
"""Six coefficients and two degrees of freedom."""
CLOUD_POINTS = 150


def cell_quadratic(lr: Any, batch: Any, loss: Any, replicates: int) -> dict[str, Any] | None:
    """Return the local quadratic in (log LR, log B) of one cell.

    Args:
        lr, batch, loss: (runs,) arrays; the batch in tokens.
        replicates: bootstrap over runs, for how sure convexity and the optimum are.

    Returns:
        L_min, eta_opt, B_opt, c_ee, c_eb, c_bb; points, rms; convex, the share of replicates that
        are, and whether the optimum lies inside the grid; log_error of eta_opt and B_opt from the
        convex replicates; a cloud of their optima. None where fewer than eight runs are near.
    """
    at = int(np.argmin(loss))
    near = (np.abs(np.log(lr / lr[at])) <= np.log(REACH) + 1e-9) & (
        np.abs(np.log(batch / batch[at])) <= np.log(REACH) + 1e-9
    )
    if near.sum() < LEAST_POINTS:
        return None
    enough = np.sort(loss[near])[min(MIN_POINTS, int(near.sum())) - 1]
    near &= loss <= max(loss[at] * (1 + NEAR), enough)
    result = fitting.fit(
        "log_quadratic",
        np.stack([lr[near], batch[near]]),
        loss[near],
        bootstrap="pairs",
        replicates=replicates,
        errors="status",
    )
    value = {name: float(result[name][0]) for name in result.params}
    draws = None if result.bootstrap is None else result.bootstrap[0]
    convex = None
    cloud: dict[str, list[float]] = {"lr": [], "batch_tokens": []}
    log_error = {"lr": float("nan"), "batch_tokens": float("nan")}
    if draws is not None:
        column = {name: draws[:, i] for i, name in enumerate(result.names)}
        definite = _definite(column["c_ee"], column["c_eb"], column["c_bb"])
        good = np.isfinite(draws).all(axis=1)
        convex = float(definite[good].mean()) if good.any() else None
        shown = good & definite
        for ours, theirs in (("lr", "eta_opt"), ("batch_tokens", "B_opt")):
            values = column[theirs][shown]
            cloud[ours] = [float(f"{v:.5g}") for v in values[:CLOUD_POINTS]]
            if len(values) > 1:
                log_error[ours] = _spread(np.log(values))
    definite_now = bool(_definite(value["c_ee"], value["c_eb"], value["c_bb"]))
    inside = lr.min() <= value["eta_opt"] <= lr.max() and (
        batch.min() <= value["B_opt"] <= batch.max()
    )
    return {
        **value,
        "points": int(near.sum()),
        "rms": float(result.rms[0]),
        "convex": definite_now,
        "convex_replicates": convex,
        "inside": bool(inside),
        "log_error": log_error,
        "cloud": cloud,
    }


def _definite(c_ee: Any, c_eb: Any, c_bb: Any) -> Any:
    return (c_ee > 0) & (4 * c_ee * c_bb > c_eb * c_eb)


def _spread(values: Any) -> float:
    """Half the middle 68 %: a standard deviation that a few flat replicates do not blow up."""
    low, high = np.quantile(values, [0.1587, 0.8413])
    return float(high - low) / 2
