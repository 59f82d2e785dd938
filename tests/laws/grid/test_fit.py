"""`megascale fit` on tables of final losses: known laws come back, doubts and errors are said."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from megascale.cli import main
from megascale.errors import EXIT_DONE, EXIT_FIT, FitError
from megascale.formats.law_file import read_law_file
from megascale.laws.grid.cells import fit_cells
from megascale.laws.grid.fit import fit_grid, next_runs
from megascale.laws.grid.table import grid_table

LR, BATCH = (20.0, -0.6, 0.15), (0.3, 0.6)
SIZES, BUDGETS = (1e8, 2e8, 4e8), (2e9, 8e9, 3.2e10)


def best(n: float, d: float) -> tuple[float, float]:
    return LR[0] * n ** LR[1] * d ** LR[2], BATCH[0] * d ** BATCH[1]


def grid(noise: float = 0.001, rates: int = 11, batches: int = 9) -> pl.DataFrame:
    """Final losses around a known law: exact quadratics in log LR and log B, and seeded noise."""
    rng = np.random.default_rng(7)
    rows = []
    for n, d in itertools.product(SIZES, BUDGETS):
        for i, j in itertools.product(range(rates), range(batches)):
            lr, batch = 2.0 ** (-11.5 + 0.75 * i), 2.0 ** (14 + j)
            u, v = (np.log(x / y) for x, y in zip((lr, batch), best(n, d), strict=True))
            loss = 1.7 + 300 * n**-0.35 + 0.018 * u * u - 0.01 * u * v + 0.015 * v * v
            rows.append((n, d, lr, batch, loss + noise * rng.standard_normal()))
    columns = ["n_params", "tokens", "lr", "batch_tokens", "loss"]
    return pl.DataFrame(rows, schema=columns, orient="row")


def run(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    return int(stopped.value.code or 0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    grid().write_csv(tmp_path / "grid.csv")
    return tmp_path / "grid.csv"


def test_every_method_finds_the_law_that_made_the_grid() -> None:
    fit = fit_grid(grid(), replicates=200)
    assert fit.cells["convex"].all()
    assert (fit.cells["convex_share"] > 0.9).all()
    for n, d, lr, batch in fit.cells.select(
        "n_params", "tokens", "lr_opt", "batch_tokens_opt"
    ).iter_rows():
        assert (lr, batch) == pytest.approx(best(n, d), rel=0.15)
    tolerance = {"near_optimal": 0.12, "quadratic": 0.03, "search_factor": 0.08}
    for name, method in fit.methods.items():
        lr, batch = method.laws["lr"].law, method.laws["batch_tokens"].law
        wanted = pytest.approx((*LR[1:], BATCH[1]), abs=tolerance[name])
        assert (lr.a, lr.b, batch.b) == wanted
        assert method.regret is not None
        assert method.regret["mean_regret"] < 0.003
        assert {row["question"] for row in method.held_out} >= {"largest N", "longest horizon"}
    quadratic = fit.methods["quadratic"].laws["lr"].interval
    assert quadratic is not None
    assert quadratic.over == "cells"
    for i in (1, 2):
        assert quadratic.low[i] < LR[i] < quadratic.high[i]
    over_runs = fit.methods["near_optimal"].laws["lr"].interval
    assert over_runs is not None
    assert over_runs.over == "runs"


def test_a_noiseless_grid_gives_the_law_exactly() -> None:
    fit = fit_grid(grid(noise=0.0), replicates=0)
    lr, batch = (fit.law(column, "quadratic").law for column in ("lr", "batch_tokens"))
    assert (lr.coef, lr.a, lr.b) == pytest.approx(LR, rel=1e-5)
    assert (batch.coef, batch.a, batch.b) == pytest.approx((BATCH[0], 0, BATCH[1]), rel=1e-5)
    assert fit.cells["c_ee"].to_numpy() == pytest.approx(0.018, rel=1e-6)
    assert fit.cells["c_eb"].to_numpy() == pytest.approx(-0.01, rel=1e-6)


@pytest.mark.parametrize("law", ["learning_rate", "batch"])
def test_one_command_writes_a_law_that_others_take(
    law: str, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "law.json"
    output = {"learning_rate": "peak_lr", "batch": "batch_tokens"}[law]
    words = ("--optima", "quadratic", "--n-kind", "total", "--next-for", "1B,100B", "-o", file)
    assert run("fit", path, "--law", law, *words) == EXIT_DONE
    said = capsys.readouterr().out
    assert "891 runs at 9 (N, D)" in said
    assert "Step Law, unrounded" in said
    assert "standard error in log from" in said
    made = read_law_file(file)
    assert (made.output, made.n_kind, made.d_kind) == (output, "total", "horizon")
    wanted = best(5e8, 1e11)[law == "batch"]
    assert made.evaluate(5e8, 1e11) == pytest.approx(wanted, rel=0.15)
    assert set(made.diagnostics["methods"]) == {"near_optimal", "quadratic", "search_factor"}
    assert len(made.diagnostics["next_runs"]) == 3
    assert [source.path for source in made.inputs] == [str(path)]
    assert (
        run("recommend", "--params", "5e8", "--tokens", "100e9", "--law-file", file, "--json") == 0
    )
    table = json.loads(capsys.readouterr().out)["lr" if output == "peak_lr" else "batch"]
    (own,) = [row for row in table["rows"] if row["law"] == "law"]
    assert own["value"] == pytest.approx(wanted, rel=0.15)
    assert own["low"] < own["value"] < own["high"]
    if law == "batch":
        layout = ("--micro-batch", "1", "--seq-length", "1024", "--dp", "4")
        clock = ("--tokens", "8e9", "--interval", "2e9", "--momentum", "1", "--initial", "65536")
        assert run("schedule", "--law-file", file, *clock, *layout) == 0


def test_json_is_the_law_file(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit", path, "--json", "--bootstrap", "50") == EXIT_DONE
    made = json.loads(capsys.readouterr().out)
    assert made["output"] == "peak_lr"
    assert made["diagnostics"]["law"] == "near_optimal"
    band = made["parameters"]["a"]
    assert band["low"] < band["value"] < band["high"]


def test_columns_go_by_any_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = {"n_params": "size", "tokens": "D", "batch_tokens": "bs", "loss": "final"}
    table = grid().with_columns(pl.col("batch_tokens") / 1024).rename(named)
    table.write_csv(tmp_path / "grid.csv")
    stated = ("--columns", "N=size", "--columns", "loss=final")
    assert run("fit", tmp_path / "grid.csv", *stated, "--seq-length", "1024") == EXIT_DONE
    assert "891 runs" in capsys.readouterr().out
    said, _, _ = grid_table(table, "t", columns=[("N", "size"), ("loss", "final")], seq_length=1024)
    assert said.equals(grid_table(grid(), "t")[0])


def test_seeds_are_averaged_and_diverged_runs_are_told() -> None:
    once = grid()
    twice = pl.concat([once.with_columns(pl.col("loss") + shift) for shift in (-0.01, 0.01)])
    diverged = once.head(1).with_columns(loss=pl.lit(float("nan")))
    table, notes, _ = grid_table(pl.concat([twice, diverged]), "t")
    assert table["loss"].to_numpy() == pytest.approx(once["loss"].to_numpy())
    assert any("1 of 1783 runs left out" in note for note in notes)


def test_rates_alone_and_batches_alone(tmp_path: Path) -> None:
    for column, law in (("lr", "learning_rate"), ("batch_tokens", "batch")):
        single = grid(noise=0.0).group_by("n_params", "tokens", column, maintain_order=True)
        table = single.agg(pl.col("loss").min())
        table.write_csv(tmp_path / "grid.csv")
        file = tmp_path / "law.json"
        words = ("--law", law, "--optima", "search_factor", "-o", file)
        assert run("fit", tmp_path / "grid.csv", *words) == EXIT_DONE
        wanted = best(4e8, 8e9)[column != "lr"]
        assert read_law_file(file).evaluate(4e8, 8e9) == pytest.approx(wanted, rel=0.2)


def refused(path: Path, table: pl.DataFrame, *words: str) -> int:
    table.write_csv(path)
    return run("fit", path, *words)


def test_what_cannot_be_fitted_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "grid.csv"
    table = grid()
    for missing, law in (("lr", "learning_rate"), ("batch_tokens", "batch"), ("loss", "batch")):
        assert refused(path, table.drop(missing), "--law", law) == EXIT_FIT
        said = capsys.readouterr().err
        assert "for a table of final losses these columns are missing" in said
        assert f"missing: {missing} (" in said
    one = table.filter((pl.col("n_params") == 1e8) & (pl.col("tokens") == 8e9))
    assert refused(path, one) == EXIT_FIT
    said = capsys.readouterr()
    assert "99 runs at 1 (N, D)" in said.out
    assert "needs 2 cells" in said.err
    assert refused(path, table.filter(pl.col("tokens") == 8e9)) == EXIT_FIT
    assert "a law of D needs two at least" in capsys.readouterr().err
    slope = table.with_columns(loss=3 - pl.col("lr").log() / 100 + 0 * pl.col("batch_tokens"))
    assert refused(path, slope, "--json") == EXIT_FIT
    said = capsys.readouterr()
    assert said.out == ""
    assert "lies inside the values that were run" in said.err
    assert "9 of 9 cells is at the largest learning rate" in said.err
    few = table.filter(pl.col("lr").rank("dense") <= 2, pl.col("batch_tokens").rank("dense") <= 2)
    assert refused(path, few) == EXIT_FIT
    assert "at most 2 learning rates, 2 batches a cell" in capsys.readouterr().err
    lone = table.group_by("n_params", "tokens", "lr").agg(pl.col("loss").min())
    assert refused(path, lone, "--optima", "quadratic") == EXIT_FIT
    assert "needs learning rates and batches" in capsys.readouterr().err
    assert refused(path, table, "--next-for", "7B") == EXIT_FIT
    assert "7B,2T" in capsys.readouterr().err


def test_a_saddle_has_no_optimum() -> None:
    u, v = (pl.col(name).log() for name in ("lr", "batch_tokens"))
    saddle = 2 + 0.02 * (u - np.log(3e-3)) ** 2 - 0.01 * (v - np.log(2e5)) ** 2
    cells = fit_cells(grid().with_columns(loss=saddle))
    assert not cells["convex"].any()
    assert cells["lr_opt"].null_count() == len(cells)
    assert (cells["reason"] != "").all()


def test_the_plan_asks_for_runs_that_were_not_made() -> None:
    fit = fit_grid(grid(), replicates=0)
    plan = next_runs(fit, target=(7e9, 1e12))
    measured = set(itertools.product(SIZES, BUDGETS))
    assert plan.cells
    assert not measured & {(cell.n_params, cell.tokens) for cell in plan.cells}
    assert plan.after < plan.before
    with pytest.raises(FitError, match="buys none"):
        next_runs(fit, budget_flops=1e9)


def test_the_step_law_table(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "law.json"
    table = shared_data / "steplaw" / "dense_lr_bs_loss.csv"
    assert run("fit", table, "--law", "learning_rate", "-o", file) == EXIT_DONE
    said = capsys.readouterr()
    assert "lr    = 77.69 N^-0.7662 D^0.1970" in said.out
    assert "batch = 0.2085 D^0.6125" in said.out
    assert "sequences of 2048" in said.err
    assert "smooth loss" in said.err
    found = read_law_file(file).diagnostics
    assert len(found["cells"]) == 17
    # The published constants as printed, and with the digits of the authors' bootstrap.
    regret = {row["name"]: 100 * row["mean_regret"] for row in found["published_regret"]}
    assert regret["Step Law"] == pytest.approx(0.0957, abs=5e-4)
    assert regret["Step Law, unrounded"] == pytest.approx(0.0975, abs=5e-4)
    own = found["methods"]["near_optimal"]
    assert own["laws"]["lr"]["points"] == 129
    assert 100 * own["regret"]["mean_regret"] == pytest.approx(0.0964, abs=5e-4)
    rate = found["methods"]["search_factor"]["laws"]["lr"]
    assert (rate["a"], rate["b"]) == pytest.approx((-0.714, 0.291), abs=0.01)
