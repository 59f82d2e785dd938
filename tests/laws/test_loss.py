"""Chinchilla's law: its objectives, and the constants printed by its refit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from megascale.laws.loss import fit_chinchilla

TRUTH = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}


def runs(noise: float = 0.0, seed: int = 0) -> pl.DataFrame:
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e8, 1e10, 8), np.geomspace(2e9, 2e11, 8)))
    loss = TRUTH["E"] + TRUTH["A"] * n ** -TRUTH["alpha"] + TRUTH["B"] * d ** -TRUTH["beta"]
    loss = loss * np.exp(noise * np.random.default_rng(seed).standard_normal(len(n)))
    return pl.DataFrame({"n_params": n, "tokens": d, "loss": loss})


def test_least_absolute_deviations_pass_by_outliers() -> None:
    """A fifth of the losses 10 % too high: the median does not move."""
    table = runs().with_row_index("row")
    table = table.with_columns(
        loss=pl.when(pl.col("row") % 5 == 0).then(1.1 * pl.col("loss")).otherwise(pl.col("loss"))
    )
    fit = fit_chinchilla(table, objective="absolute")
    for name, value in TRUTH.items():
        assert fit[name] == pytest.approx(value, rel=1e-4)
    squared = fit_chinchilla(table, objective="squared")
    assert abs(squared["E"] / TRUTH["E"] - 1) > 0.01


def test_the_least_sum_is_no_larger_than_that_of_any_huber_fit() -> None:
    table = runs(noise=0.01)

    def total(fit: object) -> float:
        law = fit.loss(table["n_params"].to_numpy(), table["tokens"].to_numpy())  # type: ignore[attr-defined]
        return float(np.abs(np.log(table["loss"].to_numpy() / law)).sum())

    least = fit_chinchilla(table, objective="absolute")
    assert float(least.result.objective[0]) == pytest.approx(total(least), rel=1e-9)
    law = least.loss(table["n_params"].to_numpy(), table["tokens"].to_numpy())
    met = np.abs(np.log(table["loss"].to_numpy() / law)) < 1e-9
    assert met.sum() >= 5
    for delta in (1e-3, 1e-4, 1e-6):
        assert total(least) <= total(fit_chinchilla(table, delta=delta)) * (1 + 1e-12)


def test_constants_of_the_refit(shared_data: Path) -> None:
    """arXiv 2404.10102 prints A 482.01, B 2085.43, alpha 0.3478, beta 0.3658, E 1.8172.

    The first four are the least absolute deviations of its 240 points to every digit, E (1.8169
    there, 1.8172 in the paper) that of its Huber fit.
    """
    table = pl.read_csv(shared_data / "chinchilla" / "svg_extracted_data.csv").select(
        n_params="Model Size",
        tokens=pl.col("Training FLOP") / 6 / pl.col("Model Size"),
        loss="loss",
    )
    least = fit_chinchilla(
        table, drop_highest=5, objective="absolute", bootstrap="pairs", replicates=1000,
        confidence=0.95,
    )  # fmt: skip
    assert least["A"] == pytest.approx(482.01, abs=5e-3)
    assert least["B"] == pytest.approx(2085.43, abs=1e-2)
    assert round(least["alpha"], 4) == 0.3478
    assert least["beta"] == pytest.approx(0.3658, abs=1e-4)
    huber = fit_chinchilla(table, drop_highest=5)
    assert round(huber["E"], 4) == 1.8172
    # Its intervals, by 4,000 draws of points under the Huber loss.
    printed = {"A": (285, 744), "B": (1042, 5810), "alpha": (0.317, 0.373), "beta": (0.331, 0.415)}
    for name, (low, high) in printed.items():
        ends = [float(end[0]) for end in least.result.interval(name)]
        assert ends == pytest.approx([low, high], rel=0.12)
