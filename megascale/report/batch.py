"""The sections of tokens and steps: E(S) per target, the best batch against loss and tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from megascale.formats.law_band import law_band
from megascale.formats.law_file import LawFile
from megascale.laws.law_files import json_types

if TYPE_CHECKING:
    from megascale.laws.batch.optimum import OptimalBatches
    from megascale.laws.batch.study import BatchStudy
    from megascale.laws.batch.tokens_steps import TokensStepsFits
    from megascale.laws.findings import BatchFindings

CURVE_POINTS = 120
BEYOND = 1.2
"""A drawn law goes on beyond its smallest and largest batch by this factor."""
CLOUD_POINTS = 120
"""Replicates of a target that are drawn; all of them make the bands."""
NEEDS = (
    "It needs runs of at least four batch sizes at one learning rate and model size that pass the "
    "same losses, or a table of points with the columns target_loss, batch_tokens (or B_tokens) "
    "and tokens (or E_tokens)."
)


def tokens_steps_section(found: BatchFindings) -> dict[str, Any]:
    """E(S) groups with every law that fits them."""
    study = found.study
    keys = sorted({_key(g) for f in study.fits.values() for g in f.groups}, key=_order)
    return json_types(
        {
            "from": "a table of points" if found.from_points else "the loss curves",
            "left_out": found.left_out,
            "n_kind": found.n_kind,
            "chosen": study.law,
            "groups": [_group(key, study.fits) for key in keys],
            "verdicts": study.selection.table().to_dicts(),
            "refuted": [list(pair) for pair in study.selection.classic_refuted],
            "confidence": study.optimal.confidence,
            "ramp_tokens": _most_ramp(study),
            "tables": {name: fit.table().to_dicts() for name, fit in study.fits.items()},
        }
    )


def _most_ramp(study: BatchStudy) -> float:
    """Tokens that a run lost at most to the rise of its learning rate, and that laws leave out."""
    points = study.fits[study.law].points
    most = points["ramp_tokens"].max() if "ramp_tokens" in points.columns else None
    return float(most or 0.0)  # type: ignore[arg-type]


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
        ramp = own["ramp_tokens"].fill_null(0.0) if "ramp_tokens" in own.columns else 0.0
        points = {
            "batch": _short(sizes),
            "tokens": _short(own["tokens"].to_numpy()),
            "consumed_tokens": _short((own["tokens"] + ramp).to_numpy()),
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


def best_batch_section(found: BatchFindings) -> dict[str, Any]:
    """B_min and B_opt against loss, B_opt against tokens with its law, and bootstrap clouds."""
    study, optimal = found.study, found.study.optimal
    return json_types(
        {
            "law": optimal.law,
            "rows": optimal.table.to_dicts(),
            "least": study.least,
            "critical": study.critical,
            "clouds": _clouds(optimal),
            "confidence": optimal.confidence,
            "replicates": len(optimal.log_batch),
            "power": _power(found),
            "no_power": "" if found.surface is not None else study.open_law,
            "surface": found.surface is not None,
            "choice": found.choice,
            "direct": found.direct,
        }
    )


def _clouds(optimal: OptimalBatches) -> list[dict[str, list[float]]]:
    """The replicates of every target's best batch, as many as are drawn."""
    clouds = []
    for g, used in enumerate(optimal.used):
        both = np.isfinite(optimal.log_tokens[:, g]) & np.isfinite(optimal.log_batch[:, g]) & used
        clouds.append(
            {
                "tokens": _short(np.exp(optimal.log_tokens[both, g][:CLOUD_POINTS])),
                "batch": _short(np.exp(optimal.log_batch[both, g][:CLOUD_POINTS])),
            }
        )
    return clouds


def _power(found: BatchFindings) -> dict[str, Any] | None:
    """B_opt(D) and its lines, where the surface or the best batches determine it."""
    study, optimal, birge = found.study, found.study.optimal, 1.0
    if found.surface is not None:
        law = found.surface.power()
    elif study.power is None or study.open_law:
        return None
    else:
        law, birge = study.power.law, study.power.birge
    sizes = optimal.table.filter(pl.col("used"))["n_params"].unique().sort().to_list()
    d = np.geomspace(law.d_range[0] / 4, law.d_range[1] * 16, 60)
    lines = []
    for n in sizes if law.with_n else [None]:
        low, high = law.band(n, d, optimal.confidence)
        lines.append(
            {"n_params": n, "value": _short(law.at(n, d)), "low": _short(low), "high": _short(high)}
        )
    return {
        "coef": law.coef,
        "a": law.a,
        "b": law.b,
        "b_error": float(np.sqrt(law.covariance[2, 2])),
        "rms": law.rms,
        "birge": birge,
        "d": _short(d),
        "d_range": law.d_range,
        "lines": lines,
    }


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
    return json_types(lines)
