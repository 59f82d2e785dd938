"""`megascale fit` from run logs and point tables to law files that a schedule takes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from megascale.cli import main
from megascale.curves.table import curves_from_table
from megascale.errors import FitError
from megascale.formats.law_file import read_law_file
from megascale.formats.run_log import RunLog
from megascale.laws.batch.from_points import BatchLaw, doubts
from megascale.laws.from_logs import LogOptions, fit_logs, rate_table
from megascale.laws.law_files import Naming
from megascale.laws.learning_rate import search_factor
from megascale.laws.rate_law import RateLaw
from megascale.runs.table import RunTable, load_runs
from tests.curves.simulated import Truth, run_table

TRUTH = Truth()
SIZE = {"n_params": 120_000_000, "n_params_non_embedding": 100_000_000}


def write_logs(folder: Path, table: pl.DataFrame, header: dict[str, int]) -> None:
    """The table's runs as run directories of our own."""
    for (run,), rows in table.partition_by("run", as_dict=True, maintain_order=True).items():
        (folder / str(run)).mkdir()
        log = RunLog(folder / str(run), {"name": str(run), **header})
        log.start()
        before = 0
        for row in rows.iter_rows(named=True):
            counted = row["tokens"] - before
            before = row["tokens"]
            log.metrics(
                {
                    **{key: row[key] for key in ("step", "tokens", "batch_tokens", "lr", "loss")},
                    "samples": row["tokens"] // 1024,
                    "micro_batches": 1,
                    "sequence_length": 1024,
                    "loss_sum": row["loss"] * counted,
                    "loss_tokens": counted,
                    "weight_decay": 0.1,
                    "grad_norm": 1.0,
                    "seconds": 1.0,
                }
            )
        log.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs")
    write_logs(path, run_table(TRUTH, records=200), SIZE)
    return path


@pytest.fixture(scope="module")
def logs(folder: Path) -> RunTable:
    return load_runs(folder, cache=False)


