"""The law of logs of ours that have the weights' size, of runs whose weight decays differ."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from megascale.fitting.history_law import FORMS, NAMES
from megascale.fitting.history_result import predict_history
from megascale.fitting.weight_norm import WeightNorm
from megascale.laws.schedule.contest import EFFECTIVE
from megascale.laws.schedule.logged_norms import norm_of_history
from megascale.propose.schedule_law import LawSearch
from megascale.runs.table import load_runs
from megascale.verbs.searched_law import searched_law
from tests.laws.schedule.simulated import PLANS, SCALES, TRUTH, planned
from tests.verbs.scene import call

TRUE = replace(SCALES, norm=WeightNorm(0.02, 0.9, 0.13))
SETTINGS = [(5e-3, 0.1), (3e-3, 0.0)]
ROW = 10240


def write_run(folder: Path, peak: float, decay: float, number: int) -> None:
    """A run directory as ours: training losses and sizes of weights, and the config's weight
    decay."""
    plan = PLANS[number]
    name = f"{number}-{peak}-{decay}"
    history = planned(plan, peak=peak, weight_decay=decay, name=name)
    at = np.arange(ROW, 1e6, ROW)
    form = FORMS["effective_theta"]
    point = np.array([{**form.fixed, **TRUTH, "q": 0.35}[one] for one in NAMES])
    loss = predict_history(form, point, history, at - ROW / 2, TRUE)[0][0]
    loss = loss + 0.002 * np.random.default_rng(number).normal(size=len(at))
    pieces = norm_of_history(history, at, np.ones(len(at)))
    ends = np.flatnonzero(np.isfinite(pieces.rms))
    assert TRUE.norm is not None
    sizes = TRUE.norm.rms(pieces.lr, pieces.weight_decay, pieces.steps)[ends]
    section = np.searchsorted(history.tokens, at - 1, side="right") - 1
    begin, end = history.tokens[section], history.tokens[section + 1]
    share = (at - begin) / (end - begin)
    lr = history.lr_start[section] * (1 - share) + history.lr_end[section] * share
    lines = [json.dumps({"schema": "megascale.run/1", "name": name, "total_tokens": 1_000_000})]
    step = 0
    for i, tokens in enumerate(at.astype(int).tolist()):
        batch = int(history.batch[section[i]])
        step += ROW // batch
        row = {
            "step": step, "samples": tokens // 64, "steps": ROW // batch, "skipped": 0,
            "micro_batches": 1, "sequence_length": 64, "grad_norm": 1.0, "seconds": 1.0,
            "tokens": tokens, "batch_tokens": batch, "lr": float(lr[i]),
            "interval_tokens": ROW, "loss": float(loss[i]), "loss_sum": float(loss[i]) * ROW,
            "loss_tokens": ROW, "weight_rms_matrices": float(sizes[i]),
        }  # fmt: skip
        lines.append(json.dumps(row))
    path = folder / name
    path.mkdir()
    (path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (path / "config.json").write_text(json.dumps({"weight_decay": {"value": decay}}))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> LawSearch:
    folder = tmp_path_factory.mktemp("runs")
    for peak, decay in SETTINGS:
        for number in (0, 1, 4):
            write_run(folder, peak, decay, number)
    return searched_law(load_runs(folder, cache=False), None, replicates=20)


def test_the_rate_over_the_weights_size_wins_where_it_is_the_truth(found: LawSearch) -> None:
    assert found.tried[0].law in EFFECTIVE
    best = found.law.fits[0]
    assert best.scales.norm is not None
    assert best.scales.norm.growth == pytest.approx(0.9, rel=0.1)
    in_rate = min(one.end_error for one in found.tried if one.law not in EFFECTIVE)
    assert found.tried[0].end_error < 0.5 * in_rate


def test_a_schedule_must_then_say_its_weight_decay(
    found: LawSearch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert found.law.weight_decay is None
    assert found.law.seen.weight_decay == pytest.approx((0.0, 0.1))
    assert found.law.needs_weight_decay
    path = tmp_path / "law.json"
    path.write_text(found.law.to_file("norms").to_json())
    words = ["--batch", "0:256", "--lr", "5e-3", "--tokens", "1M"]
    assert call(["predict", "--law-file", str(path), *words]) == 2
    assert "several weight decays" in capsys.readouterr().err
    assert call(["design", "--law-file", str(path)]) == 2
    assert "several weight decays" in capsys.readouterr().err
