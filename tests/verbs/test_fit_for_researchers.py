"""`fit` on tables of steps to a loss, of final losses by size, and with `--law auto`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner, Result

from megascale.errors import EXIT_DONE, EXIT_FIT
from megascale.formats.law_file import read_law_file
from megascale.verbs.fit import app

BATCH = 2.0 ** np.arange(6, 15)


def fit(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in arguments])


@pytest.fixture
def steps_table(tmp_path: Path) -> Path:
    """Steps to a loss at nine batches in sequences, four sizes: B_crit as N^0.5."""
    rows = []
    for n in (1e8, 2e8, 4e8, 8e8):
        critical = 500 * (n / 1e8) ** 0.5
        for batch in BATCH:
            rows.append((n, 3.0, batch, 2e3 * (n / 1e8) ** 0.3 * (1 + critical / batch)))
    names = ["model_size", "target_loss", "batch_samples", "steps"]
    path = tmp_path / "steps.csv"
    pl.DataFrame(rows, schema=names, orient="row").write_csv(path)
    return path


def test_batches_in_sequences_need_their_length(steps_table: Path) -> None:
    refused = fit(steps_table, "--overhead", "0.2")
    assert "--seq-length" in str(refused.exception)


def test_every_law_side_by_side(steps_table: Path, tmp_path: Path) -> None:
    output = tmp_path / "excess.csv"
    run = fit(steps_table, "--overhead", "0.2", "--seq-length", "512", "-o", output)
    assert run.exit_code == EXIT_DONE, run.output
    for law in ("classic", "interpolation", "two_power"):
        assert f"\n{law} (tokens; 90 % intervals):" in run.stdout
    assert "B = " in run.stdout
    table = pl.read_csv(output)
    classic = table.filter(pl.col("law") == "classic").sort("n_params")
    expected = 0.2 * 500 * 512 * np.sqrt([1, 2, 4, 8])
    assert classic["batch_tokens"].to_numpy() == pytest.approx(expected, rel=1e-4)


def test_a_law_file_of_the_critical_batch(steps_table: Path, tmp_path: Path) -> None:
    output = tmp_path / "cbs.json"
    words = ["--overhead", "0.2", "--seq-length", "512", "-o", output]
    refused = fit(steps_table, *words)
    assert "a law file holds one law" in str(refused.exception)
    assert not output.exists()
    run = fit(steps_table, "--law", "classic", *words)
    assert run.exit_code == EXIT_DONE, run.output
    file = read_law_file(output)
    assert file.parameters["a"].value == pytest.approx(0.5, abs=1e-4)
    assert file.parameters["b"].value == 0.0
    assert file.range.n == (1e8, 8e8)
    assert file.diagnostics["regime"] == "critical batch"
    at_200m = file.parameters["coef"].value * 2e8 ** file.parameters["a"].value
    assert at_200m == pytest.approx(0.2 * 500 * 512 * 2**0.5, rel=1e-3)


def test_options_of_other_tables_are_refused(steps_table: Path, tmp_path: Path) -> None:
    words = [steps_table, "--seq-length", "512"]
    assert "is for" in str(fit(*words, "--overhead", "0.2", "--budgets", "1e18").exception)
    assert "--group" in str(fit(*words, "--overhead", "0.2", "--group", "target_loss").exception)
    assert "law = cubic" in str(fit(*words, "--overhead", "0.2", "--law", "cubic").exception)
    losses = tmp_path / "losses.csv"
    pl.DataFrame({"N": [1e8], "D": [2e9], "loss": [3.0]}).write_csv(losses)
    run = fit(losses, "--law", "isoflop", "--drop-highest", "1")
    assert "is for --law chinchilla" in str(run.exception)
    run = fit(losses, "--law", "chinchilla", "--reach", "2")
    assert "is for --law isoflop" in str(run.exception)
    run = fit(losses, "--law", "isoflop", "--overhead", "0.2")
    assert "--overhead = 0.2: is for" in str(run.exception)


def test_isoflop_of_a_table_of_ours(tmp_path: Path) -> None:
    rows = [
        (n, flops / 6 / n, 2.5 + 0.06 * np.log(n / (0.05 * flops**0.52)) ** 2)
        for flops in (1e18, 1e19, 1e20, 1e21)
        for n in 0.05 * flops**0.52 * np.exp(np.linspace(-1.2, 1.2, 7))
    ]
    path = tmp_path / "losses.csv"
    pl.DataFrame(rows, schema=["N", "D", "final_val_loss"], orient="row").write_csv(path)
    output = tmp_path / "minima.csv"
    run = fit(path, "--law", "isoflop", "-o", output)
    assert run.exit_code == EXIT_DONE, run.output
    assert "N = 0.05 C^0.5200" in run.stdout
    assert len(pl.read_csv(output)) == 4
    refused = fit(path, "--law", "isoflop", "-o", tmp_path / "law.json")
    assert "no law file" in str(refused.exception)
    lacking = tmp_path / "lacking.csv"
    pl.DataFrame({"N": [1e8], "final_val_loss": [3.0]}).write_csv(lacking)
    run = fit(lacking, "--law", "isoflop")
    assert "two sizes and a loss" in str(run.exception)


def test_auto_on_points(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    batch = 2.0 ** np.arange(15, 25)
    rng = np.random.default_rng(0)
    rows = []
    for target, size in ((3.0, 1.0), (2.8, 2.0)):
        x = batch / 2**20
        tokens = size * (3e9 * x**-0.3 + 2e9 * x**0.7) * np.exp(0.005 * rng.standard_normal(10))
        rows += [(target, s, e) for s, e in zip(tokens / batch, tokens, strict=True)]
    pl.DataFrame(rows, schema=["target_loss", "S", "E"], orient="row").write_csv(path)
    run = fit(path, "--law", "auto", "--json")
    assert run.exit_code == EXIT_DONE, run.output
    found = json.loads(run.stdout)
    assert found["law"] == "two_power"
    assert len(found["problems"]) == 2
    assert {row["law"] for row in found["rivals"]} == {"wsd", "two_power", "noise_floor", "classic"}
    assert "laws compared on the same points" in fit(path, "--law", "auto").stdout


def test_auto_on_losses(tmp_path: Path) -> None:
    tokens = np.geomspace(1e8, 1e11, 24)
    noise = np.exp(1e-3 * np.random.default_rng(0).standard_normal(24))
    path = tmp_path / "curve.csv"
    pl.DataFrame({"D": tokens, "final": (2 + 300 * tokens**-0.3) * noise}).write_csv(path)
    run = fit(path, "--law", "auto", "--x", "D", "--y", "final", "--json")
    assert run.exit_code == EXIT_DONE, run.output
    found = json.loads(run.stdout)
    assert found["law"] == "loss_curve"
    assert found["residual"] == "log"
    assert [row["law"] for row in found["rivals"]] == ["loss_curve", "power_law"]


def test_two_sizes_of_a_grid(tmp_path: Path) -> None:
    rows = []
    for active in (2e8, 4e8, 8e8):
        for tokens in (2e9, 8e9, 2e10):
            best = 20 * active**-0.3 * tokens**-0.2
            for lr in np.geomspace(1e-4, 6.4e-3, 7):
                loss = 2 + 1e3 * active**-0.4 + 0.05 * np.log(lr / best) ** 2
                rows.append((2e9, active, tokens, lr, loss))
    path = tmp_path / "moe.csv"
    names = ["total_params", "active_params", "tokens", "lr", "loss"]
    pl.DataFrame(rows, schema=names, orient="row").write_csv(path)
    assert "say which N" in str(fit(path).exception)
    assert "active sizes" in str(fit(path, "--n-kind", "total").exception)
    output = tmp_path / "law.json"
    words = ["--optima", "search_factor", "-o", output]
    run = fit(path, "--n-kind", "active", *words)
    assert run.exit_code == EXIT_DONE, run.output
    file = read_law_file(output)
    assert file.n_kind == "active"
    assert file.parameters["a"].value == pytest.approx(-0.3, abs=1e-6)
    assert file.diagnostics["other_size"] == {"n_params": [2e9, 2e9]}
    run = fit(path, "--n-kind", "total", "--hold", "active_params=4e8", *words)
    assert run.exit_code == EXIT_DONE, run.output
    file = read_law_file(output)
    assert (file.n_kind, file.range.n) == ("total", (2e9, 2e9))
    assert file.diagnostics["held"] == {"active_params": 4e8}


def test_parameters_in_common(tmp_path: Path) -> None:
    """Four batches a target: p and q of all three targets together, with errors."""
    rows = []
    for i, target in enumerate((3.0, 2.9, 2.8)):
        for k, batch in enumerate((4e5, 1.2e6, 4e6, 1.2e7)):
            reach = (1 - (1e5 * 1.2**i / batch) ** 0.9) ** (-1 / 0.6)
            noise = np.exp(0.005 * np.sin(5 * i + 3 * k))
            steps = 1e4 * 1.3**i * reach * noise
            rows.append((target, batch, steps, batch * steps))
    path = tmp_path / "points.csv"
    names = ["target_loss", "B", "S", "E"]
    pl.DataFrame(rows, schema=names, orient="row").write_csv(path)
    words = [path, "--law", "noise_floor", "--group", "target_loss"]
    run = fit(*words, "--shared", "p,q", "--json")
    found = json.loads(run.stdout)
    assert found["shared"] == ["p", "q"]
    cells = [problem["params"]["p"] for problem in found["problems"]]
    assert cells[0] == cells[1] == cells[2]
    assert cells[0]["low"] < 0.6 < cells[0]["high"]
    alone = json.loads(fit(*words, "--json").stdout)
    assert alone["problems"][0]["params"]["p"]["low"] is None
    assert "common to all" in fit(*words, "--shared", "p,q").stdout
    assert "--group" in str(fit(*words[:3], "--shared", "p").exception)
    assert "--law noise_floor" in str(
        fit(path, *words[3:], "--law", "auto", "--shared", "p").exception
    )


def test_priors_constraints_and_known_noise(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    batch = np.geomspace(1.2e5, 1.2e7, 7)
    steps = 1e4 * (1 - (1e5 / batch) ** 0.9) ** (-1 / 0.6)
    tokens = batch * steps * np.exp(0.01 * rng.standard_normal(7))
    path = tmp_path / "points.csv"
    table = {"target_loss": 3.0, "S": tokens / batch, "E": tokens, "noise": 0.01 * tokens}
    pl.DataFrame(table).write_csv(path)
    words = [path, "--law", "noise_floor", "--json"]
    found = json.loads(fit(*words, "--prior", "p~0.6(0.02)", "--prior", "log q~0.9(0.1)").stdout)
    assert found["priors"]["p"] == {"mean": 0.6, "deviation": 0.02, "of_log": False}
    assert found["priors"]["q"]["of_log"]
    free = json.loads(fit(*words).stdout)
    errors = [one["problems"][0]["params"]["p"]["error"] for one in (found, free)]
    assert errors[0] < min(0.02, errors[1])
    tied = json.loads(fit(*words, "--constraint", "p = q").stdout)["problems"][0]["params"]
    assert tied["p"]["value"] == pytest.approx(tied["q"]["value"])
    known = fit(*words[:-1], "--sigma", "noise", "--absolute-sigma").stdout
    assert "chi^2" in known
    for option, value, said in (
        ("--prior", "p=0.6", "p~0.6(0.1)"),
        ("--constraint", "p", "linear equation"),
        ("--prior", "r~1(1)", "no such parameter"),
    ):
        run = fit(*words, option, value)
        assert said in str(run.exception), run.output
    output = tmp_path / "law.json"
    assert fit(*words, "--constraint", "p = q", "-o", output).exit_code in (EXIT_DONE, EXIT_FIT)
    assert json.loads(output.read_text())["constraints"] == ["p = q"]
