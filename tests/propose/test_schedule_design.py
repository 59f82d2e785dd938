"""Which run is next: the update against its closed form, and against the runs being made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from megascale.errors import FitError
from megascale.propose.fittable_runs import fittable_runs
from megascale.propose.loss_draws import FitDraws
from megascale.propose.schedule_design import (
    _left,
    default_candidates,
    default_targets,
    design_runs,
)
from megascale.propose.schedule_law import ScheduleLaw, search_schedule_law
from megascale.runs.table import load_runs
from tests.propose.known_law import known_plan, write_known_logs

TOTAL = 1_000_000


@pytest.fixture(scope="module")
def law(tmp_path_factory: pytest.TempPathFactory) -> ScheduleLaw:
    logs = write_known_logs(tmp_path_factory.mktemp("logs") / "runs.csv")
    runs, loss, begin = fittable_runs(load_runs([logs], cache=False))
    return search_schedule_law(
        runs, loss=loss, from_tokens=begin, weight_decay=None, forms=("power",), replicates=30
    ).law


def test_the_update_of_one_number_has_its_closed_form() -> None:
    """Var(t | m) = Var(t) - Cov^2 / (Var(m) + R)."""
    rng = np.random.default_rng(0)
    seen = rng.normal(0, 2, (500, 1))
    ends = 0.5 * seen + rng.normal(0, 1, (500, 1))
    seen, ends = seen - seen.mean(), ends - ends.mean()
    whole = np.cov(np.hstack([seen, ends]).T)
    expected = whole[1, 1] - whole[0, 1] ** 2 / (whole[0, 0] + 0.3)
    assert _left(ends, [seen], np.array([[0.3]])) == pytest.approx(expected)


def test_measuring_the_target_twice_leaves_less_than_once() -> None:
    rng = np.random.default_rng(1)
    ends = rng.normal(0, 1, (300, 1))
    ends -= ends.mean()
    noise = np.array([[1.0]])
    once, twice = (_left(ends, [ends] * n, noise) for n in (1, 2))
    variance = float(ends.var(ddof=1))
    assert once == pytest.approx(1 / (1 / variance + 1))
    assert twice == pytest.approx(1 / (1 / variance + 2))


def test_the_target_itself_is_worth_more_than_another_run(law: ScheduleLaw) -> None:
    target = known_plan(((0, 2048),), 0)
    other = known_plan(((0, 256),), 400_000)
    found = design_runs(
        law, total_tokens=TOTAL, targets=[target], candidates={"other": other, "itself": target}
    )
    assert found.ranked[0].name == "itself"
    assert found.ranked[0].reduction > found.ranked[1].reduction >= 0
    assert found.second[0].spread <= found.ranked[0].spread <= found.spread


def test_candidates_are_legal_and_gains_are_shares(law: ScheduleLaw) -> None:
    plans = default_candidates(law, TOTAL, 128)
    assert all(size % 128 == 0 for plan in plans.values() for _, size in plan.batches)
    assert len(default_targets(law, TOTAL, 128)) == 8
    found = design_runs(law, total_tokens=TOTAL, unit_tokens=128)
    assert len(found.ranked) == len(plans) == 20
    assert all(0 <= one.reduction <= 1 for one in found.ranked)
    gains = [one.per_budget for one in found.ranked]
    assert gains == sorted(gains, reverse=True)


def test_a_law_without_replicates_cannot_say(law: ScheduleLaw) -> None:
    bare = replace(law, fits=[replace(fit, bootstrap=fit.bootstrap[:0]) for fit in law.fits])
    with pytest.raises(FitError, match="needs replicates"):
        design_runs(bare, total_tokens=TOTAL)


def test_curves_end_where_end_losses_do(law: ScheduleLaw, tmp_path: Path) -> None:
    draws = FitDraws(law.fits, law.seen, each=10)
    history = known_plan(((0, 256), (500_000, 512)), 200_000).history()
    curve = draws.curves(history, np.array([5e5, 1e6]))
    np.testing.assert_allclose(curve[:, 1], draws.end_losses([history])[:, 0], rtol=1e-12)
