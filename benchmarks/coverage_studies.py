"""Simulated studies with a known truth: does each band hold it as often as it says?

A study makes runs, goes the way the verbs go, and says for every band whether the truth lies in
it. Noise is that of real runs: seeds of one batch differ by 1 to 4 % in the tokens to a loss, by a
delay and a rate that all targets of the run share; records scatter by 0.01 nats around the curve;
best learning rates and batches of a grid by 3 to 8 % around their law; final losses by 0.002 nats.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from megascale import fitting
from megascale.curves.curve import Curve
from megascale.curves.table import curves_from_table
from megascale.errors import FitError
from megascale.formats.law_band import law_band
from megascale.formats.tokens_to_loss import tokens_at_batch
from megascale.laws.batch.from_points import batch_law_from_points
from megascale.laws.batch.points import choose_targets, extract
from megascale.laws.batch.surface import PARAMETERS, fit_surfaces
from megascale.laws.grid.fit import fit_grid
from megascale.laws.law_files import Naming
from megascale.laws.learning_rate import search_factor
from megascale.laws.power import PowerLaw
from tests.curves.simulated import BATCHES, Truth
from tests.laws.batch.simulated import (
    FAMILY_LOSSES,
    FAMILY_TOKENS,
    family,
    family_best,
    family_points,
)

CONFIDENCE = 0.9
SURFACE = Truth()
Held = dict[str, list[bool]]
"""By band, whether it held the truth, one a band that a verb would print."""


@dataclass(frozen=True)
class Runs:
    """How simulated runs differ from the surface.

    Attributes:
        batches: which of `BATCHES`.
        delay: standard deviation of log progress between runs.
        rate: of its growth per e-fold of tokens.
        noise: of a record, nats.
        seeds: runs a batch.
    """

    batches: tuple[int, ...] = BATCHES
    delay: float = 0.015
    rate: float = 0.005
    noise: float = 0.01
    seeds: int = 1


def curves_of(runs: Runs, seed: int) -> list[Curve]:
    """Smoothed curves of simulated runs, each with its own progress."""
    rng = np.random.default_rng(seed)
    parts = []
    for batch, number in itertools.product(runs.batches, range(runs.seeds)):
        steps = np.unique(np.geomspace(20, 4e9 / batch, 300).astype(np.int64))
        middle = np.maximum((np.concatenate([[0], steps[:-1]]) + steps - 1) / 2, 1.0)
        delay, rate = rng.standard_normal(2) * (runs.delay, runs.rate)
        progress = middle * np.exp(delay + rate * np.log(middle * batch / 1e8))
        loss = SURFACE.loss(progress, batch) + runs.noise * rng.standard_normal(len(steps))
        parts.append(
            pl.DataFrame(
                {
                    "run": f"b{batch}-s{number}",
                    "step": steps,
                    "tokens": steps * batch,
                    "batch_tokens": batch,
                    "lr": 6e-4,
                    "loss": loss,
                    "loss_kind": "interval_mean",
                    "source": "simulated",
                }
            )
        )
    return curves_from_table(pl.concat(parts)).curves


def best_batches_from_logs(law: str, runs: Runs, seed: int) -> Held:
    """`fit` on logs of one N and learning rate: best batches of all targets, and B_opt(D)."""
    curves = curves_of(runs, seed)
    points = extract(curves, choose_targets(curves)).points
    made = batch_law_from_points(points, law, Naming("simulated"), seed=seed)
    held: Held = defaultdict(list)
    for row in made.optimal.table.filter(pl.col("used")).iter_rows(named=True):
        loss = row["target_loss"]
        best = SURFACE.best_batch(loss)
        least = (SURFACE.c / (loss - SURFACE.floor)) ** (1 / SURFACE.q)
        held["B_opt of a target"].append(row["low"] <= best <= row["high"])
        tokens = SURFACE.tokens_to(loss, best)
        held["E_min of a target"].append(row["tokens_low"] <= tokens <= row["tokens_high"])
        if row["batch_min_low"] is not None:
            held["B_min of a target"].append(row["batch_min_low"] <= least <= row["batch_min_high"])
    _add_law(held, made.file, SURFACE.best_batch_after)
    return held


def surface_from_logs(runs: Runs, seed: int) -> Held:
    """`fit --law loss_surface`."""
    (fit,) = fit_surfaces(curves_of(runs, seed), below_loss=4.0)
    truth = {"L_inf": SURFACE.floor} | {key: getattr(SURFACE, key) for key in "apcq"}
    held: Held = defaultdict(list)
    for name in PARAMETERS:
        low, high = fit.interval(name, CONFIDENCE)
        held[name].append(low <= truth[name] <= high)
    _add_power(held, fit.power(), None, fit.tokens, SURFACE.best_batch_after)
    return held


def best_batches_from_points(
    truth: str, law: str, batches: int, seed: int, sizes: Sequence[float | None] = (None,)
) -> Held:
    """`fit` on a table of points whose law is known."""
    points = family_points(truth, seed, batches, sizes)
    made = batch_law_from_points(points, law, Naming("simulated"), seed=seed)
    held: Held = defaultdict(list)
    for row in made.optimal.table.filter(pl.col("used")).iter_rows(named=True):
        tokens = FAMILY_TOKENS[int(np.argmin(np.abs(FAMILY_LOSSES - row["target_loss"])))]
        shift = 1.0 if row["n_params"] is None else (row["n_params"] / 1e8) ** 0.2
        held["B_opt of a target"].append(row["low"] <= shift * family_best(tokens) <= row["high"])
        held["E_min of a target"].append(row["tokens_low"] <= tokens <= row["tokens_high"])
    if sizes == (None,):
        _add_law(held, made.file, family_best)
    else:
        n = float(sizes[-1] or 1.0)
        _add_law(held, made.file, lambda d: (n / 1e8) ** 0.2 * family_best(d), n)
    return held


SIZES = (2e8, 4e8, 1e9)
BUDGETS = (4e9, 1e10, 2.5e10, 6e10)


def step_rate(n: float, d: float) -> float:
    """Peak learning rate of arXiv 2503.04715."""
    return 1.79 * n**-0.713 * d**0.307


def step_batch(d: float) -> float:
    """Batch of arXiv 2503.04715."""
    return 0.58 * d**0.571


def rates_from_logs(seed: int, *, rates: int, sizes: Sequence[float], scatter: float = 0.0) -> Held:
    """`fit --law learning_rate` on logs: one run a rate, looked at after five token counts."""
    rng = np.random.default_rng(seed)
    rows = []
    for n in sizes:
        level, growth = rng.standard_normal((2, rates)) * [[0.004], [0.0016]]
        tried = step_rate(n, 1.6e10) * 2 ** ((np.arange(rates) - (rates - 1) / 2) / 2)
        for d in np.geomspace(4e9, 6.4e10, 5):
            best = step_rate(n, d) * np.exp(scatter * rng.standard_normal())
            error = level + growth * np.log(d / 1.6e10) + 0.001 * rng.standard_normal(rates)
            loss = 2.5 + 0.03 * np.log(tried / best) ** 2 + error
            rows += [(n, d, *pair) for pair in zip(tried, loss, strict=True)]
    table = pl.DataFrame(rows, schema=["n_params", "tokens", "lr", "loss"], orient="row")
    law = search_factor(table, shared_runs=True).law
    return _rate_law(law, sizes[-1], (4e9, 6.4e10))


def grid_of_final_losses(seed: int, *, scatter: float, noise: float = 0.002) -> pl.DataFrame:
    """Twelve cells of 81 independent runs each, the same values in all of them."""
    rng = np.random.default_rng(seed)
    steps = 2 ** (np.arange(-4, 5) / 2)
    rows = []
    for n, d in itertools.product(SIZES, BUDGETS):
        rate, batch = (
            best * np.exp(scatter * rng.standard_normal())
            for best in (step_rate(n, d), step_batch(d))
        )
        for lr, size in itertools.product(
            step_rate(4e8, 1.6e10) * steps, step_batch(1.6e10) * steps
        ):
            x, y = np.log(lr / rate), np.log(size / batch)
            loss = 2.5 + 0.03 * x * x + 0.02 * y * y + 0.012 * x * y + noise * rng.standard_normal()
            rows.append((n, d, lr, size, loss))
    names = ["n_params", "tokens", "lr", "batch_tokens", "loss"]
    return pl.DataFrame(rows, schema=names, orient="row")


def grid_laws(seed: int, *, scatter: float) -> Held:
    """`fit` on a table of final losses: both laws by every method."""
    held: Held = defaultdict(list)
    fit = fit_grid(grid_of_final_losses(seed, scatter=scatter))
    for name, method in fit.methods.items():
        for key, law in method.laws.items():
            found = _rate_law(law, 4e8, (BUDGETS[0], BUDGETS[-1]), batch=key != "lr")
            for band, inside in found.items():
                held[f"{name}, {'LR' if key == 'lr' else 'batch'}: {band}"] += inside
    return held


def _rate_law(law: PowerLaw, n: float, span: tuple[float, float], *, batch: bool = False) -> Held:
    held: Held = defaultdict(list)
    limits = law.parameters("", CONFIDENCE)
    truth = {"b": 0.571} if batch else {"a": -0.713, "b": 0.307}
    for key, value in truth.items():
        if limits[key].low is not None and (key == "b" or law.with_n):
            held[f"exponent {key}"].append(limits[key].low <= value <= limits[key].high)
    _add_power(held, law, n, span, step_batch if batch else lambda d: step_rate(n, d))
    return held


def _places(span: tuple[float, float]) -> Iterator[tuple[str, float]]:
    yield "f(D) at the first D", span[0]
    yield "f(D) in the middle", float(np.sqrt(span[0] * span[1]))
    yield "f(D) at the last D", span[1]
    yield "f(D) 10 times beyond", 10 * span[1]


def _add_law(held: Held, law: Any, truth: Callable[[float], float], n: float = 1.0) -> None:
    for name, tokens in _places(law.range.d):
        band = law_band(law, n, tokens)
        assert band is not None
        assert band.confidence == CONFIDENCE
        held[name].append(band.low <= truth(tokens) <= band.high)


def _add_power(
    held: Held,
    law: PowerLaw,
    n: float | None,
    span: tuple[float, float],
    truth: Callable[[float], float],
) -> None:
    for name, tokens in _places(span):
        low, high = law.band(n, tokens, CONFIDENCE)
        held[name].append(bool(low <= truth(tokens) <= high))


def tokens_steps_parameters(
    law: str, batches: int, noise: float, studies: int, seed: int, resample: str | None
) -> Held:
    """`fit points.csv --law LAW` on one target: the parameters, all studies at once."""
    rng = np.random.default_rng(seed)
    tokens, best = 1e9, family_best(1e9)
    if law == "classic":
        truth: dict[str, Any] = {"S_min": 2e3, "E_min": 1e9}
    else:
        truth = family(law, tokens, best)
    low, high = {"noise_floor": (0.42, 30.0), "wsd": (0.3, 8.0)}.get(law, (1 / 6, 8.0))
    spread = np.geomspace(low, high, batches)
    batch = best * spread
    exact = tokens_at_batch(law, {k: np.array(v) for k, v in truth.items()}, batch)
    spent = exact * np.exp(noise * rng.standard_normal((studies, batches)))
    result = fitting.fit(
        law, spent / batch, spent, bootstrap=resample, replicates=200, confidence=CONFIDENCE
    )
    derived = {"B_crit": 5e5} if law == "classic" else {"B_opt": best}
    if law in ("two_power", "noise_floor"):
        derived["E_min"] = tokens
    if law == "wsd":
        derived["B_min"] = 2 * truth["C"] * (truth["S_2"] - truth["S_opt"])
    return _inside(result, truth | derived)


def engine_laws(studies: int, seed: int, resample: str | None) -> dict[str, Held]:
    """Other laws of `fit points.csv`, by name."""
    rng = np.random.default_rng(seed)

    def normal(points: int) -> Any:
        return rng.standard_normal((studies, points))

    d = np.geomspace(1e8, 1e10, 16)
    eta = np.geomspace(1e-4, 1.6e-3, 7)
    n, tokens = np.exp(rng.uniform([[17], [20]], [[22], [24]], (2, 40)))
    made = {
        "power_law, 8 points": (
            "power_law", d[::2], 3 * d[::2] ** 0.5 * np.exp(0.1 * normal(8)), {},
            {"coefficient": 3.0, "exponent_1": 0.5},
        ),
        "loss_curve, 16 points": (
            "loss_curve", d, 2 + 30 * d**-0.2 + 0.005 * normal(16), {"residual": "absolute"},
            {"L0": 2.0, "A": 30.0, "gamma": 0.2},
        ),
        "log_quadratic, 7 points": (
            "log_quadratic", eta, 2 + 0.05 * np.log(eta / 4.2e-4) ** 2 + 0.003 * normal(7), {},
            {"L_min": 2.0, "eta_opt": 4.2e-4, "C": 0.05},
        ),
    }  # fmt: skip
    out = {}
    for name, (law, x, y, options, truth) in made.items():
        result = fitting.fit(
            law, np.broadcast_to(x, y.shape), y, bootstrap=resample, replicates=200, **options
        )
        out[name] = _inside(result, truth)
    loss = (1.7 + 400 * n**-0.34 + 410 * tokens**-0.28) * np.exp(0.005 * normal(40))
    result = fitting.fit(
        "chinchilla",
        np.tile(np.stack([n, tokens]), studies),
        loss.ravel(),
        offsets=np.arange(studies + 1) * 40,
        bootstrap=resample,
        replicates=200,
    )
    truth = {"E": 1.7, "A": 400.0, "B": 410.0, "alpha": 0.34, "beta": 0.28}
    out["chinchilla, 40 runs"] = _inside(result, truth)
    return out


def _inside(result: fitting.FitResult, truth: dict[str, Any]) -> Held:
    held: Held = {}
    for name, value in truth.items():
        low, high = result.limits(name)
        inside = (low <= value) & (value <= high)
        held[name] = inside[result.converged & np.isfinite(low)].tolist()
    return held


def repeat(study: Callable[[int], Held], studies: int) -> tuple[Held, int]:
    """Bands of many studies together, and how many studies gave no law."""
    total: Held = defaultdict(list)
    refused = 0
    for seed in range(studies):
        try:
            found = study(seed)
        except FitError:
            refused += 1
            continue
        for name, inside in found.items():
            total[name] += inside
    return total, refused
