"""How the best learning rate goes with the batch: linear, square root, saturation or surge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from megascale.errors import FitError
from megascale.sweep.answer import Answer
from megascale.sweep.results import RunResult
from megascale.units import short_count

FORMS = {
    "linear": "power_law",
    "square root": "power_law",
    "power": "power_law",
    "saturation": "noise_sgd",
    "root, then saturation": "noise_muon",
    "surge": "noise_sign",
}
"""Form -> law of the fitting engine: proportional to the batch or its root, a free power, and the
laws of SGD (arXiv 1812.06162), Muon (kexue.fm 11285) and Adam (arXiv 2405.14578)."""
FIXED = {"linear": 1.0, "square root": 0.5}
CLEAR_LEAD = 4.0
"""Difference in AICc from which on a form has considerably less support (Burnham and Anderson)."""
COLUMNS = ("form", "eta_max", "B_noise", "exponent", "95 % interval", "rms log", "AICc")


@dataclass(frozen=True, slots=True)
class ScalingForm:
    """One form of eta(B) fitted to best learning rates.

    Attributes:
        form: a key of `FORMS`.
        parameters: by the law's names; batches in tokens.
        exponent_interval: 95 % limits of a free exponent, else None.
        rms: of the residuals in ln eta.
        aicc: Akaike's criterion, corrected for few points; None where there are too few.
    """

    form: str
    parameters: dict[str, float]
    exponent_interval: tuple[float, float] | None
    rms: float
    aicc: float | None


def best_rates(results: Sequence[RunResult]) -> tuple[list[tuple[int, int, float]], list[str]]:
    """The best learning rate of each batch and seed: the vertex of a parabola in its logarithm.

    Args:
        results: runs of one arm at constant batches, over learning rates.

    Returns:
        (batch in tokens, seed, rate), and a note for each batch and seed without an optimum inside
        the grid.
    """
    by_setting: dict[tuple[int, int], list[RunResult]] = {}
    for result in results:
        if len(result.batch) == 1:
            by_setting.setdefault((result.batch[0], result.seed), []).append(result)
    found, notes = [], []
    for (batch, seed), own in sorted(by_setting.items()):
        vertex = rate_vertex([one.peak_lr for one in own], [one.loss for one in own])
        if vertex is None:
            lowest = min(own, key=lambda one: one.loss)
            notes.append(
                f"batch {short_count(batch)}, seed {seed}: no optimum inside the grid, the lowest "
                f"loss is at {lowest.peak_lr:g}; left out"
            )
        else:
            found.append((batch, seed, vertex))
    return found, notes


def rate_vertex(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """Optimum of the parabola in ln rate through the lowest loss and its neighbours.

    Eq. 2 of arXiv 2601.05049. None at an edge of the grid.
    """
    order = np.argsort(rates)
    x, y = np.log(np.asarray(rates)[order]), np.asarray(losses)[order]
    y = np.where(np.isfinite(y), y, np.inf)
    best = int(np.argmin(y))
    if not 0 < best < len(x) - 1 or not np.isfinite(y[best - 1 : best + 2]).all():
        return None
    square, slope, _ = np.polyfit(x[best - 1 : best + 2], y[best - 1 : best + 2], 2)
    return float(np.exp(-slope / (2 * square))) if square > 0 else None


def fit_forms(batches: Sequence[int], rates: Sequence[float]) -> list[ScalingForm]:
    """Every form of `FORMS` by least squares in ln eta, the best by AICc first.

    Args:
        batches: tokens.
        rates: best learning rate there.

    Raises:
        FitError: fewer than three batches.
    """
    from megascale import fitting

    if len(set(batches)) < 3:
        raise FitError.of("batches", len(set(batches)), "a form needs three batches", 3)
    x, y = np.asarray(batches, dtype=float), np.asarray(rates, dtype=float)
    found = []
    for form, law in FORMS.items():
        fixed = {"exponent_1": FIXED[form]} if form in FIXED else None
        result = fitting.fit(law, x, y, residual="log", fixed=fixed, confidence=0.95)
        names = ("coefficient", "exponent_1") if law == "power_law" else ("eta_max", "B_noise")
        squares = float(np.square(np.log(result.predict(x)) - np.log(y)).sum())
        interval = None
        if form == "power":
            low, high = result.interval("exponent_1")
            interval = (float(low[0]), float(high[0]))
        found.append(
            ScalingForm(
                form,
                {name: float(result[name][0]) for name in names},
                interval,
                math.sqrt(squares / len(x)),
                _aicc(squares, len(x), 2 - (form in FIXED)),
            )
        )
    return sorted(found, key=lambda one: math.inf if one.aicc is None else one.aicc)


def rate_scaling_answers(results: Sequence[RunResult]) -> list[Answer]:
    """For each arm: best rates by batch, the forms fitted to them, and which one they support."""
    answers = []
    for arm in dict.fromkeys(result.arm for result in results):
        rates, notes = best_rates([result for result in results if result.arm == arm])
        title = f"Best learning rate against batch{f': {arm}' if arm else ''}"
        try:
            forms = fit_forms([one[0] for one in rates], [one[2] for one in rates])
        except FitError as error:
            answers.append(Answer(title, COLUMNS, [], [*notes, f"not fitted: {error}"]))
            continue
        data: Any = {
            "arm": arm,
            "verdict": scaling_verdict(forms),
            "rates": [{"batch": b, "seed": seed, "rate": rate} for b, seed, rate in rates],
            "forms": [asdict(form) for form in forms],
        }
        notes = [data["verdict"], _by_batch(rates), *notes]
        answers.append(Answer(title, COLUMNS, [_row(form) for form in forms], notes, data))
    return answers


def scaling_verdict(forms: Sequence[ScalingForm]) -> str:
    """Which form the rates support: one that leads all others clearly, or several."""
    power = next(form for form in forms if form.form == "power")
    low, high = power.exponent_interval or (math.nan, math.nan)
    exponent = (
        f"the rate goes with the batch to the {power.parameters['exponent_1']:.2f} "
        f"(95 % {low:.2f} to {high:.2f})"
    )
    best = forms[0].aicc
    if best is None or any(one.aicc is None for one in forms):
        return f"{exponent}; too few points to choose a form"
    close = [one.form for one in forms if one.aicc is not None and one.aicc < best + CLEAR_LEAD]
    if len(close) == 1:
        return f"{exponent}; {close[0]} describes it best"
    return f"{exponent}; {' and '.join(close)} cannot be told apart"


def _by_batch(rates: Sequence[tuple[int, int, float]]) -> str:
    """Geometric mean of the best rates of each batch, with its spread over seeds."""
    texts = []
    for batch in dict.fromkeys(one[0] for one in rates):
        logs = np.log([one[2] for one in rates if one[0] == batch])
        spread = f" ± {100 * np.std(logs, ddof=1):.0f} %" if len(logs) > 1 else ""
        texts.append(f"{short_count(batch)}: {math.exp(logs.mean()):.3g}{spread}")
    return f"best rates by batch (tokens): {', '.join(texts)}"


def _row(form: ScalingForm) -> tuple[str, ...]:
    known = form.parameters
    interval = form.exponent_interval
    return (
        form.form,
        f"{known['eta_max']:.3g}" if "eta_max" in known else "-",
        f"{known['B_noise']:.3g}" if "B_noise" in known else "-",
        f"{known['exponent_1']:.3g}" if "exponent_1" in known else "-",
        "-" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}",
        f"{form.rms:.3f}",
        "-" if form.aicc is None else f"{form.aicc:.1f}",
    )


def _aicc(squares: float, points: int, parameters: int) -> float | None:
    """Akaike's criterion of a least-squares fit, its variance counted (Burnham and Anderson)."""
    k = parameters + 1
    if points - k - 1 < 1 or squares <= 0:
        return None
    return points * math.log(squares / points) + 2 * k + 2 * k * (k + 1) / (points - k - 1)
