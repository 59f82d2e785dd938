"""How often an interval of 90 % holds the truth: every law, quantity, kind and number of points.

    python benchmarks/fitting_coverage.py --write docs/coverage.md
    python benchmarks/fitting_coverage.py --laws classic wsd --studies 100

Simulated studies of known laws, noise of 1 % (of 0.003 nats for quadratics), a third of it for laws
of five parameters of the loss. A study whose limits are withheld (NaN) is not counted as covered or
missed; where more than half are withheld the cell says so instead of a share. Seeds are fixed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from megascale import fitting
from megascale.fitting.catalogue import predict
from megascale.fitting.intervals import UNSTEADY

Array = np.ndarray
POINTS = (6, 8, 12, 16, 24)
KINDS = ("wald", "profile", "parametric", "studentised", "wild", "pairs")
LEVEL = 0.9
INSIDE = (0.85, 0.95)


@dataclass(frozen=True)
class Case:
    """A law, its truth, the inputs of n points and the size of the noise."""

    law: str
    truth: dict[str, float]
    inputs: Callable[[int, np.random.Generator], Array]
    noise: float
    along_ray: bool = False
    absolute: bool = False
    profiled: float = 1.0  # share of the studies whose profiles are taken: they cost most

    @property
    def engine_law(self) -> str:
        """The name that `predict` and derived quantities know."""
        names = {"power_law": "power_law_1", "log_quadratic": "log_quadratic_1"}
        return names.get(self.law, self.law)


def _batches(n: int, rng: np.random.Generator) -> Array:
    return np.geomspace(2e5, 2e7, n)[None, :]


def _grid(first: tuple[float, float], second: tuple[float, float]) -> Callable[..., Array]:
    """Two inputs that a low-discrepancy sequence spreads over a rectangle of logarithms."""

    def inputs(n: int, rng: np.random.Generator) -> Array:
        u = (np.arange(n) + 0.5) / n
        v = (np.arange(n) * 0.6180339887498949 + 0.3) % 1
        low, high = np.log(first), np.log(second)
        return np.exp(np.stack([low[0] + u * (low[1] - low[0]), high[0] + v * (high[1] - high[0])]))

    return inputs


def _line(low: float, high: float) -> Callable[..., Array]:
    return lambda n, rng: np.geomspace(low, high, n)[None, :]


def _steps(n: int, rng: np.random.Generator) -> Array:
    return np.linspace(1.3e4, 6.8e4, n)[None, :]


CASES = [
    Case(
        "wsd",
        {"S_min": 1e4, "S_1": 1.8e4, "S_opt": 2.8e4, "S_2": 4e4, "C": 8.0, "E_min": 2e10},
        _steps,
        0.01,
        along_ray=True,
        profiled=0.25,
    ),
    Case("classic", {"S_min": 1e4, "E_min": 1e10}, _batches, 0.01, along_ray=True),
    Case(
        "noise_floor",
        {"S_min": 1e4, "B_min": 1e5, "p": 1.0, "q": 1.0},
        _batches,
        0.01,
        along_ray=True,
    ),
    Case(
        "two_power",
        {"a": 3e12, "c": 400.0, "u": 0.4, "w": 0.9},
        _batches,
        0.01,
        along_ray=True,
    ),
    Case(
        "loss_surface",
        {"L_inf": 1.8, "a": 20.0, "c": 900.0, "p": 0.4, "q": 0.5},
        _grid((1e3, 1e5), (1e5, 1e7)),
        0.003,
    ),
    Case("loss_curve", {"L0": 2.0, "A": 1500.0, "gamma": 0.35}, _line(1e8, 1e11), 0.003),
    Case(
        "log_quadratic",
        {"L_min": 2.5, "eta_opt": 1e-3, "C": 0.05},
        _line(1e-4, 1e-2),
        0.003,
        absolute=True,
    ),
    Case("power_law", {"coefficient": 3.0, "exponent_1": -0.5}, _line(1.0, 100.0), 0.05),
    Case(
        "chinchilla",
        {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37},
        _grid((5e7, 1e10), (1e9, 2e11)),
        0.003,
    ),
    *(
        Case(law, {"eta_max": 1e-2, "B_noise": 1e6}, _line(1e5, 1e7), 0.02)
        for law in ("noise_sgd", "noise_sign", "noise_muon")
    ),
]


def studies(case: Case, points: int, count: int) -> tuple[Array, Array]:
    """Inputs and targets of simulated studies: (inputs, studies, points), (studies, points)."""
    rng = np.random.default_rng([points, len(case.law), 7])
    x = case.inputs(points, rng)
    truth = {k: np.array(v) for k, v in case.truth.items()}
    draws = case.noise * rng.standard_normal((count, points))
    if case.along_ray and case.law != "wsd":
        tokens = _tokens_at_batch(case.law, truth, x[0]) * np.exp(draws)
        return (tokens / x[0])[None], tokens
    value = predict(case.engine_law, truth, list(x))
    if case.along_ray:
        return (x[0] * np.exp(draws))[None], value * np.exp(draws)
    y = value + draws if case.absolute else value * np.exp(draws)
    return np.broadcast_to(x[:, None, :], (len(x), count, points)).copy(), y


def _tokens_at_batch(law: str, truth: dict[str, Array], batch: Array) -> Array:
    from megascale.formats.tokens_to_loss import tokens_at_batch

    return tokens_at_batch(law, truth, batch)


def true_values(case: Case, result: fitting.FitResult) -> dict[str, float]:
    """Parameters and derived quantities of the law itself."""
    row = np.array([[case.truth[name] for name in result.names]])
    return {name: float(v[0]) for name, v in result.quantities(row).items()}


def coverage(
    case: Case, points: int, count: int, kinds: tuple[str, ...] = KINDS, replicates: int = 199
) -> Iterator[tuple[str, str, float, float]]:
    """(kind, quantity, share of shown intervals that hold the truth, share withheld)."""
    x, y = studies(case, points, count)
    if x.shape[0] == 1:
        x = x[0]
    common: dict[str, Any] = {"confidence": LEVEL, "replicates": replicates, "seed": 1}
    plain = fitting.fit(case.law, x, y, **common)
    some = max(int(count * case.profiled), 1)
    boots: dict[str, fitting.FitResult] = {}
    for kind in kinds:
        if kind in ("wald", "profile"):
            result, how = plain, kind
            if kind == "profile" and some < count:
                part = x[:some] if x.ndim == 2 else x[:, :some]
                result = fitting.fit(case.law, part, y[:some], **common)
        else:
            # Where studentised limits are refused there is nothing to count.
            if kind == "studentised" and case.law in UNSTEADY:
                continue
            # The parametric bootstrap that keeps errors gives both kinds of limits.
            both = kind == "parametric" and case.law not in UNSTEADY
            draw = "studentised" if both else kind
            if draw not in boots:
                boots[draw] = fitting.fit(case.law, x, y, bootstrap=draw, **common)
            result = boots[draw]
            how = "studentised" if kind == "studentised" else "percentile"
        names = list(result.names) if how == "profile" else [*result.names, *result.derived]
        truth = true_values(case, result)
        for name in names:
            low, high = result.interval(name, kind=how)
            shown = ~(np.isnan(low) | np.isnan(high))
            holds = (low <= truth[name]) & (truth[name] <= high)
            share = float(holds[shown].mean()) if shown.any() else float("nan")
            yield kind, name, share, float(1 - shown.mean())


def table(laws: list[str], count: int, replicates: int) -> str:
    """The tables of all laws as Markdown."""
    lines = []
    total, outside = 0, []
    begun = time.perf_counter()
    for case in CASES:
        if case.law not in laws:
            continue
        cells: dict[tuple[str, str, int], str] = {}
        names: list[str] = []
        for points in POINTS:
            if points <= len(case.truth):
                continue
            for kind, name, share, withheld in coverage(case, points, count, KINDS, replicates):
                if name not in names:
                    names.append(name)
                if withheld > 0.5:
                    cells[kind, name, points] = "withheld"
                    continue
                total += 1
                text = f"{share:.2f}"
                if not INSIDE[0] <= share <= INSIDE[1]:
                    text = f"**{text}**"
                    outside.append((case.law, kind, name, points))
                cells[kind, name, points] = text + ("*" if withheld > 0.1 else "")
        print(f"{case.law}: {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
        lines += [f"### `{case.law}`", ""]
        shown = [p for p in POINTS if p > len(case.truth)]
        lines.append("| quantity | kind | " + " | ".join(f"{p} points" for p in shown) + " |")
        lines.append("|---|---|" + "---|" * len(shown))
        for name in names:
            for kind in KINDS:
                row = [cells.get((kind, name, p), "") for p in shown]
                if any(row):
                    lines.append(f"| {name} | {kind} | " + " | ".join(row) + " |")
        lines.append("")
    inside = total - len(outside)
    head = f"{inside} of {total} cells lie inside {INSIDE[0]:.2f} to {INSIDE[1]:.2f}."
    by_kind = {kind: sum(o[1] == kind for o in outside) for kind in KINDS}
    head += " Outside: " + ", ".join(f"{kind} {n}" for kind, n in by_kind.items()) + "."
    return "\n".join([head, "", *lines])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--laws", nargs="*", default=[case.law for case in CASES])
    parser.add_argument("--studies", type=int, default=400)
    parser.add_argument("--replicates", type=int, default=199)
    parser.add_argument("--write", type=Path, help="replaces what follows the marker in this page")
    given = parser.parse_args()
    text = table(given.laws, given.studies, given.replicates)
    if given.write is None:
        print(text)
        return
    marker = "<!-- benchmarks/fitting_coverage.py writes what follows -->"
    page = given.write.read_text()
    given.write.write_text(page.split(marker)[0] + marker + "\n\n" + text)


if __name__ == "__main__":
    main()
