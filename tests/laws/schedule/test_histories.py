"""Histories of logs: right where they are told, refused with one message where they are not."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from megascale.errors import FitError
from megascale.laws.schedule.histories import history_of_rows, runs_of_table
from megascale.laws.schedule.select import folds


def rows(run: str, batch: list[int | None], lr: list[float | None], kind: str) -> pl.DataFrame:
    tokens = [1000 * (i + 1) for i in range(len(batch))]
    return pl.DataFrame(
        {
            "run": [run] * len(batch),
            "tokens": tokens,
            "batch_tokens": batch,
            "lr": lr,
            "loss": [4.0 - 0.1 * i for i in range(len(batch))],
            "loss_kind": [kind] * len(batch),
        },
        schema_overrides={"batch_tokens": pl.Int64, "lr": pl.Float64},
    )


def test_a_log_becomes_its_history() -> None:
    lr = [0.5, 1.0] + [1.0] * 38
    batch = [10] * 20 + [20] * 20
    [run] = runs_of_table(rows("a", batch, lr, "interval_mean"), loss="interval_mean")
    assert run.history.steps == pytest.approx(20_000 / 10 + 20_000 / 20)
    assert run.history.lr_start[0] == 0.0  # the rise followed back to token 0
    assert run.tokens[3] == 3500.0  # a mean belongs to the middle of its interval


@pytest.mark.parametrize(
    ("batch", "lr", "rule"),
    [
        ([10, None, 10, 10], [1.0] * 4, "run a: batch = unknown"),
        ([10] * 4, [1.0, 1.0, None, 1.0], "run a: learning rate = unknown"),
        ([10] * 2 + [20] * 2, [1.0] * 4, "run a: gap"),
        ([10], [1.0], "at least two rows"),
    ],
)
def test_what_a_log_does_not_tell_is_refused(batch: list, lr: list, rule: str) -> None:
    with pytest.raises(FitError, match=rule):
        runs_of_table(rows("a", batch, lr, "validation"))


def test_a_missing_kind_of_loss_names_those_there_are() -> None:
    with pytest.raises(FitError, match="validation"):
        runs_of_table(rows("a", [10] * 40, [1.0] * 40, "validation"), loss="interval_mean")
    with pytest.raises(FitError, match="is not in the table"):
        runs_of_table(rows("a", [10] * 40, [1.0] * 40, "validation"), names=["b"])


def test_seeds_of_one_schedule_are_left_out_together() -> None:
    frames = [rows(name, [10] * 40, [1.0] * 40, "validation") for name in ("s1", "s2")]
    frames.append(rows("up", [10] * 20 + [20] * 20, [1.0] * 40, "validation"))
    runs = runs_of_table(pl.concat(frames))
    assert folds(runs, "schedule") == [[0, 1], [2]]
    with pytest.raises(FitError, match="leaves out 0 of 3"):
        folds(runs, "decays")
    with pytest.raises(FitError, match="must be one of"):
        folds(runs, "seeds")  # type: ignore[arg-type]


def test_repeated_rows_count_once() -> None:
    at = np.array([1000.0, 2000.0, 2000.0, 3000.0])
    history = history_of_rows(at, np.full(4, 10.0), np.ones(4))
    assert history.tokens.tolist() == [0.0, 1000.0, 2000.0, 3000.0]
