"""Finished runs that hold what studies of learning rates read: arm, size, seed, rate, loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megascale.sweep.results import RunResult


def result(
    arm: str, seed: int, batch: int, rate: float, loss: float, parameters: int = 1000
) -> RunResult:
    curve: Any = None
    return RunResult(
        run=f"{arm}-{seed}-{batch}-{rate}",
        group=arm,
        arm=arm,
        point={},
        values={},
        seed=seed,
        path=Path("nowhere"),
        tokens=1000,
        steps=10,
        started_at=0,
        batch=(batch,),
        loss=loss,
        seconds=1.0,
        curve=curve,
        peak_lr=rate,
        parameters=parameters,
    )
