"""Inputs with every section's data: runs of many batches, a grid of finished runs, a law file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from megascale.formats.run_log import RunLog
from megascale.laws.findings import find_all
from megascale.laws.from_logs import LogOptions
from megascale.laws.law_files import Naming
from megascale.report.document import Settings, build_document
from megascale.report.inputs import read_inputs
from tests.curves.simulated import Truth, run_table

BEST_LR, BEST_BATCH = 2e-3, 3e5


def write_runs(folder: Path) -> Path:
    """Constant-LR runs at nine batch sizes as one table."""
    path = folder / "runs.csv"
    run_table(Truth(), total_tokens=4e9, records=120, noise=0.003).write_csv(path)
    return path


def write_grid(folder: Path) -> Path:
    """Two (N, D) cells whose loss is an exact quadratic in log LR and log B."""
    rows = []
    for n, d in ((1e8, 4e9), (4e8, 2e10)):
        for lr in 2.0 ** np.arange(-12, -5):
            for batch in 2.0 ** np.arange(15, 23):
                u, v = np.log(lr / BEST_LR), np.log(batch / BEST_BATCH)
                loss = 2.5 + 0.02 * u * u - 0.008 * u * v + 0.015 * v * v
                rows.append({"N": n, "D": d, "lr": lr, "batch_tokens": batch, "loss": loss})
    path = folder / "grid.csv"
    pl.DataFrame(rows).write_csv(path)
    return path


def write_log(folder: Path) -> Path:
    """Our own log of twenty records, half a second each."""
    folder.mkdir(parents=True, exist_ok=True)
    log = RunLog(folder, header={"name": folder.name})
    for n in range(1, 21):
        log.metrics({
            "step": n, "tokens": 1000 * n, "samples": n, "batch_tokens": 1000, "micro_batches": 1,
            "sequence_length": 1000, "interval_tokens": 1000, "steps": 1, "skipped": 0,
            "loss_sum": 4000.0, "loss_tokens": 1000, "loss": 5.0 - 0.05 * n, "lr": 0.1,
            "weight_decay": 0.1, "grad_norm": 1.0, "seconds": 0.5,
        })  # fmt: skip
    log.close()
    return folder


def write_study(folder: Path) -> Path:
    """The results of a sweep over two learning rates."""
    (folder / "sweep").mkdir(parents=True)
    (folder / "sweep" / "run.lock").touch()
    path = folder / "sweep" / "results.json"
    runs = [
        {"run": f"lr-{lr}", "group": f"lr-{lr}", "seed": 1, "state": state, "tokens": 20000,
         "attempts": 1, "note": note}
        for lr, state, note in ((0.1, "done", ""), (0.2, "done", ""), (0.4, "failed", "exit 6"))
    ]  # fmt: skip
    curve = {"of": "", "axis": "lr", "values": [0.1, 0.2], "losses": [3.1, 3.0],
             "best": 0.2, "loss": 3.0, "parabola": None, "at_edge": True}  # fmt: skip
    compared = {"title": "Runs compared", "columns": ["run", "final loss"], "data": [{}],
                "rows": [["lr-0.1", "3.1000"], ["lr-0.2", "3.0000"]], "notes": ["one"]}  # fmt: skip
    best = {"title": "Best lr", "columns": ["runs", "best lr", ""], "notes": [], "data": [curve],
            "rows": [["all", "0.2", "at the edge of the grid: widen it"]]}  # fmt: skip
    result = {"schema": "megascale.sweep/1", "study": "lr", "scale": "smoke", "runs": runs,
              "question": "Where is the\nbest rate?\n", "expected": "in the middle", "exit_code": 6,
              "answers": [compared, best]}  # fmt: skip
    path.write_text(json.dumps(result))
    return path


def documented(
    paths: Sequence[str | Path], settings: Settings | None = None, law: str = "auto", **options: Any
) -> dict[str, Any]:
    """The document of some paths, found as the verb does it; `options` are those of the logs."""
    inputs = read_inputs(paths, cache=False)
    found = find_all(
        inputs.runs,
        inputs.points,
        inputs.grids,
        law=law,
        options=LogOptions(**options),
        naming=Naming("this report's B_opt(D)"),
    )
    return build_document(inputs, found, settings or Settings())
