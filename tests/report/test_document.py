"""What the report finds, and that the page carries it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from megascale.curves.smoothing import Window
from megascale.errors import ConfigError, DataError, FitError
from megascale.formats.law_file import read_law_file
from megascale.formats.run_log import METRICS_FILE
from megascale.laws.batch.surface import SurfaceFit
from megascale.laws.from_logs import LogOptions, fit_logs, points_of_logs
from megascale.laws.grid.fit import fit_grid
from megascale.laws.grid.table import grid_table
from megascale.laws.law_files import Naming, json_types
from megascale.report import page as page_module
from megascale.report.calculator import Defaults
from megascale.report.document import Settings, document_summary
from megascale.report.figures import draw_figures
from megascale.report.inputs import read_inputs
from megascale.report.options import calculator_defaults, study_defaults
from megascale.report.page import render_page
from megascale.runs.table import load_runs
from megascale.verbs.report import app
from tests.conftest import REPOSITORY
from tests.curves.simulated import Truth
from tests.report.samples import BEST_BATCH, BEST_LR, documented, write_grid, write_log, write_runs
from tests.verbs.scene import call


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    return documented([write_runs(folder), write_grid(folder)], replicates=60)


def test_tables_are_told_apart_by_their_columns(tmp_path, shared_data):
    points = shared_data / "steplaw" / "steplaw_ES_points.csv"
    found = read_inputs([write_runs(tmp_path), write_grid(tmp_path), points], cache=False)
    assert [file["read_as"] for file in found.files] == ["LR-batch grid", "E(S) points", "csv"]
    assert found.runs is not None
    assert len(found.runs.runs) == 9


def test_a_grid_named_as_one_must_have_its_columns(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("lr,loss\n1e-3,2.0\n")
    with pytest.raises(DataError, match="n_params"):
        read_inputs([], grids=[path])


def test_every_record_is_drawn_where_it_fits_else_bins_say_their_range(document, monkeypatch):
    curves = document["curves"]["curves"]
    assert all(c["records"] == len(c["loss"]) and c["low"] is None for c in curves)
    from megascale.report import curves as curves_module

    monkeypatch.setattr(curves_module, "POINTS_A_RUN", (10, 20))
    table = pl.DataFrame(
        {
            "run": "a", "step": range(1, 101), "tokens": range(10, 1010, 10), "loss":
            np.linspace(5.0, 4.0, 100),
        }
    )  # fmt: skip
    from megascale.runs.readers.base import FileRead, RunMeta, as_table
    from megascale.runs.table import LoadedRun, RunTable

    loaded = RunTable(
        as_table(table.with_columns(source=pl.lit("a.csv"), loss_kind=pl.lit("interval_mean"))),
        [LoadedRun(RunMeta("a"), "csv", [])],
        [FileRead(path=None)],
    )
    (curve,) = curves_module.drawn_curves(loaded)
    assert 15 < len(curve["loss"]) <= 20
    # Means of loss and of tokens lie on the line that every record lies on.
    line = np.interp(curve["tokens"], table["tokens"], table["loss"])
    assert curve["loss"] == pytest.approx(line, abs=1e-3)
    assert curve["low"][-1] == pytest.approx(4.0)
    assert curve["high"][0] == pytest.approx(5.0)
    assert curve["tokens"][0] < 100
    assert curve["tokens"][-1] > 950


def test_the_truth_behind_the_runs_is_found(document):
    assert document["curves"]["crossings"]
    truth = Truth()
    rows = [row for row in document["best_batch"]["rows"] if row["used"]]
    assert len(rows) >= 4
    for row in rows:
        assert row["batch_tokens"] == pytest.approx(truth.best_batch(row["target_loss"]), rel=0.15)
    power = document["best_batch"]["power"]
    assert power["b"] == pytest.approx(truth.p / (truth.p + truth.q), abs=0.05)
    assert document["tokens_steps"]["refuted"]
    assert document["own_law"] in {law["name"].split(" (")[0] for law in
                                   document["calculator"]["own"]}  # fmt: skip


def test_the_optimum_of_a_quadratic_grid_is_exact(document):
    (grid,) = document["grids"]["grids"]
    assert len(grid["cells"]) == 2
    for cell in grid["cells"]:
        fit = cell["quadratic"]
        assert fit["convex"]
        assert fit["inside"]
        assert fit["eta_opt"] == pytest.approx(BEST_LR, rel=1e-6)
        assert fit["B_opt"] == pytest.approx(BEST_BATCH, rel=1e-6)
        assert cell["local_minima"] == 1
        assert cell["convex_share"]["positive"] == cell["convex_share"]["counted"] > 0


def test_a_saddle_is_not_called_convex(tmp_path):
    rows = [
        {"N": 1e8, "D": 1e9, "lr": lr, "batch_tokens": batch,
         "loss": 2 + 0.02 * np.log(lr / 1e-3) ** 2 - 0.01 * np.log(batch / 1e5) ** 2}
        for lr in 1e-3 * 2.0 ** np.arange(-3, 4) for batch in 1e5 * 2.0 ** np.arange(-3, 4)
    ]  # fmt: skip
    path = tmp_path / "grid.csv"
    pl.DataFrame(rows).write_csv(path)
    found = documented([path])
    (cell,) = found["grids"]["grids"][0]["cells"]
    assert cell["edge"]
    assert cell["quadratic"] is None or not cell["quadratic"]["convex"]
    share = cell["convex_share"]
    assert share["positive"] == share["counted"] / 2


def test_published_grid_gives_the_known_refit_and_regret(shared_data):
    path = shared_data / "steplaw" / "dense_lr_bs_loss.csv"
    found = documented([path])
    (grid,) = found["grids"]["grids"]
    assert len(grid["cells"]) == 17
    lr, batch = grid["refit"]["lr"], grid["refit"]["batch"]
    assert (lr["coef"], lr["a"], lr["b"]) == pytest.approx((77.7, -0.766, 0.197), rel=2e-3)
    assert (batch["coef"], batch["b"]) == pytest.approx((0.2085, 0.6125), rel=1e-3)
    regret = {(row["name"], row["gives"]): row["mean_regret"] for row in grid["regret"]}
    assert regret["Step Law", "LR and batch"] == pytest.approx(0.00098, abs=3e-5)
    assert all(cell["quadratic"]["convex"] for cell in grid["cells"])


def test_without_data_every_section_says_what_would_fill_it():
    found = documented([])
    for name in ("curves", "tokens_steps", "best_batch", "grids"):
        assert len(found[name]["empty"]) > 40
    assert found["calculator"]["laws"]
    assert "CALCULATOR" in render_page(found)


def test_few_seeds_of_few_batches_still_give_what_they_can(tmp_path):
    from tests.curves.simulated import run_table

    path = tmp_path / "runs.csv"
    run_table(Truth(), (2**17, 2**18, 2**19, 2**20), records=80, noise=0.002).write_csv(path)
    found = documented([path], replicates=40, targets=[2.9, 2.7, 2.5])
    assert "wsd" not in found["tokens_steps"]["tables"]
    assert set(found["tokens_steps"]["tables"]) == {"two_power", "noise_floor", "classic"}
    assert found["best_batch"]["surface"]
    assert "4 batch sizes determine one loss surface" in found["best_batch"]["choice"]
    assert found["best_batch"]["critical"]
    assert found["verdicts"][0].startswith("At a constant learning rate the best batch is ")
    assert draw_figures(found, tmp_path / "figures")
    render_page(found)


def test_a_law_that_is_given_is_drawn_over_its_range_and_beyond(tmp_path):
    step_law = read_law_file(REPOSITORY / "configs/laws/step-law.json")
    found = documented([write_runs(tmp_path)], Settings(laws=[step_law]), replicates=40)
    (line,) = found["best_batch"]["given"]
    assert line["name"] == step_law.name
    assert line["value"] == pytest.approx([step_law.evaluate(1e9, d) for d in line["d"]], rel=1e-5)
    assert line["d"][0] < line["d_range"][0] < line["d_range"][1] < line["d"][-1]
    assert draw_figures(found, tmp_path / "figures")


def test_a_family_without_a_best_batch_is_refused(tmp_path):
    with pytest.raises(FitError, match="--law = classic"):
        documented([write_runs(tmp_path)], law="classic", replicates=40)


def test_the_page_is_one_file_that_asks_for_nothing(document):
    text = render_page(document)
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#|data:)""", text)
    assert "default-src 'none'" in text
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert json.loads(data[1])["schema"] == "megascale.report/1"
    assert text == render_page(document)


