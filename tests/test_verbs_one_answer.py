"""Sweep, compare, fit and report say the same of the same runs, to the last digit."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from megascale.cli import app
from megascale.laws.from_logs import LogOptions, fit_logs
from megascale.laws.law_files import Naming
from megascale.runs.table import load_runs
from megascale.sweep import results
from megascale.sweep.expand import PlannedRun
from megascale.sweep.finish import answers
from megascale.sweep.study import Finish, Fit
from tests.curves.simulated import SMALL, write_small_runs
from tests.report.samples import documented

TARGETS = (5.6, 5.2, 4.9, 4.6, 4.3)


@dataclass(frozen=True)
class Said:
    """What one verb says.

    Attributes:
        tokens: to each target loss, by batch and target; where it is not reached there is none.
        crossings: where the larger of two neighbouring batches overtakes, by the smaller one.
        finals: smoothed final loss by batch; empty where the verb states none.
    """

    tokens: dict[tuple[int, float], float]
    crossings: dict[int, float]
    finals: dict[int, float]


def of_points(points: pl.DataFrame) -> dict[tuple[int, float], float]:
    rows = points.select("batch_tokens", "target_loss", "tokens").iter_rows()
    return {(int(batch), target): tokens for batch, target, tokens in rows}


def said_by_sweep(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> Said:
    monkeypatch.setattr(results, "run_path", lambda config: config.path)
    monkeypatch.setattr(results, "_parameters", lambda run: 4000)
    runs = [
        SimpleNamespace(
            name=path.name, group=path.name, arm="", seed=1,
            point={"batch": path.name}, values={"batch": int(path.name.split("-")[1])},
            config=SimpleNamespace(path=path, lr=SimpleNamespace(peak=5e-3)),
        )
        for path in paths
    ]  # fmt: skip
    read = results.read_results(cast(list[PlannedRun], runs))
    fit = Fit(laws=["noise_floor"], targets=4, min_batches=4)
    compared, crossed, *_ = answers(read, Finish(targets=list(TARGETS), crossings="batch", fit=fit))
    tokens, finals = {}, {}
    for group in compared.data:
        batch = int(group["group"].split("-")[1])
        finals[batch] = group["loss"]["mean"]
        for row in group["tokens_to"]:
            if row["tokens"] is not None:
                tokens[batch, row["loss"]] = row["tokens"]["mean"]
    crossings = {
        int(row["from"].split("-")[1]): row["tokens"] for row in crossed.data if row["tokens"]
    }
    return Said(tokens, crossings, finals)


def said_by_compare(folder: Path, loss: str) -> Said:
    tokens: dict[tuple[int, float], float] = {}
    finals: dict[int, float] = {}
    crossings: dict[int, float] = {}
    for batch in (128, 256, 512, 1024, 2048):
        runs = [str(folder / f"batch-{size}") for size in (batch, 2 * batch)]
        stated = ["--target-loss", ",".join(map(str, TARGETS))]
        words = ["compare", *runs, "--loss", loss, "--json", "--no-cache", *stated]
        done = CliRunner().invoke(app, words, catch_exceptions=False)
        (found,) = json.loads(done.stdout)["comparisons"]
        finals |= {batch: found["final_a"], 2 * batch: found["final_b"]}
        for row in found["at_loss"]:
            tokens[batch, row["loss"]] = row["tokens_a"]
            tokens[2 * batch, row["loss"]] = row["tokens_b"]
        for crossing in found["crossings"]:
            if crossing["second_leads"]:
                crossings[batch] = crossing["tokens"]
    return Said(tokens, crossings, finals)


def said_by_fit(folder: Path, loss: str) -> Said:
    options = LogOptions(targets=TARGETS, losses=loss, replicates=60)
    fit = fit_logs(load_runs(folder, cache=False), "noise_floor", Naming("x"), options)
    assert fit.extraction is not None
    crossings = {int(one.batch_small): one.tokens for one in fit.crossings}
    evidence = {int(c["batch_small"]): c["tokens"] for c in fit.file.diagnostics["crossings"]}
    assert evidence == crossings
    finals = {int(curve.batch_tokens or 0): curve.final for curve in fit.curves.curves}
    return Said(of_points(fit.extraction.points), crossings, finals)


def said_by_report(folder: Path, loss: Any) -> Said:
    document = documented([folder], targets=TARGETS, losses=loss, replicates=60)
    tokens = {
        (int(batch), group["target_loss"]): spent
        for group in document["tokens_steps"]["groups"]
        for batch, spent in zip(
            group["points"]["batch"], group["points"]["consumed_tokens"], strict=True
        )
    }
    crossings = {int(c["batch_small"]): c["tokens"] for c in document["curves"]["crossings"]}
    return Said(tokens, crossings, {})


@pytest.mark.parametrize("loss", ["train", "validation"])
def test_four_verbs_say_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    paths = write_small_runs(tmp_path, evaluations=loss == "validation")
    sweep = said_by_sweep(paths, monkeypatch)
    fit = said_by_fit(tmp_path, loss)
    compare, report = said_by_compare(tmp_path, loss), said_by_report(tmp_path, loss)

    assert sweep.finals == compare.finals == fit.finals
    assert sweep.crossings == compare.crossings == fit.crossings == report.crossings
    assert 256 in sweep.crossings
    # compare says what both runs of a pair reach
    assert compare.tokens.items() <= sweep.tokens.items()
    assert len(compare.tokens) > 15
    assert fit.tokens == sweep.tokens
    assert {place: float(f"{tokens:.6g}") for place, tokens in fit.tokens.items()} == report.tokens

    for (batch, target), tokens in sweep.tokens.items():
        assert np.log(tokens / SMALL.tokens_to(target, batch)) == pytest.approx(0, abs=0.08)
    assert np.log(sweep.crossings[256] / 636_341) == pytest.approx(0, abs=0.25)


def test_what_is_left_unsaid_is_chosen_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_small_runs(tmp_path, evaluations=True)
    sweep = said_by_sweep(paths, monkeypatch)
    assert sweep == said_by_fit(tmp_path, "auto")
    assert sweep.crossings == said_by_compare(tmp_path, "auto").crossings
    assert sweep.crossings == said_by_report(tmp_path, "auto").crossings
    assert sweep.tokens == said_by_fit(tmp_path, "validation").tokens