def run(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    return int(stopped.value.code or 0)


@pytest.mark.parametrize("law", ["auto", "noise_floor", "loss_surface"])
def test_logs_become_a_law_file(
    law: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "toy.json"
    assert run("fit", folder, "--law", law, "-o", path) == 0
    said = capsys.readouterr()
    assert "overtakes" in said.out
    file = read_law_file(path)
    assert (file.name, file.output, file.n_kind) == ("toy", "batch_tokens", "non_embedding")
    assert file.range.n == (1e8, 1e8)
    assert file.sha256[:16] in said.err
    assert file.evaluate(1e8, 4e8) == pytest.approx(TRUTH.best_batch_after(4e8), rel=0.1)
    assert file.tokens_steps is not None
    logged = {input.path: input.sha256 for input in file.inputs}
    assert len(logged) == 9
    for name, digest in logged.items():
        assert hashlib.sha256(Path(name).read_bytes()).hexdigest() == digest
    evidence = file.diagnostics
    assert evidence["runs"] == 9
    assert len(evidence["crossings"]) == 3
    assert evidence["law"] == ("noise_floor" if law == "noise_floor" else "loss_surface")
    if law == "auto":
        assert evidence["surface_choice"]["taken"]
        assert "as well, with fewer parameters" in said.out
    if law == "noise_floor":
        assert set(evidence["aicc"]) >= {"noise_floor", "two_power", "classic"}
        assert evidence["held_out_error"] < 0.05
        assert {row["question"] for row in evidence["audit"]} == {"lowest loss", "longest horizon"}
        assert abs(evidence["best_batch_by_tokens"]["rms_log_ratio"]) < 0.1
        assert "best batch by target loss" in said.out


def test_the_trainers_schedule_takes_the_law(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "toy.json"
    options = ("--law", "noise_floor", "--form", "loglog_table", "--target-loss", "2.7,2.55,2.4")
    assert run("fit", folder, *options, "-o", path) == 0
    table = read_law_file(path).table
    assert table is not None
    assert len(table.d) == 3
    layout = ("--micro-batch", "1", "--seq-length", "1024", "--dp", "4", "--params", "1e8")
    words = ("--tokens", "6e8", "--interval", "2e8", "--momentum", "1", "--initial", "16384")
    assert run("schedule", "--law-file", path, *words, *layout) == 0
    assert "16_384" in capsys.readouterr().out


def test_rates_from_logs(tmp_path: Path) -> None:
    parts = []
    for k, lr in enumerate(np.geomspace(1e-4, 3.2e-3, 6)):
        one = run_table(TRUTH, (65536,), noise=0.002, lr=float(lr), seed=k)
        shift = 0.02 * (np.log(lr / 6e-4) + 0.3 * (pl.col("tokens") / 1e9).log()) ** 2
        parts.append(one.with_columns(pl.col("loss") + shift, run=pl.lit(f"lr{k}")))
    write_logs(tmp_path, pl.concat(parts), SIZE)
    fit = fit_logs(load_runs(tmp_path, cache=False), "learning_rate", Naming("rates"))
    assert isinstance(fit.law, RateLaw)
    assert (fit.file.output, fit.file.d_kind) == ("peak_lr", "horizon")
    assert fit.file.parameters["b"].value == pytest.approx(-0.3, abs=0.05)
    assert fit.file.evaluate(1e8, 1e9) == pytest.approx(6e-4, rel=0.05)
    curves = fit.curves.curves
    with pytest.raises(FitError, match="holds the batch fixed"):
        rate_table([*curves, replace(curves[0], batch_tokens=1.0)], 4)
    with pytest.raises(FitError, match="no learning rate"):
        rate_table([*curves, replace(curves[0], lr=None)], 4)


def test_point_tables_become_law_files(tmp_path: Path) -> None:
    rows = [
        {"target_loss": target, "S": truth / batch, "E": truth}
        for target in (2.8, 2.65, 2.5, 2.4)
        for batch in (16384.0 * 2**k for k in range(7))
        if np.isfinite(truth := TRUTH.tokens_to(target, batch) * (1 + 1e-4 * np.sin(batch)))
    ]
    points = tmp_path / "points.csv"
    pl.DataFrame(rows).write_csv(points)
    path = tmp_path / "law.json"
    words = ("--law", "noise_floor", "--group", "target_loss", "--json")
    assert run("fit", points, *words, "-o", path) == 0
    file = read_law_file(path)
    assert file.evaluate(1.0, 4e8) == pytest.approx(TRUTH.best_batch_after(4e8), rel=0.05)
    assert file.inputs[0].sha256 == hashlib.sha256(points.read_bytes()).hexdigest()

    rates = tmp_path / "rates.csv"
    table = pl.DataFrame({"N": [1e8, 2e8, 4e8, 8e8], "D": [1e9, 8e9, 2e9, 4e9]})
    table = table.with_columns(lr=3e-3 * (pl.col("N") / 1e8) ** -0.2 * (pl.col("D") / 1e9) ** -0.3)
    table.with_columns(pl.col("lr") * pl.Series([1.01, 0.99, 1.0, 1.0])).write_csv(rates)
    assert run("fit", rates, "--law", "power_law", "--x", "N,D", "--y", "lr", "-o", path) == 0
    assert read_law_file(path).output == "peak_lr"
    # Laws that say neither a batch nor a rate are written as the fit's result.
    table.rename({"lr": "other"}).write_csv(rates)
    assert run("fit", rates, "--law", "power_law", "--x", "N,D", "--y", "other", "-o", path) == 0
    assert "problems" in json.loads(path.read_text())


def test_what_logs_cannot_give_is_said(
    logs: RunTable, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FitError, match="is not fitted to run logs"):
        fit_logs(logs, "chinchilla", Naming("x"))
    with pytest.raises(FitError, match="does not say it"):
        fit_logs(logs, "wsd", Naming("x"), LogOptions(n_kind="active"))
    with pytest.raises(FitError, match=r"1 \(65,536 tokens\).*at least 4.*run 5 more.*wsd 6"):
        fit_logs(load_runs(folder / "b65536-s0", cache=False), "wsd", Naming("x"))
    with pytest.raises(FitError, match=r"lie between losses of .*--target-loss 8"):
        fit_logs(logs, "wsd", Naming("x"), LogOptions(targets=(1.0,)))
    assert run("fit") == 7
    assert "names no table and no logs" in capsys.readouterr().err
    assert run("fit", "--law", "list") == 0
    assert "two_power" in capsys.readouterr().out
    assert run("fit", folder, "--law", "wsd", "-o", "law.csv") == 7
    assert ".json" in capsys.readouterr().err
    assert run("fit", folder, "--target-loss", "low") == 2
    assert run("fit", folder / "nowhere") == 3


def test_settings_of_few_batches_are_left_out_with_a_reason(tmp_path: Path) -> None:
    many = run_table(TRUTH, records=200)
    few = run_table(TRUTH, (65536, 131072), records=200, lr=1e-3)
    few = few.with_columns(run=pl.lit("other-") + pl.col("run"))
    write_logs(tmp_path, pl.concat([many, few]), SIZE)
    fit = fit_logs(load_runs(tmp_path, cache=False), "noise_floor", Naming("x"))
    (said,) = fit.file.diagnostics["settings_left_out"]
    assert "lr = 0.001" in said
    assert "batch sizes = 2" in said
    assert len(fit.curves.curves) == 11


def few_batches(folder: Path, batches: tuple[int, ...]) -> RunTable:
    write_logs(folder, run_table(TRUTH, batches, records=200), SIZE)
    return load_runs(folder, cache=False)


def test_fewer_batches_than_a_law_needs(tmp_path: Path) -> None:
    five = tuple(2**k for k in range(12, 21, 2))
    logs = few_batches(tmp_path, five)
    said = r"5 at most: no target loss is passed by 6 .*two_power 4.*--law two_power or noise_floor"
    with pytest.raises(FitError, match=said):
        fit_logs(logs, "wsd", Naming("x"))
    assert fit_logs(logs, "noise_floor", Naming("x")).file.evaluate(1e8, 4e8) == pytest.approx(
        TRUTH.best_batch_after(4e8), rel=0.2
    )


def test_batches_that_are_all_too_large(tmp_path: Path) -> None:
    logs = few_batches(tmp_path, tuple(2**k for k in range(17, 23)))
    with pytest.raises(FitError, match=r"below the smallest.*run smaller batches, or longer"):
        fit_logs(logs, "noise_floor", Naming("x"), LogOptions(targets=(2.8, 2.6)))


def test_a_loss_that_too_few_batches_pass(tmp_path: Path) -> None:
    table = run_table(TRUTH, records=100)
    large, tokens = pl.col("batch_tokens") > 500_000, pl.col("tokens")
    write_logs(
        tmp_path, table.filter(pl.when(large).then(tokens < 4e8).otherwise(tokens > 1e9)), SIZE
    )
    with pytest.raises(
        FitError, match=r"no loss is passed by .* from .* to .*log more often early"
    ):
        fit_logs(load_runs(tmp_path, cache=False), "auto", Naming("x"))


def test_a_law_that_the_points_speak_against_is_warned_of(
    folder: Path, logs: RunTable, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = fit_logs(logs, "wsd", Naming("x"))
    assert isinstance(fit.law, BatchLaw)
    few, worse, unseen, withheld = fit.law.warnings
    assert "wsd has 6 parameters, and at most 8 batch sizes" in few
    assert "noise_floor describes the same points better" in worse
    assert "noise_floor predicts batches it has not seen better" in unseen
    assert "the bands of wsd are withheld" in withheld
    assert fit.file.covariance is None
    assert fit.file.diagnostics["warnings"] == fit.law.warnings
    assert doubts(fit.law.selection, "noise_floor", 8) == []
    assert run("fit", folder, "--law", "wsd") == 0
    assert capsys.readouterr().err.count("megascale: warning: ") == 4
    assert run("fit", folder) == 0  # logs take the law that they support
    said = capsys.readouterr()
    assert "best batches by one loss surface" in said.out
    assert "warning" not in said.err


def test_training_losses_where_evaluations_are_sparse(tmp_path: Path) -> None:
    table = run_table(TRUTH, records=200)
    sparse = table.filter(pl.int_range(pl.len()).over("run") % 40 == 39)
    for evaluations, taken in ((sparse, "interval_mean"), (table, "validation")):
        both = pl.concat([table, evaluations.with_columns(loss_kind=pl.lit("validation"))])
        kinds = {curve.loss_kind for curve in curves_from_table(both).curves}
        assert kinds == {taken}


def test_points_of_logs_for_any_law(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    assert run("fit", folder, "--target-loss", "2.6,2.4", "--points", path) == 0
    points = pl.read_csv(path)
    assert set(points["target_loss"]) == {2.6, 2.4}
    assert points["E"].to_list() == pytest.approx((points["S"] * points["B"]).to_list())
    assert run("fit", path, "--law", "classic", "--group", "target_loss", "--x", "S") == 0
    assert run("fit", folder, "--points", tmp_path / "points.txt") == 7


def test_a_rate_law_needs_rates(logs: RunTable) -> None:
    with pytest.raises(FitError, match="batch"):
        fit_logs(logs, "learning_rate", Naming("x"))
    with pytest.raises(FitError, match="at least 3"):
        search_factor(
            pl.DataFrame({"n_params": [1e8], "tokens": [1e9], "lr": [1e-3], "loss": [3.0]})
        )
