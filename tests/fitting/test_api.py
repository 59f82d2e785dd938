"""Shapes of input, forms of output, Ctrl-C, progress, the CUDA body, and the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import polars
import pytest
from typer.testing import CliRunner

from megascale import fitting
from megascale.errors import EXIT_FIT, FitError
from megascale.fitting import _engine
from megascale.fitting.catalogue import laws
from megascale.verbs.fit import app
from tests.fitting.synthetic import twelve_batches, wsd_points


def test_every_layout_gives_the_same() -> None:
    s, e, _ = wsd_points(4, 16, 0.01, 1)
    matrix = fitting.fit("wsd", s, e)
    lists = fitting.fit("wsd", list(s), list(e))
    flat = fitting.fit("wsd", s.ravel(), e.ravel(), offsets=[0, 16, 32, 48, 64])
    labels = np.repeat(["d", "b", "c", "a"], 16)
    mixed = np.random.default_rng(0).permutation(64)
    grouped = fitting.fit("wsd", s.ravel()[mixed], e.ravel()[mixed], groups=labels[mixed])
    for other in (lists, flat):
        assert np.array_equal(matrix.values, other.values)
    where = [grouped.labels.index(v) for v in ("d", "b", "c", "a")]
    assert np.array_equal(matrix.values, grouped.values[where])
    frame = polars.DataFrame({"S": s.ravel(), "E": e.ravel(), "run": labels})
    framed = fitting.fit_frame("wsd", frame, x="S", y="E", group="run")
    assert np.array_equal(matrix.values, framed.values)
    assert framed.labels == ["d", "b", "c", "a"]
    with pytest.raises(FitError, match="column = T"):
        fitting.fit_frame("wsd", frame, x="T", y="E")


def test_forms_of_output() -> None:
    s, e, _ = wsd_points(3, 16, 0.01, 1)
    result = fitting.fit("wsd", s, e)
    table = result.to_polars()
    assert table.height == 3
    assert table["B_opt_low"][0] < table["B_opt"][0] < table["B_opt_high"][0]
    data = json.loads(result.to_json())
    assert data["law"] == "wsd"
    assert data["problems"][1]["params"]["B_min"]["value"] == pytest.approx(result["B_min"][1])
    assert "3 problems" in repr(result)
    one = fitting.fit("wsd", s[0], e[0])
    assert "B_opt" in repr(one)
    assert "90 %" in repr(one)
    assert result.predict(s[0]).shape == (3, 16)
    assert result.predict(s[1], problem=1) == pytest.approx(result.predict(s[1])[1])
    with pytest.raises(FitError, match="B_opt"):
        result["B_best"]


def test_cuda_body_on_the_host_agrees_with_the_lanes() -> None:
    s, e, _ = wsd_points(60, 16, 0.01, 5)
    x = np.ascontiguousarray(s.reshape(1, -1))
    curve_x = np.tile(np.geomspace(1e8, 1e10, 30), 20).reshape(1, -1)
    rng = np.random.default_rng(0)
    curve_y = (2 + 30 * curve_x[0] ** -0.2) * np.exp(0.002 * rng.standard_normal(600))
    cases = [
        ("wsd", "relative", x, e.ravel(), 16),
        ("wsd", "ray", x, e.ravel(), 16),
        ("classic", "ray", x, e.ravel(), 16),
        ("two_power", "ray", x, e.ravel(), 16),
        ("loss_curve", "relative", curve_x, curve_y, 30),
        ("power_law_1", "log", curve_x, curve_y, 30),
    ]
    for name, residual, inputs, y, points in cases:
        found = {}
        for device in ("cpu", "scalar"):
            found[device] = _engine.fit(
                law=laws()[name].index, residual=fitting.catalogue.RESIDUALS[residual], loss=0,
                delta=0.0, offsets=np.arange(0, len(y) + 1, points), x=inputs, y=y, weights=None,
                lower=None, upper=None, fixed=None, initial=None, starts=0,
                compatibility_grid=False, tolerance=1e-8, max_iterations=0, threads=1,
                bootstrap=0, replicates=0, seed=0, groups=None, device=device, progress=None,
            )  # fmt: skip
        lanes, body = found["cpu"], found["scalar"]
        same = np.isclose(lanes["objective"], body["objective"], rtol=1e-4, atol=0)
        assert same.mean() >= 0.97, name
        assert np.array_equal(lanes["points"], body["points"])
        well = same & (lanes["flags"] == 0)
        assert np.allclose(lanes["params"][well], body["params"][well], rtol=0.05)


def test_every_instruction_set_agrees() -> None:
    s, e, _ = wsd_points(100, 16, 0.01, 5)
    widest = _engine.instruction_set()
    try:
        found = {}
        for name in ("baseline", "avx2", "avx512"):
            if _engine.force_instruction_set(name):
                found[name] = fitting.fit("wsd", s, e, residual="relative", tolerance=1e-12)
    finally:
        assert _engine.force_instruction_set(widest)
    for result in found.values():
        same = np.isclose(result.objective, found["baseline"].objective, rtol=1e-6, atol=0)
        assert same.mean() >= 0.97


def test_progress_is_told() -> None:
    s, e, _ = wsd_points(2000, 16, 0.01, 1)
    seen: list[tuple[int, int]] = []
    fitting.fit("wsd", s, e, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (2000, 2000)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_an_error_in_the_progress_callback_stops_the_fit() -> None:
    s, e, _ = wsd_points(2000, 16, 0.01, 1)

    def broken(done: int, total: int) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fitting.fit("wsd", s, e, bootstrap="parametric", replicates=300, progress=broken)


def test_control_c_stops_a_long_fit_within_a_second() -> None:
    s, e, _ = wsd_points(20_000, 16, 0.01, 1)
    struck = []

    def strike() -> None:
        time.sleep(0.5)
        struck.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    # A shell starts background jobs with the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=strike, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            fitting.fit("wsd", s, e, bootstrap="parametric", replicates=1000)
        assert time.monotonic() - struck[0] < 1.0
    finally:
        signal.signal(signal.SIGINT, before)


def test_memory_stays_under_a_gibibyte_for_a_million_problems() -> None:
    """100,000 problems must stay under a tenth of it beyond input."""
    code = """
