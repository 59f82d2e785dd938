"""The sections of tokens and steps: E(S) per target, the best batch against loss and tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from megascale.curves.crossings import by_batch, by_setting
from megascale.curves.curve import Curve
from megascale.errors import FitError, UserError
from megascale.formats.law_band import law_band
from megascale.formats.law_file import Input, LawFile
from megascale.laws.batch.batch_power import fit_batch_power
from megascale.laws.batch.equivalence import best_batch_at_tokens
from megascale.laws.batch.from_points import most_batches
from megascale.laws.batch.law_file import batch_law_file
from megascale.laws.batch.optimum import OptimalBatches, optimal_batches
from megascale.laws.batch.points import choose_targets, extract
from megascale.laws.batch.rivals import rivals_of
from megascale.laws.batch.select import Selection, refute_classic, select
from megascale.laws.batch.tokens_steps import (
    LAW_PARAMETERS,
    LAWS,
    TokensStepsFits,
    enough_points,
    fit_tokens_steps,
)
from megascale.laws.law_files import plain
from megascale.laws.power import PowerLaw

CURVE_POINTS = 120
BEYOND = 1.2
"""A drawn law goes on beyond its smallest and largest batch by this factor."""
CLOUD_POINTS = 120
"""Replicates of a target that are drawn; all of them make the bands."""
FURTHEST_B_MIN = 30
"""A B_min this factor below every batch that was run, or as unsure as that, is not drawn."""
WIDEST_BAND = 1e3
"""A law of the best batches whose band is wider by more than this factor is not drawn."""
NEEDS = (
    "It needs runs of at least four batch sizes at one learning rate and model size that pass the "
    "same losses, or a table of points with the columns target_loss, batch_tokens (or B_tokens) "
    "and tokens (or E_tokens)."
)


def points_of_curves(
    curves: Sequence[Curve], targets: Sequence[float] | None
) -> tuple[pl.DataFrame | None, list[str]]:
    """(S, E) points of every setting with enough batch sizes, and why others gave none.

    Args:
        curves: smoothed, of constant batch.
        targets: losses; None chooses them per setting.
    """
    parts, reasons = [], []
    for (n_params, lr), group in by_setting(curves).items():
        batches = len(by_batch(group))
        if batches < min(LAW_PARAMETERS[law] for law in ("two_power", "noise_floor")):
            if batches > 1:
                reasons.append(f"{_setting(n_params, lr)}: {batches} batch sizes")
            continue
        needed = LAW_PARAMETERS["wsd"] if batches >= LAW_PARAMETERS["wsd"] else batches
        try:
            chosen = targets or choose_targets(group, min_batches=needed)
            parts.append(extract(group, chosen).points)
        except FitError as error:
            reasons.append(f"{_setting(n_params, lr)}: {error}")
    return (pl.concat(parts) if parts else None), reasons


def _setting(n_params: float | None, lr: float | None) -> str:
    known = []
    if n_params is not None:
        known.append(f"N {n_params:.4g}")
    if lr is not None:
        known.append(f"learning rate {lr:.3g}")
    return ", ".join(known) or "runs"


def tokens_steps_section(
    points: pl.DataFrame, *, law: str | None = None, replicates: int = 200
) -> tuple[dict[str, Any], dict[str, TokensStepsFits], OptimalBatches]:
    """E(S) groups with every law that fits them, the fits, and the best batches by one law.

    Args:
        points: as `tokens_steps.sort_points` takes them.
        law: for the best batches; None takes the one of lowest pooled AICc that has one.
        replicates: of the joint bootstrap.

    Raises:
        FitError: no group holds as many batch sizes as the smallest law has parameters.
    """
    points = points.drop([c for c in points.columns if points[c].null_count() == len(points)])
    most = most_batches(points)
    fits = {
        name: fit_tokens_steps(enough_points(points, name), name)
        for name in LAWS
        if LAW_PARAMETERS[name] <= most
    }
    best = [name for name in fits if name != "classic"]
    if not best:
        raise FitError.of("points", len(points), "no target has four batch sizes")
    selection = _selection(points, list(fits))
    chosen = law or next(
        (v.law for v in selection.verdicts if v.law in best) if selection else iter(best),
        best[0],
    )
    if chosen not in best:
        raise FitError.of("--law-family", chosen, "has no best batch or too few points", best)
    rivals = rivals_of(chosen, selection) if selection else []
    optimal = optimal_batches(fits[chosen], replicates=replicates, rivals=rivals)
    keys = sorted({_key(g) for f in fits.values() for g in f.groups}, key=_order)
    section = {
        "chosen": chosen,
        "groups": [_group(key, fits) for key in keys],
        "verdicts": [] if selection is None else selection.table().to_dicts(),
        "refuted": [] if selection is None else [list(pair) for pair in selection.classic_refuted],
        "confidence": optimal.confidence,
        "tables": {name: fit.table().to_dicts() for name, fit in fits.items()},
    }
    return plain(section), fits, optimal


def _selection(points: pl.DataFrame, names: list[str]) -> Selection | None:
    try:
        return select(points, names)
    except UserError:
        return None


def _key(group: Any) -> tuple[float | None, float | None, float]:
    return (group.n_params, group.lr, group.target_loss)


def _order(key: tuple[float | None, float | None, float]) -> tuple[float, float, float]:
    return (key[0] or 0.0, key[1] or 0.0, -key[2])


def _group(
    key: tuple[float | None, float | None, float], fits: dict[str, TokensStepsFits]
) -> dict[str, Any]:
    """One target: its points, and every law's curve, optimum and stages."""
    laws: dict[str, Any] = {}
    points: dict[str, Any] = {}
    for name, fit in fits.items():
        index = next((g for g, group in enumerate(fit.groups) if _key(group) == key), None)
        if index is None:
            continue
        begin, end = fit.offsets[index], fit.offsets[index + 1]
        own = fit.points[int(begin) : int(end)]
        sizes = own["batch_tokens"].to_numpy()
        points = {
            "batch": _short(sizes),
            "tokens": _short(own["tokens"].to_numpy()),
            "log_error": own["log_error"].to_list() if "log_error" in own.columns else None,
        }
        batch = np.geomspace(sizes.min() / BEYOND, sizes.max() * BEYOND, CURVE_POINTS)
        tokens = fit.tokens_at(batch)[index]
        reached = np.isfinite(tokens) & (tokens > 0)
        best = {k: float(v[index]) for k, v in fit.optimum().items()}
        laws[name] = {
            "batch": _short(batch[reached]),
            "tokens": _short(tokens[reached]),
            "rms": float(fit.result.rms[index]),
            "converged": bool(fit.result.converged[index]),
            "optimum": best,
            "stages": [float(fit.result[s][index]) for s in ("S_min", "S_1", "S_opt", "S_2")]
            if name == "wsd"
            else None,
        }
    return {"n_params": key[0], "lr": key[1], "target_loss": key[2], "points": points, "laws": laws}


