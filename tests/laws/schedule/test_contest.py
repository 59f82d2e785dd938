"""Forms and rivals on equal terms: each wins where it is true, and sizes are left out whole."""

from __future__ import annotations

from dataclasses import replace

import pytest

from megascale.errors import FitError
from megascale.fitting.history_law import FORMS
from megascale.laws.schedule.contest import RIVALS, contest_forms, hold_contest, law_for
from megascale.laws.schedule.select import folds, held_out
from tests.laws.schedule.simulated import PLANS, SCALES, SIZES, TRUTH, planned, run_of

OPTIONS = {"starts": 6, "threads": 1}
WALK = {**TRUTH, "c": 0.6, "tau": 1.0}


@pytest.mark.parametrize("truth", ["power", "state_equivalence", "fixed_surface"])
def test_a_rival_wins_where_it_is_the_truth(truth: str) -> None:
    point = {**WALK, **FORMS[truth].fixed} if truth != "power" else TRUTH
    runs = [
        run_of(truth, point, planned(plan), noise=0.003, seed=i) for i, plan in enumerate(PLANS)
    ]
    names = ["power", "theta", "state_equivalence", "fixed_surface", "tissue"]
    found = hold_contest(names, runs, **OPTIONS)
    assert found.tried[0].law == truth
    assert found.tried[0].end_error < 0.3 * found.tried[1].end_error
    assert set(found.elsewhere) == {"decays"}
    assert set(found.elsewhere["decays"]) == set(names)
    assert not found.failed
    for name in ("state_equivalence", "fixed_surface", "tissue"):
        assert RIVALS[name] in found.rivals


def test_the_longest_are_left_out_where_there_are_others() -> None:
    runs = [run_of("power", TRUTH, planned(plan)) for plan in PLANS]
    cut = [
        replace(run, history=replace(run.history, tokens=run.history.tokens * 0.5),
                tokens=run.tokens * 0.5)
        for run in runs[:4]
    ]  # fmt: skip
    found = hold_contest(["tissue"], [*cut, *runs[4:]], **OPTIONS)
    assert set(found.elsewhere) == {"decays", "longest"}
    assert set(found.elsewhere["longest"]["tissue"].ends) == {"256 decays", "1024 decays"}


def test_every_rival_is_tried_and_w0_where_it_can_be() -> None:
    assert set(RIVALS) <= set(contest_forms(None))
    assert "w0" in contest_forms(0.1)
    assert "w0" not in contest_forms(None)
    assert "w0" not in contest_forms(0.0)


def sized_runs(sizes: tuple[float | None, ...]) -> list:
    law = FORMS["power"].of_sizes()
    return [
        run_of(law, {**TRUTH, **SIZES}, planned(plan, n_params=n, name=f"{plan[0]} {n}"),
               noise=0.002, seed=i)
        for n in sizes
        for i, plan in enumerate(PLANS)
    ]  # fmt: skip


def test_a_size_left_out_is_predicted_by_powers_of_the_others() -> None:
    runs = sized_runs((3e5, 1e6, 3e6))
    law = law_for("power", runs)
    assert law.sized
    assert [len(fold) for fold in folds(runs, "size")] == [6, 6, 6]
    found = held_out(law, runs, "size", scales=SCALES, **OPTIONS)
    assert len(found.ends) == 18
    assert found.end_error < 0.01
    single = held_out("power", runs, "size", scales=SCALES, **OPTIONS)
    assert single.end_error > 5 * found.end_error  # one law for all sizes
    assert len(folds(runs, "schedule")) == len(PLANS)  # of all sizes at once


def test_sizes_must_be_known_and_three_to_leave_one_out() -> None:
    runs = sized_runs((3e5, 1e6))
    with pytest.raises(FitError, match="need two others"):
        folds(runs, "size")
    unknown = [replace(runs[0], history=replace(runs[0].history, n_params=None)), *runs[1:]]
    with pytest.raises(FitError, match="n_params = unknown"):
        law_for("power", unknown)
    assert not law_for("power", runs[:6]).sized


def test_other_weight_decays_are_other_schedules() -> None:
    runs = [run_of("power", TRUTH, planned(PLANS[0], weight_decay=d)) for d in (0.0, 0.1, 0.1)]
    assert folds(runs, "schedule") == [[0], [1, 2]]
