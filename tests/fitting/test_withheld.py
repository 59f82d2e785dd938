"""Limits that hold less or more than they state are withheld, with the reason, everywhere."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.fitting_coverage import CASES, studies, true_values
from megascale import fitting
from megascale.fitting.catalogue import laws
from megascale.fitting.withheld import RULES

CASE = next(case for case in CASES if case.law == "noise_floor")


def floors(points: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = studies(CASE, points, count)
    return x[0], y


def test_rules_name_what_there_is() -> None:
    for rule in RULES:
        assert set(rule.laws) | set(rule.but) <= set(laws())
        for law in rule.laws:
            known = laws()[law]
            assert set(rule.names) <= {*known.params, *known.derived}
        assert rule.reason.count("%") == 1


def test_withheld_limits_say_why() -> None:
    x, y = floors(6, 1)
    one = fitting.fit("noise_floor", x[0], y[0])
    assert np.isnan(one.interval("B_opt")).all()
    assert np.isfinite(one.interval("S_min")).all()
    assert "below 8 points" in one.withheld("B_opt")
    assert one.withheld("S_min") == ""
    # Profile limits of a parameter stand in tables, where it has any.
    assert "below 8 points" in one.withheld("q", "wald")
    assert one.withheld("q") == ""
    assert np.isfinite(one.limits("q")[0]).all()
    text = one.summary()
    assert "limits of B_opt, S_opt withheld: Wald limits of its floor and optimum" in text
    assert "profile limits" in text
    found = one.to_dict()
    assert "below 8 points" in found["withheld"]["B_opt"]
    cell = found["problems"][0]["params"]["B_opt"]
    assert cell["low"] is None
    assert cell["high"] is None
    assert "withheld" in fitting.fit("noise_floor", x[0], y[0], bootstrap="pairs").summary()


@pytest.mark.parametrize(
    ("bootstrap", "law", "name", "points", "hidden"),
    [
        ("pairs", "noise_floor", "S_min", 24, True),
        ("pairs", "two_power", "u", 12, True),
        ("pairs", "two_power", "u", 16, False),
        ("pairs", "power_law", "exponent_1", 8, False),
        ("wild", "two_power", "E_min", 12, True),
        ("wild", "two_power", "B_opt", 12, False),
        ("wild", "two_power", "B_opt", 7, True),
        ("parametric", "noise_floor", "B_opt", 7, True),
        ("parametric", "noise_floor", "B_opt", 8, False),
    ],
)  # fmt: skip
def test_rules_hold_where_they_say(
    bootstrap: str, law: str, name: str, points: int, hidden: bool
) -> None:
    case = next(case for case in CASES if case.law == law)
    x, y = studies(case, points, 3)
    result = fitting.fit(case.law, x[0], y, bootstrap=bootstrap, replicates=40)
    assert bool(result.withheld(name)) is hidden
    assert np.isnan(result.interval(name)).all() == hidden


def test_what_is_shown_of_few_points_holds_the_truth() -> None:
    """Without the rule Wald limits of B_opt hold it in 79 % of such studies."""
    x, y = floors(8, 400)
    result = fitting.fit("noise_floor", x, y)
    truth = true_values(CASE, result)
    for name in ("B_opt", "S_opt", "q"):
        low, high = result.interval(name)
        shown = np.isfinite(low)
        assert 0.8 <= shown.mean() <= 0.95
        inside = (low <= truth[name]) & (truth[name] <= high)
        assert 0.85 <= inside[shown].mean() <= 0.97, name


def test_a_joint_is_shown_by_its_profile() -> None:
    case = next(case for case in CASES if case.law == "wsd")
    x, y = studies(case, 16, 20)
    result = fitting.fit("wsd", x[0], y)
    assert np.isnan(result.interval("S_1")).all()
    assert result.profiled("S_1")[result.solved].all()
    low, high = result.limits("S_1")
    assert ((low <= case.truth["S_1"]) & (case.truth["S_1"] <= high))[result.solved].mean() >= 0.75
    assert np.isnan(result.interval("S_opt", kind="profile")).all()
    assert np.isfinite(result.interval("S_opt")).mean() > 0.9
