"""A law of whole schedules: chosen by schedules left out, written, read back, asked."""

from __future__ import annotations

import json
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest

from megascale.errors import DataError, FitError
from megascale.formats.schedule_law_file import is_schedule_law, read_schedule_law
from megascale.propose.best_schedule import best_schedule
from megascale.propose.fittable_runs import fittable_runs
from megascale.propose.plan_bounds import PlanBounds
from megascale.propose.plan_outcome import outcome_of
from megascale.propose.prediction import predict_schedules
from megascale.propose.schedule_law import LawSearch, ScheduleLaw, search_schedule_law
from megascale.runs.table import load_runs
from tests.propose.known_law import KnownLaw, known_plan, write_known_logs

FORMS = ("power", "exponential_r")


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_known_logs(tmp_path_factory.mktemp("logs") / "runs.csv")


@pytest.fixture(scope="module")
def search(logs: Path) -> LawSearch:
    runs, loss, begin = fittable_runs(load_runs([logs], cache=False))
    return search_schedule_law(
        runs, loss=loss, from_tokens=begin, weight_decay=None, forms=FORMS, replicates=30
    )


def test_the_true_form_is_found_by_schedules_left_out(search: LawSearch) -> None:
    assert search.tried[0].law == "power"
    assert [fit.law.name for fit in search.law.fits] == ["power"]
    assert search.law.level_error < 0.02
    assert search.law.schedules == search.law.runs == 8
    assert any("one peak learning rate" in text for text in search.weak)


def test_a_file_gives_the_same_predictions(search: LawSearch, tmp_path: Path) -> None:
    path = tmp_path / "law.json"
    path.write_text(search.law.to_file("known").to_json())
    assert is_schedule_law(path)
    back = ScheduleLaw.of_file(read_schedule_law(path))
    histories = [known_plan(((0, 256), (600_000, 512)), 300_000).history("a")]
    first, second = (predict_schedules(law, histories, [()])[0] for law in (search.law, back))
    assert first.end == second.end
    np.testing.assert_array_equal(first.low, second.low)
    assert back.end_errors == search.law.end_errors


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda law: law.update(schema="megascale.law/2"), "no law of whole schedules"),
        (lambda law: law["forms"][0].update(values=[1.0]), "one number a parameter"),
        (lambda law: law["forms"][0]["draws"][0].__setitem__(0, 1e999), "finite"),
        (lambda law: law.update(forms=[]), "at least 1"),
        (lambda law: law["seen"].update(batch=[-1, 5]), "greater than 0"),
        (lambda law: law.update(extra=1), "not permitted"),
    ],
)
def test_files_that_break_a_rule_are_refused(search: LawSearch, tmp_path: Path, change, says):
    content = json.loads(search.law.to_file("known").to_json())
    change(content)
    path = tmp_path / "law.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=says):
        read_schedule_law(path)


def test_a_form_of_another_version_is_refused(search: LawSearch) -> None:
    file = search.law.to_file("known")
    strange = file.forms[0].model_copy(update={"name": "later_form"})
    with pytest.raises(DataError, match="later_form"):
        ScheduleLaw.of_file(file.model_copy(update={"forms": [strange]}))


def test_too_few_schedules_say_which_runs_would_help(logs: Path) -> None:
    table = load_runs([logs], cache=False)
    few = table.table.filter(table.table["run"].is_in(["c256", "c1024"]))
    runs, loss, begin = fittable_runs(replace(table, table=few))
    with pytest.raises(FitError, match=r"whose batch changes.*a decay of the learning rate"):
        search_schedule_law(runs, loss=loss, from_tokens=begin, weight_decay=None, forms=FORMS)


def test_a_gain_under_the_true_law_is_promised(search: LawSearch) -> None:
    """The form is the true one: promised and true gain agree within the interval."""
    bounds = PlanBounds(10**6, 128, (256, 2048), (5e-3, 5e-3), warmup_tokens=50_000, min_gap=50_000)
    found = best_schedule(search.law.draws(), bounds)
    plans = [found.proposal.plan.history(), found.opponent.plan.history()]
    true = np.subtract(*KnownLaw(1).end_losses(plans)[0])
    promised = found.proposal.difference
    assert promised.low < true < promised.high < 0
    assert promised.value == pytest.approx(true, rel=0.1)


