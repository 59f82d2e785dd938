"""Published values by one command each: the rows of docs/reproduced.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from megascale.errors import EXIT_DONE
from megascale.verbs.fit import app


def fitted(*arguments: str | Path) -> Any:
    """What `megascale fit ... --json` prints."""
    run = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert run.exit_code == EXIT_DONE, run.output
    return json.loads(run.stdout)


def test_critical_batch_of_zhang_et_al(repository: Path) -> None:
    """93.20 N^0.468 sequences of 512, N in millions (arXiv 2410.21676)."""
    table = repository / "docs" / "reproduced" / "zhang_cbs.csv"
    words = [str(table), "--law", "classic", "--overhead", "0.2", "--reference-batch", "131072"]
    words += ["--seq-length", "512"]
    (law,) = fitted(*words)["laws"]
    assert law["of"] == "n_params"
    assert law["power"]["exponent"]["value"] == pytest.approx(0.46828, abs=5e-6)
    in_millions = law["power"]["coefficient"]["value"] * 1e6 ** law["power"]["exponent"]["value"]
    assert in_millions / 512 == pytest.approx(93.197, abs=5e-4)
    batches = [round(group["batch_tokens"] / 512) for group in law["groups"]]
    assert batches == [745, 955, 1394, 1889, 2533]
    run = CliRunner().invoke(app, words)
    assert "93.2 (N in millions)^0.4683 sequences of 512" in run.stdout
    assert "exponent [0.440, 0.496], 5 groups" in run.stdout


def test_three_exponents_of_porian_et_al(repository: Path) -> None:
    """Last layer counted, warmup corrected, optimizer tuned; and both others (arXiv 2406.19146)."""
    table = repository / "docs" / "reproduced" / "porian_isoflop.csv"
    found = fitted(table, "--law", "isoflop", "--minimum", "akima", "--group", "experiment")
    exponents = {row["group"]["experiment"]: row["laws"]["n_params"]["exponent"] for row in found}
    published = {
        "reproducing_kaplan": 0.834,
        "last_layer_flops": 0.701,
        "warmup": 0.604,
        "cosine_decay": 0.571,
        "tuned_optimizer": 0.497,
    }
    assert set(exponents) == set(published)
    for name, value in published.items():
        assert exponents[name]["value"] == pytest.approx(value, abs=2.5e-3)
        assert exponents[name]["low"] < value < exponents[name]["high"]


def test_llama_3(shared_data: Path) -> None:
    """D = 0.299 C^0.537 (arXiv 2407.21783)."""
    path = shared_data / "isoflop" / "llama3_isoflops.csv"
    if not path.exists():
        pytest.skip(f"no {path}: docs/reproduced.md says where it is from")
    found = fitted(path, "--law", "isoflop", "--group", "condition")
    (law,) = (row["laws"]["tokens"] for row in found if row["group"]["condition"] == "raw_loss")
    assert round(law["coefficient"]["value"], 3) == 0.299
    assert round(law["exponent"]["value"], 3) == 0.537


def test_the_refit_of_chinchilla(shared_data: Path) -> None:
    """A 482.01, B 2085.43, alpha 0.3478, beta 0.3658; E 1.8172 by Huber (arXiv 2404.10102)."""
    table = shared_data / "chinchilla" / "svg_extracted_data.csv"
    words = [table, "--law", "chinchilla", "--drop-highest", "5", "--bootstrap", "200"]
    (least,) = fitted(*words, "--objective", "absolute", "--confidence", "0.95")["problems"]
    value = {name: entry["value"] for name, entry in least["params"].items()}
    assert (round(value["A"], 2), round(value["alpha"], 4)) == (482.01, 0.3478)
    assert value["B"] == pytest.approx(2085.43, abs=1e-2)
    assert value["beta"] == pytest.approx(0.3658, abs=1e-4)
    assert least["params"]["beta"]["low"] < 0.3658 < least["params"]["beta"]["high"]
    (huber,) = fitted(*words)["problems"]
    assert round(huber["params"]["E"]["value"], 4) == 1.8172
    assert huber["objective"] == pytest.approx(1.0182740178e-3, rel=1e-8)


def test_approach_2_of_chinchilla(shared_data: Path) -> None:
    """N = C^0.49 [0.462, 0.534] (arXiv 2203.15556), where the budgets are stated."""
    table = shared_data / "chinchilla" / "svg_extracted_data.csv"
    refused = CliRunner().invoke(app, [str(table), "--law", "isoflop"])
    assert "state the budgets" in str(refused.exception)
    budgets = "6e18,1e19,3e19,6e19,1e20,3e20,6e20,1e21,3e21"
    found = fitted(table, "--law", "isoflop", "--budgets", budgets)
    exponent = found["laws"]["n_params"]["exponent"]
    assert exponent["value"] == pytest.approx(0.506, abs=1e-3)
    assert exponent["low"] < 0.49 < exponent["high"]


def test_step_law(shared_data: Path) -> None:
    """The released runs by the released method, and the regret of the printed law."""
    table = shared_data / "steplaw" / "dense_lr_bs_loss.csv"
    found = fitted(table, "--law", "learning_rate", "--bootstrap", "20")
    laws = found["diagnostics"]["methods"]["near_optimal"]["laws"]
    assert laws["lr"]["coef"] == pytest.approx(77.7, abs=0.05)
    assert (round(laws["lr"]["a"], 3), round(laws["lr"]["b"], 3)) == (-0.766, 0.197)
    assert laws["batch_tokens"]["coef"] == pytest.approx(0.2085, abs=5e-5)
    assert laws["batch_tokens"]["b"] == pytest.approx(0.6125, abs=5e-5)
    regret = {row["name"]: row for row in found["diagnostics"]["published_regret"]}
    assert 100 * regret["Step Law"]["mean_regret"] == pytest.approx(0.096, abs=5e-4)
    assert 100 * regret["Step Law, unrounded"]["mean_regret"] == pytest.approx(0.098, abs=5e-4)


def test_openeurollm(shared_data: Path) -> None:
    """LR = 0.3714 N^-0.417 D^0.086, B = 0.406 N^0.145 D^0.460 (arXiv 2608.28308)."""
    table = shared_data / "openeurollm" / "optima.csv"
    published = {
        "lr": (0.371396, -0.417, 0.086, 0.79),
        "batch_tokens": (0.406, 0.145, 0.460, 0.94),
    }
    for target, (coefficient, n, d, r_squared) in published.items():
        words = [table, "--law", "power_law", "--x", "n_params,tokens", "--y", target]
        (problem,) = fitted(*words)["problems"]
        value = [problem["params"][name]["value"] for name in ("exponent_1", "exponent_2")]
        assert [round(one, 3) for one in value] == [n, d]
        found = problem["params"]["coefficient"]["value"]
        assert found == pytest.approx(coefficient, rel=2e-3)
        assert round(problem["r_squared"], 2) == r_squared


def test_mlperf(shared_data: Path, tmp_path: Path) -> None:
    """The critical batch of llama31_8b grows from 8 to 100 sequences as the loss falls."""
    folder = shared_data / "mlperf"
    runs = pl.read_csv(folder / "runs.csv").filter(
        (pl.col("benchmark") == "llama31_8b") & (pl.col("base_lr") == 8e-4)
    )
    table = pl.read_csv(folder / "eval_curves.csv.gz").join(runs, on="run_id")
    path = tmp_path / "mlperf_8b.csv"
    table.select(
        run=pl.col("run_id").cast(pl.String),
        tokens=pl.col("x") * 8192,
        batch_tokens=pl.col("global_batch_size") * 8192,
        lr="base_lr",
        val_loss="value",
    ).sort("run", "tokens").write_csv(path)
    words = [path, "--loss", "validation", "--target-loss", "5,4.5,4,3.6,3.3"]
    found = fitted(*words, "--law", "classic", "--overhead", "1", "--bootstrap", "40")
    sequences = [group["batch_tokens"] / 8192 for group in found["laws"][0]["groups"]]
    assert sequences == sorted(sequences)
    assert sequences[0] == pytest.approx(8.2, abs=0.05)
    assert sequences[-1] == pytest.approx(100.5, abs=0.1)
