"""What a study says about its runs, on curves whose answers are known in closed form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from megascale.curves.curve import Curve
from megascale.curves.records import VALIDATION
from megascale.sweep.finish import answers, comparison, crossing_answer, grid, optimum
from megascale.sweep.results import RunResult, Spread, compare_groups
from megascale.sweep.study import Finish, Fit

TOKENS = np.geomspace(1e3, 1e6, 61)


def result(
    loss,
    *,
    arm: str = "",
    seed: int = 1,
    started_at: int = 0,
    batch: int = 1024,
    tokens=TOKENS,
    **values,
) -> RunResult:
    """A run whose curve is `loss(tokens)`; axis points from `values`."""
    point = {axis: f"{axis}-{value}" for axis, value in values.items()}
    name = "_".join([arm, *point.values(), str(seed)])
    unknown = np.full(len(tokens), np.nan)
    curve = Curve(name, tokens, loss(tokens), unknown, batch, 1000.0, 1e-3, loss_kind=VALIDATION)
    return RunResult(
        run=name,
        group=" ".join(filter(None, [arm, *point.values()])),
        arm=arm,
        point=point,
        values=values,
        seed=seed,
        path=Path("unused"),
        tokens=int(tokens[-1]),
        steps=int(tokens[-1]) // batch,
        started_at=started_at,
        batch=(batch,),
        loss=curve.final,
        seconds=1.0,
        curve=curve,
        peak_lr=1e-3,
        parameters=1000,
    )


def falling(scale: float, floor: float = 2.0):
    return lambda tokens: floor + scale * tokens**-0.5


def test_a_loss_that_the_first_point_has_was_reached_before_it():
    early, late = result(falling(1.0), arm="early"), result(falling(40.0), arm="late")
    table = comparison([early, late], Finish(targets=[2.05, 1.0]))
    said = {row[0]: row[-2:] for row in table.rows}
    assert said["early"] == ("before 1K", "not reached")
    assert said["late"][0] not in ("before 1K", "not reached")
    (one, _) = compare_groups([early, late], targets=[2.05])
    assert one.to_dict()["tokens_to"] == [{"loss": 2.05, "tokens": None, "before": 1000}]


def test_differences_are_taken_seed_by_seed():
    noise = {1: 0.0, 2: 0.3, 3: -0.2}
    runs = [
        result(falling(30.0 + gain, 2.0 + noise[seed]), arm=arm, seed=seed)
        for arm, gain in (("fixed", 0.0), ("growing", -10.0))
        for seed in noise
    ]
    fixed, growing = compare_groups(runs, baseline=["fixed"], targets=[2.2])
    assert fixed.against is None
    assert growing.baseline == "fixed"
    assert growing.against.mean == pytest.approx(-10 * 1e6**-0.5)
    assert growing.against.deviation == pytest.approx(0.0, abs=1e-9)
    assert growing.loss.deviation == pytest.approx(np.std([0.0, 0.3, -0.2], ddof=1))
    assert growing.tokens_to[2.2] is None  # the seed with floor 2.3 never gets there


def test_equal_tokens_is_what_all_have_and_branches_have_their_own():
    short = np.geomspace(1e3, 1e5, 41)
    branch = np.geomspace(1.1e6, 1.2e6, 5)
    runs = [
        result(falling(30), arm="fixed"),
        result(falling(20), arm="growing", tokens=short),
        result(falling(10), arm="fixed-decay", started_at=10**6, tokens=branch),
        result(falling(5), arm="growing-decay", started_at=10**6, tokens=branch),
    ]
    found = {
        group.group: group
        for group in compare_groups(runs, baseline=["fixed", "fixed-decay"], targets=[])
    }
    assert found["fixed"].equal_tokens == found["growing"].equal_tokens == 10**5
    assert found["growing"].against.mean == pytest.approx(-10 * 1e5**-0.5)
    assert found["growing-decay"].baseline == "fixed-decay"
    assert found["growing-decay"].against.mean == pytest.approx(-5 * 1.2e6**-0.5, rel=1e-3)


def test_a_baseline_shares_every_other_axis():
    runs = [
        result(falling(scale), arm=arm, wd=wd)
        for arm, wd, scale in (
            ("fixed", 0.01, 30),
            ("fixed", 0.1, 20),
            ("growing", 0.01, 29),
            ("growing", 0.1, 10),
        )
    ]
    found = {group.group: group for group in compare_groups(runs, baseline=["fixed"])}
    assert found["growing wd-0.01"].against.mean == pytest.approx(-1e-3)
    assert found["growing wd-0.1"].against.mean == pytest.approx(-10e-3)


def test_crossings_are_where_the_curves_meet():
    # 2 + 30 x^-0.5 meets 2.05 + 10 x^-0.5 at x = 160,000; and a third that is always above.
    runs = [
        result(falling(10, 2.05), batch=1, size=1),
        result(falling(30, 2.00), batch=2, size=2),
        result(falling(40, 2.00), batch=3, size=3),
    ]
    rows = crossing_answer(runs, "size").data
    assert rows[0]["tokens"] == pytest.approx(160_000, rel=0.01)
    assert rows[0]["loss"] == pytest.approx(2.075, rel=1e-3)
    assert rows[1]["tokens"] is None


def test_the_optimum_of_a_parabola_in_log_is_recovered():
    def at(lr):
        return lambda tokens: 2 + 0.1 * np.log(lr / 3e-3) ** 2 + 0 * tokens

    runs = [result(at(lr), lr=lr, size=size) for lr in (1e-3, 2e-3, 8e-3) for size in ("a", "b")]
    for row in optimum(runs, "lr").data:
        assert row["parabola"] == pytest.approx(3e-3)
        assert row["best"] == 2e-3
        assert not row["at_edge"]
    edge = [result(at(lr), lr=lr) for lr in (4e-3, 8e-3, 16e-3)]
    assert optimum(edge, "lr").data[0]["at_edge"]
    assert optimum(edge, "lr").data[0]["parabola"] is None


def test_the_grid_marks_the_lowest_cell():
    runs = [
        result(falling(10, 2 + abs(row - 2) + abs(column - 1)), row=row, column=column)
        for row in (1, 2, 3)
        for column in (1, 2)
    ]
    table = grid(runs, "row", "column")
    assert table.columns == ("row", "column-1", "column-2")
    marked = [(line[0], cell) for line in table.rows for cell in line[1:] if cell.endswith("*")]
    assert marked == [("row-2", "2.0100 *")]


def test_spread_is_missing_where_a_seed_is():
    assert Spread.of([1.0, None]) is None
    assert Spread.of([]) is None
    assert Spread.of([2.0]).text() == "2.0000"
    assert Spread.of([1.0, 3.0]).text(".1f") == "2.0 ± 1.4"


def test_the_engine_finds_the_law_that_made_the_runs():
    # L = 2 + 40 S^-0.5 + 2e3 / B: at constant loss E(S) falls, turns and rises, with
    # S_min = (40 / (L - 2))^2 and B_min = 2e3 / (L - 2).
    pytest.importorskip("megascale.fitting")

    def made(batch):
        return lambda tokens: 2 + 40 * (tokens / batch) ** -0.5 + 2e3 / batch

    runs = [
        result(made(batch), size=batch, batch=batch, tokens=np.geomspace(8 * batch, 3e7, 400))
        for batch in (2000, 3000, 4000, 6000, 8000, 12000, 16000, 24000)
    ]
    finish = Finish(fit=Fit(laws=["noise_floor"], targets=2, min_batches=6))
    points, law = answers(runs, finish)[1:]
    assert len(points.rows) >= 12
    for row in law.data:
        gap = row["target_loss"] - 2
        assert row["converged"]
        assert row["S_min"] == pytest.approx((40 / gap) ** 2, rel=0.02)
        assert row["B_min"] == pytest.approx(2e3 / gap, rel=0.02)


def test_too_few_batches_are_said_not_fitted():
    found = answers([result(falling(10))], Finish(fit=Fit()))[-1]
    assert "not fitted" in found.notes[0]
    assert not found.rows


def test_the_table_says_what_kind_of_loss_and_that_one_seed_has_no_error():
    table = comparison([result(falling(10))], Finish())
    assert "validation" in table.notes[0]
    assert "one seed" in table.notes[0]