def _short(values: Any) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


def best_batch_section(
    fits: dict[str, TokensStepsFits],
    optimal: OptimalBatches,
    curves: Sequence[Curve],
    inputs: Sequence[Input],
) -> tuple[dict[str, Any], LawFile | None]:
    """B_min and B_opt against loss, B_opt against tokens with its law, and bootstrap clouds."""
    rows = optimal.table.to_dicts()
    classic = fits.get("classic")
    refuted = refute_classic(classic.points, _rms(fits[optimal.law])) if classic else []
    clouds = []
    for g, row in enumerate(rows):
        both = np.isfinite(optimal.log_tokens[:, g]) & np.isfinite(optimal.log_batch[:, g])
        if not row["used"]:
            both[:] = False
        clouds.append(
            {
                "tokens": _short(np.exp(optimal.log_tokens[both, g][:CLOUD_POINTS])),
                "batch": _short(np.exp(optimal.log_batch[both, g][:CLOUD_POINTS])),
            }
        )
    section: dict[str, Any] = {
        "law": optimal.law,
        "rows": rows,
        "least": _least(fits, optimal),
        "critical": [] if classic is None else _critical(classic, set(refuted)),
        "clouds": clouds,
        "confidence": optimal.confidence,
        "replicates": len(optimal.log_batch),
        "power": None,
        "no_power": "",
        "direct": _direct(optimal, curves),
    }
    law_file = None
    try:
        power = fit_batch_power(optimal)
        law = power.law
        sizes = optimal.table.filter(pl.col("used"))["n_params"].unique().sort().to_list()
        _check_band(law, sizes, optimal.confidence)
        d = np.geomspace(law.d_range[0] / 4, law.d_range[1] * 16, 60)
        lines = []
        for n in sizes if law.with_n else [None]:
            low, high = law.band(n, d, optimal.confidence)
            lines.append(
                {"n_params": n, "value": _short(law.at(n, d)), "low": _short(low),
                 "high": _short(high)}
            )  # fmt: skip
        section["power"] = {
            "coef": law.coef,
            "a": law.a,
            "b": law.b,
            "b_error": float(np.sqrt(law.covariance[2, 2])),
            "rms": law.rms,
            "birge": power.birge,
            "d": _short(d),
            "d_range": law.d_range,
            "lines": lines,
        }
        law_file = batch_law_file(
            fits[optimal.law],
            optimal,
            name="this report's B_opt(D)",
            inputs=list(inputs),
            source="this report",
        )
    except FitError as error:
        section["no_power"] = str(error)
    return plain(section), law_file


