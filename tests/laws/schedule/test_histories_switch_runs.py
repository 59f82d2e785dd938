"""Twelve measured runs of one tiny model whose batches and learning rates change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from megascale.fitting.history_fit import fit_history
from megascale.fitting.history_result import HistoryRun
from megascale.laws.schedule.histories import runs_of_table
from megascale.laws.schedule.select import folds, held_out

FITTED = ["c256", "c1024", "s256-4096-500", "s1024-256-500", "d256", "d1024"]


@pytest.fixture(scope="module")
def switch_runs(shared_data: Path) -> dict[str, HistoryRun]:
    """The runs of switch_1M.csv, validation losses from 120K tokens on."""
    rows = pl.read_csv(shared_data / "schedule_runs" / "switch_1M.csv")
    base = rows.select("run", "tokens", "batch_tokens", "lr")
    table = pl.concat(
        [
            base.with_columns(loss=rows["train_loss"], loss_kind=pl.lit("interval_mean")),
            base.with_columns(loss=rows["validation_loss"], loss_kind=pl.lit("validation")),
        ]
    )
    return {run.name: run for run in runs_of_table(table, from_tokens=120e3, weight_decay=0.1)}


@pytest.mark.parametrize(
    ("form", "rms"),
    [
        ("power", 0.0230),
        ("two_exponentials", 0.0225),
        ("exponential", 0.0273),
        ("exponential_r", 0.0262),
        ("bias", 0.0335),
    ],
)
def test_the_forms_fit_as_measured(
    switch_runs: dict[str, HistoryRun], form: str, rms: float
) -> None:
    fit = fit_history(form, list(switch_runs.values()), starts=12)
    assert fit.rms <= rms
    if form == "power":
        for name, value in {"L_inf": 1.69, "p": 0.35, "q": 0.25, "x": 0.42, "kappa": 0.38}.items():
            assert fit[name] == pytest.approx(value, abs=0.03), name
        assert fit["tau"] == pytest.approx(6.8, rel=0.1)


def test_six_schedules_predict_the_other_six(switch_runs: dict[str, HistoryRun]) -> None:
    fit = fit_history("power", [switch_runs[name] for name in FITTED], starts=12)
    for name, run in switch_runs.items():
        if name in FITTED:
            continue
        off = fit.predict(run.history, run.tokens).loss - run.loss
        assert 0.008 < off[-1] < 0.028, name
        assert np.sqrt(np.mean(off**2)) < 0.037, name


def test_without_decays_one_exponential_misses_them(switch_runs: dict[str, HistoryRun]) -> None:
    runs = list(switch_runs.values())
    assert len(folds(runs, "schedule")) == 12
    one = held_out("exponential", runs, "decays", starts=8)
    tail = held_out("power", runs, "decays", starts=8)
    assert set(one.ends) == {"d256", "d512", "d1024", "d256-1024-500"}
    assert tail.end_error < one.end_error
