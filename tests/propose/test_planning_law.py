"""A law for the planner from logs: the losses it takes, and what a plan under it is worth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from megascale.errors import FitError
from megascale.propose.best_schedule import best_schedule
from megascale.propose.plan_bounds import PlanBounds
from megascale.propose.plan_rivals import followed, rule_rivals
from megascale.propose.planning_law import fittable_runs, held_out_inflation, law_of_logs
from megascale.runs.table import RunTable, load_runs
from tests.propose.known_law import KnownLaw, known_plan, write_known_logs


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> RunTable:
    path = write_known_logs(tmp_path_factory.mktemp("logs") / "runs.csv")
    return load_runs([path], cache=False)


def test_losses_after_the_beginning(table: RunTable) -> None:
    runs, loss, begin = fittable_runs(table)
    assert (len(runs), loss, begin) == (8, "validation", 120_000)
    assert min(run.tokens.min() for run in runs) >= begin
    assert all(len(run.loss) > 80 for run in runs)


def test_forms_take_equally_many_draws(table: RunTable) -> None:
    law = law_of_logs(table, forms=("theta", "power"), calibrate=False)
    assert law.forms.count("theta") == law.forms.count("power") == 40
    assert law.seen.decay_share == pytest.approx((0.2, 0.4), abs=0.01)


def test_a_gain_under_the_true_law_is_promised(table: RunTable) -> None:
    """The form is the true one: promised and true gain agree within the interval."""
    law = law_of_logs(table, forms=("power",))
    assert law.inflation < 1.5
    bounds = PlanBounds(10**6, 128, (256, 2048), (5e-3, 5e-3), warmup_tokens=50_000, min_gap=50_000)
    found = best_schedule(law, bounds)
    plans = [found.proposal.plan.history(), found.opponent.plan.history()]
    true = np.subtract(*KnownLaw(1).end_losses(plans)[0])
    promised = found.proposal.difference
    assert promised.high < 0
    assert promised.value == pytest.approx(true, rel=0.1)


def test_a_wrong_form_has_its_intervals_widened(table: RunTable) -> None:
    """A form without noise cannot hold switches: its own bands are far too narrow."""
    runs, _, _ = fittable_runs(table)
    assert held_out_inflation(("progress_only",), runs) > 2


def test_too_few_runs_are_refused(table: RunTable) -> None:
    two = table.table.filter(table.table["run"].is_in(["c256", "up"]))
    with pytest.raises(FitError, match="at least three"):
        law_of_logs(replace(table, table=two))


def test_rules_keep_the_bounds_on_batches() -> None:
    law = KnownLaw(2)
    bounds = PlanBounds(10**6, 256, (256, 2048), (5e-3, 5e-3), warmup_tokens=50_000)
    opponent = known_plan(((0, 512),), 200_000)
    rivals = rule_rivals(law, opponent, bounds)
    assert {name for name, plans in rivals.items() if plans} == {"remaining", "late", "follow"}
    for plans in rivals.values():
        for plan in plans:
            assert plan.lr == opponent.lr
            sizes = [size for _, size in plan.batches]
            assert all(size % 256 == 0 and 256 <= size <= 2048 for size in sizes)
            assert sizes == sorted(sizes) or plan in rivals["follow"]


def test_following_the_best_fixed_batch_grows() -> None:
    bounds = PlanBounds(10**6, 64, (64, 8192), (5e-3, 5e-3), warmup_tokens=50_000)
    points = followed(KnownLaw(2), known_plan(((0, 512),), 200_000), bounds)
    assert points[0].start_tokens == 0
    assert points[-1].batch_tokens > points[0].batch_tokens