def _check_band(law: PowerLaw, sizes: Sequence[float | None], confidence: float) -> None:
    """Raises FitError where the optima leave the law open within their own range."""
    error = max(
        float(law.log_error(n, law.d_range).max()) for n in (sizes if law.with_n else [None])
    )
    widest = 2 * law.reach(confidence) * error
    if not np.isfinite(widest):
        raise FitError.of("B_opt(D)", f"{law.points} optima", "they leave no freedom for its band")
    if widest > np.log(WIDEST_BAND):
        raise FitError.of(
            "B_opt(D)",
            f"{law.points} optima",
            f"they do not determine it: its band spans a factor of 10^{widest / np.log(10):.0f} "
            "where they lie",
            "more batch sizes, repeats or lower losses",
        )


def given_lines(laws: Sequence[LawFile]) -> list[dict[str, Any]]:
    """Laws of the batch that the user gave, as lines over tokens with their bands.

    N is the middle of the law's range, in logarithms; a law without a range of tokens is left out.
    """
    lines = []
    for law in laws:
        if law.output != "batch_tokens" or law.range.d is None:
            continue
        n = float(np.sqrt(law.range.n[0] * law.range.n[1])) if law.range.n is not None else 1.0
        d = np.geomspace(law.range.d[0] / 4, law.range.d[1] * 16, 60)
        bands = [law_band(law, n, x) for x in d]
        known = [band for band in bands if band is not None]
        lines.append(
            {
                "name": law.name,
                "d": _short(d),
                "d_range": law.range.d,
                "value": _short([law.evaluate(n, x) for x in d]),
                "low": _short(band.low for band in known) if len(known) == len(d) else None,
                "high": _short(band.high for band in known) if len(known) == len(d) else None,
                "confidence": known[0].confidence if len(known) == len(d) else None,
            }
        )
    return plain(lines)


def _rms(fit: TokensStepsFits) -> float:
    return float(np.sqrt(np.nanmean(fit.log_residuals() ** 2)))


def _least(fits: dict[str, TokensStepsFits], optimal: OptimalBatches) -> list[dict[str, Any]]:
    """B_min of every target, by the chosen law where it has one, else by the piecewise law.

    One far below every batch that was run, or with a wide interval, says no more than that the
    points do not determine it.
    """
    for name in (optimal.law, "wsd", "noise_floor"):
        if name not in fits or name == "two_power":  # which has none
            continue
        found = optimal
        if name != optimal.law:
            count = len(optimal.log_batch)
            found = optimal_batches(fits[name], replicates=count, confidence=optimal.confidence)
        floor = fits[name].points["batch_tokens"].to_numpy().min() / FURTHEST_B_MIN
        rows = [
            {
                "law": name,
                "n_params": row["n_params"],
                "lr": row["lr"],
                "target_loss": row["target_loss"],
                "batch_min": row["batch_min"],
                "low": row["batch_min_low"],
                "high": row["batch_min_high"],
            }
            for row in found.table.to_dicts()
            if row["batch_min"] is not None
            and row["batch_min_low"] is not None
            and row["batch_min_high"] is not None
            and row["batch_min"] > floor
            and row["batch_min_high"] < FURTHEST_B_MIN * row["batch_min_low"]
        ]
        if rows:
            return rows
    return []


def _critical(
    fit: TokensStepsFits, refuted: set[tuple[float | None, float]]
) -> list[dict[str, Any]]:
    """Critical batch E_min / S_min with its interval where the classic law is not refuted."""
    low, high = fit.result.interval("B_crit")
    return [
        {
            "n_params": group.n_params,
            "lr": group.lr,
            "target_loss": group.target_loss,
            "batch_crit": float(fit.result["B_crit"][g]),
            "low": float(low[g]),
            "high": float(high[g]),
        }
        for g, group in enumerate(fit.groups)
        if fit.result.converged[g]
        and fit.result["B_crit"][g] > 0
        and (group.n_params, group.target_loss) not in refuted
    ]


def _direct(optimal: OptimalBatches, curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """Batches of lowest loss at the targets' own tokens, straight from the curves."""
    tokens = [t for t in optimal.table.filter(pl.col("used"))["tokens"].to_list() if t]
    usable = [c for g in by_setting(curves).values() for c in g if len(by_batch(g)) >= 4]
    if not tokens or not usable:
        return []
    found = best_batch_at_tokens(usable, sorted(tokens))
    return found.filter(pl.col("batch_tokens").is_not_null()).to_dicts()
