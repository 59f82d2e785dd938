"""Every law of tokens and steps over the same points, and the best batches by one of them.

`megascale fit` and the page of `megascale report` take their numbers from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from megascale.errors import FitError
from megascale.laws.batch.optimum import (
    BatchPower,
    OptimalBatches,
    fit_batch_power,
    optimal_batches,
)
from megascale.laws.batch.select import Selection, refute_classic, select
from megascale.laws.batch.tokens_steps import (
    LAW_PARAMETERS,
    LAWS,
    SETTING,
    TokensStepsFits,
    enough_points,
    fit_tokens_steps,
    sort_points,
)
from megascale.laws.power import PowerLaw

BATCH_LAWS = tuple(law for law in LAWS if law != "classic")
"""Laws that have a best batch."""
AUTO = "auto"
"""The law of lowest pooled AICc among `BATCH_LAWS`."""
FURTHEST_B_MIN = 30
"""A B_min this factor below every batch that was run, or as unsure as that, is not known."""
WIDEST_BAND = 1e3
"""A law of the best batches is left open where its band is wider by more than this factor."""


@dataclass(frozen=True)
class BatchStudy:
    """What the points say about the best batch.

    Attributes:
        law: the law of tokens and steps that the best batches come from.
        fits: of every law, over the targets that it has batch sizes enough for.
        selection: of the laws on the targets that all of them can be fitted to.
        optimal: the best batch of every target, by `law`.
        power: B_opt(D), or None where it cannot be fitted.
        open_law: why there is no B_opt(D), or why it says nothing within its own range.
        least: B_min of the targets where it is known, with intervals.
        critical: E_min / S_min of the targets whose classic law is not refuted, with intervals.
    """

    law: str
    fits: dict[str, TokensStepsFits]
    selection: Selection
    optimal: OptimalBatches
    power: BatchPower | None
    open_law: str
    least: list[dict[str, Any]]
    critical: list[dict[str, Any]]


def study_batches(
    points: pl.DataFrame,
    law: str = AUTO,
    *,
    replicates: int = 200,
    confidence: float = 0.9,
    seed: int = 0,
) -> BatchStudy:
    """Fit every law of tokens and steps, compare them, and find the best batches by one.

    Args:
        points: as `tokens_steps.sort_points` takes them.
        law: one of `BATCH_LAWS`, or `AUTO`.
        replicates, confidence, seed: of the joint bootstrap.

    Raises:
        FitError: an unknown law, or too few batches or targets.
    """
    if law not in (AUTO, *BATCH_LAWS):
        raise FitError.of("law", law, "gives no best batch", [AUTO, *BATCH_LAWS])
    able = [known for known in LAWS if len(enough_points(points, known))]
    if (law not in able and law != AUTO) or not set(able) & set(BATCH_LAWS):
        raise _too_few_batches(points, law)
    selection = select(points, able)
    if law == AUTO:
        law = next(verdict.law for verdict in selection.verdicts if verdict.law in BATCH_LAWS)
    fits = {known: fit_tokens_steps(enough_points(points, known), known) for known in able}
    optimal = optimal_batches(fits[law], replicates=replicates, confidence=confidence, seed=seed)
    power, said = _power(optimal)
    return BatchStudy(
        law=law,
        fits=fits,
        selection=selection,
        optimal=optimal,
        power=power,
        open_law=said,
        least=_least(fits, law),
        critical=_critical(fits, law),
    )


def most_batches(points: pl.DataFrame) -> int:
    """Return the distinct batch sizes at the target loss that most of them pass."""
    points = sort_points(points)
    sizes = points.group_by(*SETTING, "target_loss").agg(pl.col("batch_tokens").n_unique())
    return max(sizes["batch_tokens"].to_list(), default=0)


def _too_few_batches(points: pl.DataFrame, law: str) -> FitError:
    """What the laws need at a target loss, and what the points have."""
    most = most_batches(points)
    needs = {known: LAW_PARAMETERS[known] for known in BATCH_LAWS}
    least = needs[law] if law != AUTO else min(needs.values())
    said = ", ".join(f"{known} {count}" for known, count in needs.items())
    rule = f"no target loss is passed by {least} batch sizes, and the laws need: {said}"
    nearest = [f"runs of {least - most} more batch sizes, or longer ones"]
    able = [known for known, count in needs.items() if count <= most]
    if able:
        nearest.insert(0, f"--law {' or '.join(able)}")
    return FitError.of("batch sizes at a target loss", f"{most} at most", rule, nearest)


def _power(optimal: OptimalBatches) -> tuple[BatchPower | None, str]:
    """B_opt(D), and why it says nothing where it does not."""
    try:
        power = fit_batch_power(optimal)
    except FitError as refused:
        return None, str(refused)
    sizes = optimal.table.filter(pl.col("used"))["n_params"].unique().to_list()
    return power, left_open(power.law, sizes, optimal.confidence)


def left_open(law: PowerLaw, sizes: Sequence[float | None], confidence: float) -> str:
    """Say in words that the best batches leave their law open in their own range; empty else."""
    error = max(
        float(law.log_error(n, law.d_range).max()) for n in (sizes if law.with_n else [None])
    )
    widest = 2 * law.reach(confidence) * error
    if widest <= np.log(WIDEST_BAND):
        return ""
    return (
        f"B_opt(D): {law.points} optima do not determine it: its band spans a factor of "
        f"10^{widest / np.log(10):.0f} where they lie; more batch sizes, repeats or lower losses do"
    )


def _least(fits: dict[str, TokensStepsFits], chosen: str) -> list[dict[str, Any]]:
    """B_min of every target, by the chosen law where it has one, else by the piecewise law.

    One far below every batch that was run, or with a wide interval, says no more than that the
    points do not determine it.
    """
    for name in (chosen, "wsd", "noise_floor"):
        if name not in fits or name == "two_power":  # which has none
            continue
        values = fits[name].optimum()["B_min"]
        low, high = fits[name].result.interval("B_min")
        floor = fits[name].points["batch_tokens"].to_numpy().min() / FURTHEST_B_MIN
        rows = [
            {"law": name, **_target(fits[name], g), "batch_min": float(value)}
            | {"low": float(low[g]), "high": float(high[g])}
            for g, value in enumerate(values)
            if np.isfinite(value) and value > floor and high[g] < FURTHEST_B_MIN * low[g]
        ]
        if rows:
            return rows
    return []


def _critical(fits: dict[str, TokensStepsFits], chosen: str) -> list[dict[str, Any]]:
    """The critical batch E_min / S_min where the classic law is not refuted."""
    if "classic" not in fits:
        return []
    fit = fits["classic"]
    rms = float(np.sqrt(np.nanmean(fits[chosen].log_residuals() ** 2)))
    refuted = set(refute_classic(fit.points, rms))
    value = fit.result["B_crit"]
    low, high = fit.result.interval("B_crit")
    return [
        {**_target(fit, g), "batch_crit": float(value[g])}
        | {"low": float(low[g]), "high": float(high[g])}
        for g, group in enumerate(fit.groups)
        if fit.result.converged[g]
        and value[g] > 0
        and (group.n_params, group.target_loss) not in refuted
    ]


def _target(fit: TokensStepsFits, group: int) -> dict[str, Any]:
    found = fit.groups[group]
    return {"n_params": found.n_params, "lr": found.lr, "target_loss": found.target_loss}
