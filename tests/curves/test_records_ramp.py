"""What the rise of the learning rate costs a run, and that laws of the batch do not see it."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from megascale.curves.curve import mean_curve
from megascale.curves.records import split_runs
from megascale.curves.table import curves_from_table
from megascale.laws.batch.points import at_peak_rate, choose_targets, extract
from megascale.laws.batch.surface import fit_surfaces
from tests.curves.simulated import BATCHES, Truth

LR = 6e-4


def warmed_table(truth: Truth, warmup_steps: int, seed: int = 0) -> pl.DataFrame:
    """Runs whose progress is the sum of learning rates over the peak, after so many steps of
    linear warmup."""
    rng = np.random.default_rng(seed)
    parts = []
    for batch in BATCHES:
        number = int(4e9 // batch)
        share = np.minimum(np.arange(1, number + 1) / max(warmup_steps, 1), 1.0)
        progress = np.cumsum(share) - share / 2
        steps = np.unique(np.geomspace(20, number, 400).astype(np.int64))
        middle = (np.concatenate([[0], steps[:-1]]) + steps - 1) // 2
        loss = truth.loss(np.maximum(progress[middle], 1.0), batch)
        columns = {
            "run": f"b{batch}",
            "step": steps,
            "tokens": steps * batch,
            "batch_tokens": batch,
            "lr": LR * share[steps - 1],
            "loss": loss + 0.005 * rng.standard_normal(len(steps)),
            "loss_kind": "interval_mean",
        }
        parts.append(pl.DataFrame(columns))
    return pl.concat(parts)


def rates(tokens: list[float], lr: list[float], loss: float = 3.0) -> pl.DataFrame:
    return pl.DataFrame({"run": "r", "tokens": tokens, "lr": lr, "loss": loss})


@pytest.mark.parametrize(
    ("tokens", "lr", "lost"),
    [
        ([1e3, 2e3, 3e3, 4e3], [0.5, 1.0, 1.0, 1.0], 1e3),  # from zero over 2,000 tokens
        ([1e3, 2e3, 3e3, 4e3], [0.75, 1.0, 1.0, 1.0], 0.5e3),  # from half of the peak
        ([1e3, 2e3, 4e3, 6e3], [0.25, 0.5, 1.0, 0.2], 2e3),  # and a decay later
        ([1e3, 2e3, 3e3], [1.0, 1.0, 1.0], 0.0),
        ([1e3, 2e3, 3e3], [1.0, 0.5, 0.1], 0.0),
        ([5e6, 5e6 + 1e3, 5e6 + 2e3], [0.5, 1.0, 1.0], 0.0),  # a branch begins late
    ],
)
def test_tokens_lost_to_the_rise(tokens, lr, lost):
    (records,) = split_runs(rates(tokens, lr))
    assert records.ramp_tokens() == pytest.approx(lost, abs=1e-6)


def test_logs_without_learning_rates_lose_nothing():
    (records,) = split_runs(rates([1e3, 2e3], [1.0, 1.0]).drop("lr"))
    assert records.ramp_tokens() == 0


def test_a_mean_of_seeds_keeps_the_ramp():
    curves = curves_from_table(warmed_table(Truth(), 300)).constant_batch()
    alike = [curve for curve in curves if curve.batch_tokens == BATCHES[2]]
    assert mean_curve([*alike, *alike]).ramp_tokens == alike[0].ramp_tokens > 0


@pytest.mark.parametrize("warmup", [0, 300, 1000])
def test_the_best_batch_does_not_move_with_the_warmup(warmup):
    """Counting consumed tokens put it 1.5 (300 steps) and 1.9 times (1,000) too high at a hundred
    times the range."""
    truth = Truth()
    curves = curves_from_table(warmed_table(truth, warmup)).constant_batch()
    (surface,) = fit_surfaces(curves, below_loss=4.0)
    tokens = np.array([4e9, 4e11])
    assert surface.batch_for_tokens(tokens) == pytest.approx(
        truth.best_batch_after(tokens), rel=0.04
    )
    points = at_peak_rate(extract(curves, choose_targets(curves)).points)
    target = points["target_loss"].min()
    for batch, found in (
        points.filter(pl.col("target_loss") == target).select("batch_tokens", "tokens").iter_rows()
    ):
        assert found == pytest.approx(truth.tokens_to(target, batch), rel=0.04)
