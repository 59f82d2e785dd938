"""Each form of a law of tokens and steps: its formula, its inverse, and the engine's own copy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from megascale import fitting
from megascale.formats.law_file import TOKENS_STEPS_PARAMETERS
from megascale.formats.tokens_to_loss import (
    steps_at_batch,
    surface_loss,
    surface_tokens,
    tokens_at_batch,
    tokens_at_steps,
    tokens_to_targets,
)

WSD = {"S_min": 100.0, "S_1": 150.0, "S_opt": 220.0, "S_2": 300.0, "C": 0.02, "E_min": 3000.0}
NOISE_FLOOR = {"S_min": 10.0, "B_min": 2.0, "p": 1.0, "q": 1.0}
SURFACE = {"L_inf": 1.8, "a": 60.0, "p": 0.5, "c": 30.0, "q": 0.35}
EXAMPLES: dict[str, dict[str, float]] = {
    "classic": {"S_min": 10.0, "E_min": 500.0},
    "two_power": {"a": 4.0, "c": 9.0, "u": 0.5, "w": 0.5},
    "noise_floor": {"S_min": 10.0, "B_min": 2.0, "p": 0.7, "q": 1.3},
    "wsd": WSD,
}


@pytest.mark.parametrize(
    ("form", "parameters", "batch", "tokens"),
    [
        ("classic", EXAMPLES["classic"], 50.0, 1000.0),
        ("two_power", EXAMPLES["two_power"], 4.0, 20.0),
        ("noise_floor", NOISE_FLOOR, 4.0, 80.0),
        ("noise_floor", NOISE_FLOOR, 2.0, math.inf),
        ("wsd", WSD, 3.2, math.inf),  # A_1 = 2 C (S_2 - S_opt): steps without end
    ],
)
def test_each_form_is_its_formula(
    form: str, parameters: dict[str, float], batch: float, tokens: float
) -> None:
    assert tokens_at_batch(form, parameters, batch) == pytest.approx(tokens)
    steps = steps_at_batch(form, parameters, batch)
    assert math.isnan(steps) if tokens == math.inf else steps == pytest.approx(tokens / batch)


@pytest.mark.parametrize("form", EXAMPLES)
@given(at=st.floats(0.01, 0.99))
def test_tokens_of_steps_and_of_the_batch_are_one_curve(form: str, at: float) -> None:
    p = EXAMPLES[form]
    lowest = p.get("S_min", 0.5)
    steps = lowest * 1.01 * 30**at
    tokens = float(tokens_at_steps(form, p, steps))
    assume(np.isfinite(tokens))
    assert float(tokens_at_batch(form, p, tokens / steps)) == pytest.approx(tokens, rel=1e-6)


@given(st.floats(3.3, 1e4))
def test_the_piecewise_law_meets_the_ray(batch: float) -> None:
    steps = float(steps_at_batch("wsd", WSD, batch))
    slope_1, slope_2 = 2 * 0.02 * (150 - 220), 2 * 0.02 * (300 - 220)
    if steps < 150:
        inverse = -slope_1 * 50**2
        value = 0.02 * 70**2 + 3000 - inverse / 50 + inverse / (steps - 100)
    elif steps <= 300:
        value = 0.02 * (steps - 220) ** 2 + 3000
    else:
        value = 0.02 * 80**2 + 3000 + slope_2 * (steps - 300)
    assert batch * steps == pytest.approx(value)
    assert float(tokens_at_steps("wsd", WSD, steps)) == pytest.approx(value)


def test_a_right_branch_from_below_the_origin_has_a_tangent() -> None:
    # A_0 < 0, so the least batch is the tangent's, not A_1: E_min = C S^2 - C S_opt^2 there.
    p = WSD | {"E_min": 500.0}
    assert 500 - 0.02 * 80 * (80 + 440) < 0
    touch = math.sqrt(220**2 + 500 / 0.02)
    least = 2 * 0.02 * (touch - 220)
    assert np.isnan(steps_at_batch("wsd", p, least * 0.999))
    assert float(steps_at_batch("wsd", p, least * 1.000001)) == pytest.approx(touch, rel=1e-2)
    assert tokens_at_batch("wsd", p, least * 0.999) == math.inf


@given(st.floats(2.2, 3.5), st.floats(3e3, 1e6))
def test_the_surface_gives_back_its_loss(loss: float, batch: float) -> None:
    tokens = float(surface_tokens(SURFACE, loss, batch))
    assert (tokens == math.inf) == (1.8 + 30.0 * batch**-0.35 >= loss)
    if tokens < math.inf:
        assert float(surface_loss(SURFACE, tokens / batch, batch)) == pytest.approx(loss, rel=1e-9)


def test_a_family_is_its_laws_target_by_target() -> None:
    batch = [3.0, 8.0, 400.0]
    lists = {name: [value, value * 1.1] for name, value in EXAMPLES["noise_floor"].items()}
    tokens = tokens_to_targets("noise_floor", lists, [3.0, 2.9], batch)
    assert tokens.shape == (2, 3)
    for i in range(2):
        own = {name: values[i] for name, values in lists.items()}
        assert tokens[i] == pytest.approx(tokens_at_batch("noise_floor", own, batch))
    shared = {name: [value] for name, value in SURFACE.items()}
    tokens = tokens_to_targets("loss_surface", shared, [3.0, 2.9], [5e3, 1e5])
    assert tokens[1, 0] == pytest.approx(float(surface_tokens(SURFACE, 2.9, 5e3)))


def held(law: str, x: Any, y: Any, p: dict[str, float], residual: str) -> float:
    """The engine's sum of squares at these very parameters."""
    found = fitting.fit(law, x, y, fixed=p, residual=residual, errors="status")
    return float(found.objective[0])


@pytest.mark.parametrize("residual", ["ray", "relative", "log"])
@pytest.mark.parametrize("form", EXAMPLES)
def test_the_engine_has_the_same_law(form: str, residual: str) -> None:
    p = EXAMPLES[form]
    assert set(p) == set(TOKENS_STEPS_PARAMETERS[form])
    rng = np.random.default_rng(3)
    batch = np.geomspace(6.0, 200.0, 12)
    tokens = tokens_at_batch(form, p, batch) * np.exp(0.1 * rng.standard_normal(12))
    steps = tokens / batch
    if form in ("classic", "wsd") and residual != "ray":  # the misfit of E at the point's S
        steps = steps_at_batch(form, p, batch)
        misfit = np.log(tokens_at_steps(form, p, steps) / tokens)
    elif form == "wsd":
        misfit = np.log(steps_at_batch(form, p, batch) / steps)
    else:
        misfit = np.log(tokens_at_batch(form, p, batch) / tokens)
    relative = residual == "relative" or (form == "classic" and residual == "ray")
    expected = np.sum(np.expm1(misfit) ** 2 if relative else misfit**2)
    if form in ("noise_floor", "two_power"):
        steps = tokens / batch
    assert held(form, steps, tokens, p, residual) == pytest.approx(expected, rel=1e-9)


def test_the_engine_has_the_same_surface() -> None:
    rng = np.random.default_rng(4)
    x = np.stack([rng.uniform(1e3, 1e5, 20), rng.uniform(1e3, 1e5, 20)])
    loss = surface_loss(SURFACE, x[0], x[1]) * np.exp(0.1 * rng.standard_normal(20))
    misfit = surface_loss(SURFACE, x[0], x[1]) / loss - 1
    found = held("loss_surface", x, loss, SURFACE, "relative")
    assert found == pytest.approx(np.sum(misfit**2), rel=1e-9)