def test_curves_end_where_ends_are(search: LawSearch) -> None:
    """Both are moved by what the law's residuals tell of the schedule."""
    history = known_plan(((0, 256), (600_000, 512)), 300_000).history()
    law = replace(search.law, residuals=dict.fromkeys(search.law.residuals, 0.02))
    moved, plain = (one.draws().end_losses([history])[:, 0] for one in (law, search.law))
    assert (moved < plain).all()
    along = law.draws().curves(history, np.array([5e5, 1e6]))
    np.testing.assert_allclose(along[:, 1], moved, rtol=1e-7)


def test_planner_and_prediction_give_the_same_intervals(search: LawSearch) -> None:
    plans = [known_plan(((0, 512),), 0), known_plan(((0, 256), (600_000, 1024)), 0)]
    draws = search.law.draws()
    planned = outcome_of(draws, plans[1], plans[0], confidence=0.8)
    histories = [plan.history() for plan in plans]
    predicted = predict_schedules(search.law, histories, [(), ()], confidence=0.8)[1]
    assert predicted.against_first is not None
    pairs = [(planned.loss, predicted.end), (planned.difference, predicted.against_first)]
    for one, other in pairs:
        assert astuple(one) == pytest.approx(astuple(other), abs=1e-7)


def test_predictions_of_schedules_not_seen(search: LawSearch) -> None:
    plans = [known_plan(((0, 512), (700_000, 1024)), 0), known_plan(((0, 512),), 0)]
    plans.append(plans[0])
    found = predict_schedules(
        search.law, [p.history(f"p{i}") for i, p in enumerate(plans)], [()] * 3
    )
    true = KnownLaw(1).end_losses([plan.history() for plan in plans])[0]
    for one, value in zip(found, true, strict=True):
        assert one.end.low < value < one.end.high
        assert one.end.value == pytest.approx(value, abs=0.02)
    fixed, same = found[1].against_first, found[2].against_first
    assert fixed is not None
    assert same is not None
    assert fixed.value == pytest.approx(true[1] - true[0], abs=0.015)
    assert fixed.value == pytest.approx(found[1].end.value - found[0].end.value)
    assert same.value == 0
    assert sum(one.best for one in found) == pytest.approx(1)
    assert found[1].best < 0.2
    assert found[0].steps == pytest.approx(700_000 / 512 + 300_000 / 1024)


def test_outside_what_was_seen_the_interval_is_wider(search: LawSearch) -> None:
    history = known_plan(((0, 512),), 0).history("a")
    inside = predict_schedules(search.law, [history], [()], widen=2)[0].end
    outside = predict_schedules(search.law, [history], [("strange",)], widen=2)[0].end
    assert outside.value == inside.value
    assert outside.high - outside.low > inside.high - inside.low


def test_other_lengths_are_not_compared(search: LawSearch) -> None:
    plan = known_plan(((0, 512),), 0)
    half = plan.scaled(0.5).history("half")
    found = predict_schedules(search.law, [plan.history("whole"), half], [(), ()])
    assert found[1].against_first is None
    with pytest.raises(FitError, match="ends before"):
        predict_schedules(search.law, [plan.scaled(0.1).history("short")], [()])


@pytest.mark.slow
def test_bands_hold_the_truth_as_often_as_they_say(tmp_path: Path) -> None:
    """Twenty studies of the same eight schedules with new jitter; two schedules not among them."""
    held = [known_plan(((0, 512), (600_000, 2048)), 0), known_plan(((0, 512),), 200_000)]
    histories = [plan.history(f"p{i}") for i, plan in enumerate(held)]
    true = KnownLaw(1).end_losses(histories)[0]
    inside = 0
    for seed in range(20):
        path = write_known_logs(tmp_path / f"{seed}.csv", noise=0.01, seed=seed)
        runs, loss, begin = fittable_runs(load_runs([path], cache=False))
        law = search_schedule_law(
            runs, loss=loss, from_tokens=begin, weight_decay=None, forms=("power",), replicates=30
        ).law
        found = predict_schedules(law, histories, [(), ()])
        ends = [(one.end, value) for one, value in zip(found, true, strict=True)]
        gap = found[1].against_first
        assert gap is not None
        ends.append((gap, true[1] - true[0]))
        inside += sum(end.low < value < end.high for end, value in ends)
    assert inside >= 0.85 * 60
