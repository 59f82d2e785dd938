"""Plans under laws of measured runs stay within what those runs have shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from megascale.errors import ScheduleError
from megascale.fitting.history_fit import fit_history
from megascale.laws.schedule.histories import runs_of_table
from megascale.propose.best_schedule import best_schedule
from megascale.propose.loss_draws import FitDraws
from megascale.propose.plan_bounds import PlanBounds, outside_seen
from megascale.propose.seen_ranges import SeenRanges

BOUNDS = PlanBounds(
    10**6, 128, (128, 8192), (1e-3, 2e-2), warmup_tokens=50_000, min_gap=50_000, max_changes=2
)
DECAY = (200_000, 200_000)


@pytest.fixture(scope="module")
def law(shared_data: Path) -> FitDraws:
    """Four forms fitted to the runs of switch_1M.csv, validation losses from 120K tokens on."""
    rows = pl.read_csv(shared_data / "schedule_runs" / "switch_1M.csv")
    base = rows.select("run", "tokens", "batch_tokens", "lr")
    table = pl.concat(
        [
            base.with_columns(loss=rows["train_loss"], loss_kind=pl.lit("interval_mean")),
            base.with_columns(loss=rows["validation_loss"], loss_kind=pl.lit("validation")),
        ]
    )
    runs = runs_of_table(table, from_tokens=120e3, weight_decay=0.1)
    fits = [fit_history(f, runs, starts=8, bootstrap=40) for f in ("power", "theta", "snr", "w0")]
    return FitDraws(fits, SeenRanges.of_histories([run.history for run in runs]), each=30)


def test_what_was_seen(law: FitDraws) -> None:
    assert law.seen.batch == (256, 4096)
    assert law.seen.batch_decayed == (256, 1024)
    assert law.seen.peak == (5e-3, 5e-3)
    assert law.seen.decay_share == pytest.approx((0.2, 0.2), abs=0.005)
    assert law.seen.final_ratio == pytest.approx((0.1, 0.1), abs=0.002)


@pytest.mark.parametrize("decay", [(0, 0), DECAY])
@pytest.mark.parametrize("objective", ["tokens", "steps"])
def test_nothing_unseen_is_proposed(law: FitDraws, decay, objective) -> None:
    found = best_schedule(law, replace(BOUNDS, decay_tokens=decay), objective)
    assert found.outside == ()
    assert any("batch: 128" in said for said in found.clipped)
    assert any("peak learning rate" in said for said in found.clipped)
    for one in (found.opponent, found.proposal, found.least_cost, *found.front):
        assert outside_seen(one.plan, law.seen) == ()
        sizes = [size for _, size in one.plan.batches]
        assert min(sizes) >= 256
        assert max(sizes) <= (1024 if decay == DECAY else 4096)


def test_gains_shrink_after_a_decay(law: FitDraws) -> None:
    """At a constant rate a growing batch wins; twelve runs cannot show it after a decay."""
    constant = best_schedule(law, BOUNDS)
    assert constant.proposal.difference.high < -0.1
    decayed = best_schedule(law, replace(BOUNDS, decay_tokens=DECAY))
    assert decayed.proposal.difference.high == 0
    assert decayed.proposal.plan == decayed.opponent.plan
    assert constant.tuned_opponent is not None
    assert constant.tuned_opponent.plan.lr.decay_tokens > 0
    assert constant.tuned_opponent.difference.high < 0  # a decay of the fixed batch does as much


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"total_tokens": 4_000_000}, "--tokens = 4M: the law's longest run has 1M tokens"),
        ({"decay_tokens": (400_000, 400_000)}, "--decay = 400000"),
        ({"decay_tokens": DECAY, "final_ratio": (0.02, 0.02)}, "--final-ratio = 0.02"),
        ({"peak": (8e-3, 8e-3)}, "--lr = 0.008: .* Nearest legal: 0.005"),
        ({"batch": (128, 128)}, "--min-batch, --max-batch = 128"),
    ],
)
def test_what_was_not_seen_is_refused(law: FitDraws, change, said) -> None:
    bounds = replace(BOUNDS, peak=(5e-3, 5e-3))
    with pytest.raises(ScheduleError, match=said):
        best_schedule(law, replace(bounds, **change))


def test_beyond_the_data_is_said(law: FitDraws) -> None:
    bounds = replace(BOUNDS, batch=(128, 1024), peak=(5e-3, 5e-3), decay_tokens=DECAY)
    found = best_schedule(law, bounds, beyond_data=True)
    assert found.opponent.plan.batches[0][1] == 128
    assert any("a batch of 128" in said for said in found.outside)
