"""Two runs with known losses, compared."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression
from typer.testing import CliRunner

from megascale.cli import app
from megascale.errors import DataError, RunError
from megascale.runs.compare import Array, Curve, compare, curve_of_run, falling, smoothed
from tests.schedule.test_replan import log

TOTAL = 1e9


def law(scale: float, power: float) -> Curve:
    """A run with loss 2 + scale tokens^-power, 400 records, batch of 1M, a step a second."""
    tokens = np.linspace(TOTAL / 400, TOTAL, 400)
    middle = tokens - TOTAL / 800
    return Curve(
        name=f"{scale:g}",
        tokens=tokens,
        middle=middle,
        loss=2 + scale * middle**-power,
        weight=np.ones(400),
        steps=tokens / 1e6,
        seconds=tokens / 1e6,
        batch=np.full(400, 1e6),
    )


def test_known_curves() -> None:
    a, b = law(50.0, 0.2), law(40.0, 0.2)
    found = compare(a, b, losses=[2.5])
    for row in found.at_tokens:
        assert row.loss_a == pytest.approx(2 + 50 * row.tokens**-0.2, rel=1e-3)
        assert row.difference == pytest.approx(-10 * row.tokens**-0.2, rel=0.02)
        assert row.seconds_a == row.steps_a == pytest.approx(row.tokens / 1e6)
    (equal,) = compare(a, b, losses=[2.9]).at_loss
    assert equal.tokens_a == pytest.approx((50 / 0.9) ** 5, rel=0.01)
    assert equal.tokens_ratio == pytest.approx(0.8**5, rel=0.01)
    assert found.crossings == ()
    assert len(compare(a, b, rows=5).at_tokens) == 5


def test_crossing_is_found_where_it_is() -> None:
    tokens = 3e8
    a = law(50.0, 0.2)
    b = law(50.0 * tokens**0.1, 0.3)
    (found,) = compare(a, b).crossings
    assert found == pytest.approx(tokens, rel=0.01)
    assert compare(b, a).crossings == pytest.approx((found,))


def test_the_error_is_the_scatter_of_equal_runs() -> None:
    rng = np.random.default_rng(5)
    at, gaps = np.linspace(0.1, 0.9, 9) * TOTAL, []
    for _ in range(40):
        found = []
        for curve in (law(50.0, 0.2), law(50.0, 0.2)):
            loss = curve.loss + rng.normal(0, 0.02, 400)
            noisy = Curve(curve.name, curve.tokens, curve.middle, loss, *rest(curve))
            found.append(smoothed(noisy, at, TOTAL / 20))
        (loss_a, error_a), (loss_b, error_b) = found
        gaps.append((loss_b - loss_a) / np.hypot(error_a, error_b))
    assert np.std(gaps) == pytest.approx(1, abs=0.2)


def rest(curve: Curve) -> tuple[Array, Array, Array, Array]:
    return curve.weight, curve.steps, curve.seconds, curve.batch


def test_smoothing_is_exact_on_a_line_up_to_its_edge() -> None:
    line = law(0.0, 0.2)
    curve = Curve("line", line.tokens, line.middle, 5 - line.middle / TOTAL, *rest(line))
    at = np.array([line.middle[0], TOTAL / 2, TOTAL])
    loss, error = smoothed(curve, at, TOTAL / 10)
    assert loss == pytest.approx(5 - at / TOTAL)
    assert error == pytest.approx(np.zeros(3), abs=1e-9)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=40))
def test_isotonic_regression_is_scipys(values: list[float]) -> None:
    expected = isotonic_regression(np.array(values), increasing=False).x
    assert falling(np.array(values)) == pytest.approx(expected, abs=1e-9)


def test_runs_without_anything_in_common() -> None:
    a = law(50.0, 0.2)
    late = Curve("late", a.tokens + 2 * TOTAL, a.middle + 2 * TOTAL, a.loss, *rest(a))
    with pytest.raises(DataError, match="no tokens in common"):
        compare(a, late)
    far = Curve("far", a.tokens, a.middle, a.loss + 100, *rest(a))
    assert compare(a, far).at_loss == ()


def test_own_logs_and_the_command(tmp_path: Path) -> None:
    one, two = log(tmp_path / "one", [64] * 40), log(tmp_path / "two", [64] * 10 + [128] * 15)
    curve = curve_of_run(two)
    assert curve.tokens[-1] == 640 + 15 * 128
    assert curve.middle[10] == 640 + 64
    assert curve.seconds[-1] == 25
    plot = tmp_path / "figure.svg"
    words = ["compare", str(one), str(two)]
    result = CliRunner().invoke(app, [*words, "--plot", str(plot)], catch_exceptions=False)
    assert result.exit_code == 0
    assert "At equal tokens" in result.output
    assert plot.stat().st_size > 1000
    result = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
    last = json.loads(result.output)["at_tokens"][-1]
    assert last["tokens"] == 2560
    assert (last["steps_a"], last["steps_b"]) == (40, 25)
    with pytest.raises(DataError, match=r"\.png"):
        CliRunner().invoke(app, [*words, "--plot", "x.nothing"], catch_exceptions=False)
    with pytest.raises(RunError, match="no such file"):
        curve_of_run(tmp_path / "none")
    with pytest.raises(DataError, match="3 records"):
        curve_of_run(log(tmp_path / "short", [64]))