def test_names_cannot_break_out_of_the_page(document):
    hostile = document | {"title": "</script><script>alert(1)</script>"}
    assert "<script>alert(1)" not in render_page(hostile)


def test_a_page_beyond_its_size_is_refused(document, monkeypatch):
    monkeypatch.setattr(page_module, "LARGEST_BYTES", 1000)
    with pytest.raises(DataError, match="fewer runs"):
        render_page(document)


def test_figures_are_written_as_png_and_svg(document, tmp_path):
    written = draw_figures(document, tmp_path / "figures")
    names = {path.name for path in written}
    assert {"loss-tokens.png", "tokens-steps-1.svg", "batch-tokens.png", "grid-02.svg"} <= names
    assert all(path.stat().st_size > 3000 for path in written)


def test_the_verb_writes_page_and_summary(tmp_path):
    output = tmp_path / "report.html"
    result = CliRunner().invoke(
        app, [str(write_grid(tmp_path)), "-o", str(output), "--json", "--bootstrap", "40"]
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["page"] == str(output)
    assert found["grids"][0]["cells"][0]["quadratic"]["convex"]
    assert output.stat().st_size < 8_000_000


def test_the_calculator_has_a_grids_own_laws(document):
    own = {law["quantity"]: law for law in document["calculator"]["own"] if "grid" in law["name"]}
    assert set(own) == {"batch"}  # two cells are too few for a law of the learning rate
    assert own["batch"]["range"]["N"] == [1e8, 4e8]


def test_the_calculator_begins_with_what_was_run(tmp_path):
    inputs = read_inputs([write_runs(tmp_path), write_grid(tmp_path)], cache=False)
    found = study_defaults(inputs.runs, inputs.grids)
    assert (found.tokens, found.interval, found.dp) == ("20B", "2B", "1")
    assert found.params == "400M"
    given = calculator_defaults("1B", None, None, 2048, found)
    assert (given.params, given.tokens, given.seq_length) == ("1B", "20B", "2048")
    assert study_defaults(None, {}) == Defaults()


def test_seeds_are_told_by_their_names(tmp_path):
    names = ("down_seed-1", "down_seed-2", "up_seed-1", "up")
    runs = [write_log(tmp_path / name) for name in names]
    for n, run in enumerate(runs):
        path = run / METRICS_FILE
        path.write_text(path.read_text().replace('"grad_norm":1.0', f'"grad_norm":1.{n}'))
    curves = documented([tmp_path])["curves"]["curves"]
    assert {curve["run"]: curve["seed_of"] for curve in curves} == {
        "down_seed-1": "down", "down_seed-2": "down", "up": "up", "up_seed-1": "up",
    }  # fmt: skip


def test_the_summary_has_no_drawn_points(document):
    found = document_summary(document)
    assert len(json.dumps(found)) < len(json.dumps(document)) / 3
    assert found["best_batch"]["power"]["b"] == document["best_batch"]["power"]["b"]


def run_page(*words):
    CliRunner().invoke(app, list(words), catch_exceptions=False)


def test_options_are_checked():
    with pytest.raises(ConfigError, match="OUR=THEIRS"):
        run_page("--columns", "loss")
    with pytest.raises(ConfigError, match="batch-tokens"):
        run_page("--batch-tokens", "0:1M,700:0")
    assert calculator_defaults("1B", None, "20B", 2048).active_params == "1B"


def test_neither_page_nor_document_needs_torch():
    code = (
        "import megascale.verbs.report, megascale.report.document, megascale.report.page\n"
        "import megascale.report.figures, megascale.report.inputs, sys\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_runs_that_differ_in_rate_and_batch_are_a_grid(tmp_path):
    """Logged peak rates are a little below the true ones, the more the larger the batch."""
    rows = []
    for lr in (1e-3, 2e-3, 4e-3):
        for k, batch in enumerate((1000, 2000, 4000)):
            loss = 3 + np.log(lr / 2e-3) ** 2 + np.log(batch / 2000) ** 2
            rows += [
                {"run": f"{lr}-{batch}", "step": t // batch, "tokens": t, "batch_tokens": batch,
                 "lr": lr * (1 - 0.02 * k), "loss": loss + 1000 / t, "n_params": 5000}
                for t in range(8000, 80001, 8000)
            ]  # fmt: skip
    path = tmp_path / "runs.csv"
    pl.DataFrame(rows).write_csv(path)
    found = documented([path], replicates=40, phase="all", window=Window("none"))
    (grid,) = found["grids"]["grids"]
    (cell,) = grid["cells"]
    assert cell["lr"] == [1e-3, 2e-3, 4e-3]
    assert cell["batch_tokens"] == [1000, 2000, 4000]
    assert (cell["best"]["lr"], cell["best"]["batch_tokens"]) == (2e-3, 2000)
    assert cell["tokens"] == 80000
    assert (cell["local_minima"], cell["convex_share"]) == (1, {"positive": 6, "counted": 6})


def test_the_page_and_the_verb_fit_say_the_same_of_runs(tmp_path):
    path = write_runs(tmp_path)
    logs = load_runs(path, cache=False)
    options = LogOptions(replicates=60, targets=5)
    fit = fit_logs(logs, "noise_floor", Naming("law"), options)
    found = documented([path], law="noise_floor", replicates=60, targets=5)
    best, steps = found["best_batch"], found["tokens_steps"]
    assert best["rows"] == json_types(fit.law.optimal.table.to_dicts())
    assert best["law"] == steps["chosen"] == fit.law.study.law
    assert steps["verdicts"] == json_types(fit.law.selection.table().to_dicts())
    assert best["power"]["coef"] == fit.file.parameters["coef"].value
    assert best["power"]["b"] == fit.file.parameters["b"].value
    (own,) = found["calculator"]["own"]
    assert own["parameters"] == {k: v.model_dump() for k, v in fit.file.parameters.items()}
    assert own["n_kind"] == steps["n_kind"] == fit.file.n_kind
    assert found["curves"]["crossings"] == [asdict(crossing) for crossing in fit.crossings]


def test_the_page_takes_the_surface_that_the_verb_fit_takes(tmp_path):
    path = write_runs(tmp_path)
    options = LogOptions(replicates=60, targets=5)
    fit = fit_logs(load_runs(path, cache=False), "auto", Naming("law"), options)
    assert isinstance(fit.law, SurfaceFit)
    found = documented([path], replicates=60, targets=5)
    best = found["best_batch"]
    assert best["surface"]
    assert best["choice"] == fit.file.diagnostics["surface_choice"]["reason"]
    assert best["power"]["coef"] == fit.file.parameters["coef"].value
    assert best["power"]["b"] == fit.file.parameters["b"].value
    (own,) = found["calculator"]["own"]
    assert own["parameters"] == {k: v.model_dump() for k, v in fit.file.parameters.items()}


def test_the_page_opens_with_what_was_found(tmp_path):
    found = documented([write_runs(tmp_path)], replicates=60, targets=5)
    (best,) = found["verdicts"]
    exponent = found["best_batch"]["power"]["b"]
    assert f"growing as D^{exponent:.2f}" in best
    assert best.endswith("; 90 % intervals.")
    assert documented([])["verdicts"] == []


def test_the_page_and_the_verb_fit_say_the_same_of_points(tmp_path):
    points = points_of_logs(load_runs(write_runs(tmp_path), cache=False), LogOptions(targets=5))
    path = tmp_path / "points.csv"
    points.select("N", "lr", "target_loss", "B", "E", "S").rename(
        {"B": "B_tokens", "E": "E_tokens"}
    ).write_csv(path)
    output = tmp_path / "law.json"
    words = ["fit", str(path), "--law", "two_power", "--group", "target_loss", "--y", "E_tokens"]
    assert call([*words, "-o", str(output)]) == 0
    law = read_law_file(output)
    found = documented([path], law="two_power")
    assert found["tokens_steps"]["from"] == "a table of points"
    assert found["best_batch"]["power"]["coef"] == law.parameters["coef"].value
    assert found["best_batch"]["power"]["b"] == law.parameters["b"].value


def test_the_page_and_the_verb_fit_say_the_same_of_a_grid(tmp_path):
    path = write_grid(tmp_path)
    fit = fit_grid(grid_table(pl.read_csv(path), str(path))[0])
    (grid,) = documented([path])["grids"]["grids"]
    for cell, row in zip(grid["cells"], fit.cells.to_dicts(), strict=True):
        assert cell["quadratic"]["eta_opt"] == row["lr_opt"]
        assert cell["quadratic"]["B_opt"] == row["batch_tokens_opt"]
    assert grid["regret"] == json_types(fit.published)
    assert grid["refit"]["batch"]["coef"] == fit.law("batch_tokens", "near_optimal").coef