import resource, numpy as np
from megascale import fitting
from tests.fitting.synthetic import twelve_batches, wsd_points
s, e, _ = wsd_points(1000, 16, 0.01, 1)
s, e = np.tile(s, (100, 1)), np.tile(e, (100, 1))
fitting.fit("wsd", s[:100], e[:100])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
fitting.fit("wsd", s, e, starts=1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert int(done.stdout) < 0.1 * 1024 * 1024


@pytest.fixture
def table(tmp_path: Path) -> Path:
    s, e, *_ = twelve_batches(3, 1)
    frame = polars.DataFrame(
        {
            "S": s.ravel(),
            "E": e.ravel(),
            "N": np.repeat([1e8, 1e8, 2e8], 12),
            "target_loss": np.repeat([3.0, 2.8, 2.8], 12),
        }
    )
    frame.write_csv(tmp_path / "points.csv")
    frame.write_parquet(tmp_path / "points.parquet")
    frame.write_ndjson(tmp_path / "points.jsonl")
    return tmp_path


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_command_line(table: Path, suffix: str) -> None:
    arguments = [str(table / f"points.{suffix}"), "--law", "classic", "--group", "N,target_loss"]
    run = CliRunner().invoke(app, [*arguments, "--bootstrap", "50", "--json"])
    assert run.exit_code == 0, run.output
    data = json.loads(run.stdout)
    assert data["bootstrap_replicates"] == 50
    assert [p["group"] for p in data["problems"]] == [[1e8, 3.0], [1e8, 2.8], [2e8, 2.8]]
    assert data["problems"][0]["params"]["S_min"]["low"] > 0
    run = CliRunner().invoke(app, [*arguments, "--output", str(table / "out.csv")])
    assert run.exit_code == 0
    assert "3 converged" in run.stdout
    assert polars.read_csv(table / "out.csv")["B_crit"].len() == 3


def test_command_line_says_when_a_problem_failed(table: Path) -> None:
    frame = polars.read_csv(table / "points.csv")
    frame = frame.with_columns(
        polars.when(polars.col("N") == 2e8).then(0.0).otherwise(polars.col("S")).alias("S")
    )
    frame.write_csv(table / "bad.csv")
    run = CliRunner().invoke(
        app, [str(table / "bad.csv"), "--law", "classic", "--group", "N,target_loss"]
    )
    assert run.exit_code == EXIT_FIT
    assert "non_positive" in run.stdout
    run = CliRunner().invoke(app, [str(table / "points.csv"), "--law", "classic", "--x", "T"])
    assert isinstance(run.exception, FitError)
    assert "T" in str(run.exception)


def test_inputs_that_logarithms_cannot_tell_apart_are_refused() -> None:
    x = np.where(np.arange(100) % 2, 1e6, np.nextafter(1e6, 2e6))
    y = 2 + np.linspace(0.1, 1, 100)
    for points in (60, 100):
        with pytest.raises(FitError, match=r"does not vary|constant"):
            fitting.fit("loss_curve", x[:points], y[:points])


def test_an_option_for_another_kind_of_input_is_refused(tmp_path: Path) -> None:
    s, e, _ = wsd_points(1, 16, 0.01, 1)
    table = tmp_path / "points.csv"
    polars.DataFrame({"S": s[0], "E": e[0]}).write_csv(table)
    assert CliRunner().invoke(app, [str(table), "--law", "classic"]).exit_code in (0, EXIT_FIT)
    refused = CliRunner().invoke(app, [str(table), "--law", "classic", "--target-loss", "4"])
    assert isinstance(refused.exception, FitError)
    assert "--target-loss = 4: is for run logs; the paths hold a table of points" in str(
        refused.exception
    )
