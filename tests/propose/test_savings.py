"""Walking a schedule through a law of tokens and steps."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megascale.formats.law_file import TokensSteps
from megascale.propose.savings import TokenSaving, fixed_batch, token_saving
from megascale.schedule.batch import build_batch_schedule
from megascale.schedule.points import BatchPoint

LOSSES = [3.6 - 0.05 * i for i in range(17)]
SURFACE = {"L_inf": 1.8, "a": 60.0, "p": 0.5, "c": 30.0, "q": 0.35}


def surface_tokens(loss: float, batch: float) -> float:
    left = loss - SURFACE["L_inf"] - SURFACE["c"] * batch ** -SURFACE["q"]
    return batch * (SURFACE["a"] / left) ** (1 / SURFACE["p"]) if left > 0 else math.inf


def family(**changes: Any) -> TokensSteps:
    content: dict[str, Any] = {
        "form": "loss_surface",
        "target_loss": LOSSES,
        "parameters": {name: [value] for name, value in SURFACE.items()},
    }
    return TokensSteps.model_validate(content | changes)


def schedule(points: list[tuple[int, int]], total: int) -> Any:
    return build_batch_schedule(
        [BatchPoint(start, batch) for start, batch in points],
        total_tokens=total,
        sequence_length=1,
        micro_batch_size=1,
        data_parallel=1,
    )


@given(st.integers(2_000, 200_000), st.integers(2, 15))
def test_a_constant_batch_gives_back_its_own_law(batch: int, target: int) -> None:
    tokens = surface_tokens(LOSSES[target], batch)
    if not tokens < 1e12:
        return
    found = token_saving(schedule([(0, batch)], int(tokens)), family())
    assert isinstance(found, TokenSaving)
    assert found.loss == pytest.approx(LOSSES[target], abs=1e-4)
    assert found.token_saving <= 1e-9  # nothing beats the best fixed batch from inside one
    assert found.best_tokens == pytest.approx(
        min(surface_tokens(LOSSES[target], batch * 2 ** (i / 8)) for i in range(-60, 61)), rel=0.02
    )


def test_growing_with_the_best_batch_saves_tokens() -> None:
    def best(loss: float) -> int:
        return round(min((surface_tokens(loss, b), b) for b in range(300, 60_000, 50))[1])

    points, at = [(0, best(LOSSES[0]))], 0.0
    at = surface_tokens(LOSSES[0], points[0][1])
    for before, after in pairwise(LOSSES):
        legs = {
            b: surface_tokens(after, b) - surface_tokens(before, b) for b in range(300, 60_000, 50)
        }
        batch = min(legs, key=lambda b: legs[b] if legs[b] > 0 else math.inf)
        points.append((round(at), batch))
        at += legs[batch]
    found = token_saving(schedule(points, round(at)), family())
    assert isinstance(found, TokenSaving)
    assert found.loss == pytest.approx(LOSSES[-1], abs=0.02)
    assert 0.02 < found.token_saving < 0.9


def test_what_cannot_be_said_is_said() -> None:
    short = token_saving(schedule([(0, 2000)], 10_000), family())
    assert isinstance(short, str)
    assert "does not reach its first target" in short


def test_steps_against_a_fixed_batch() -> None:
    found = fixed_batch(schedule([(0, 100), (1000, 200)], 3000), 100, "given")
    assert (found.steps, found.step_saving) == (30, pytest.approx(1 / 3))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target_loss": [3.0, 3.1]}, "must fall"),
        ({"form": "classic"}, "parameters S_min, E_min"),
        ({"parameters": {k: [v, v] for k, v in SURFACE.items()}}, "1 values"),
    ],
)
def test_families_are_checked(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        family(**changes)
