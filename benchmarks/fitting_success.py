"""How often a fit ends at the global optimum: against the best of many starts of the same engine.

For every law of tokens and steps and every residual it takes, problems of six families (steep,
mild, few points, one branch, tied batches, noisy) are fitted once as a user would, and once from
each of STARTS random starts in the very objective, each run to its own optimum. Laws of losses and
powers have three families (mild, few points, noisy), and starts scattered about the truth.

Success is within 1e-6 of the lowest cost seen. A doubt is what the fit says of itself: the solver
did not converge, or only one search found the optimum (`starts_disagree`). Each cell states success
/ quiet misses, which have no doubt / needless doubts, of fits at the lowest cost; in % of problems.
The rate of a law and residual is that of the mild family.

    python benchmarks/fitting_success.py [--problems 200] [--starts 500] [--law wsd]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from megascale import fitting
from megascale.fitting.catalogue import laws
from megascale.formats.tokens_to_loss import steps_at_batch

Array = np.ndarray
FAMILIES = ("steep", "mild", "few", "branch", "tied", "noisy")
TOLERANCE = 1e-6
TOKENS_STEPS = ("wsd", "noise_floor", "two_power", "classic")
OTHERS = ("loss_curve", "power_law", "chinchilla", "log_quadratic", "loss_surface")
OTHER_FAMILIES = ("mild", "few", "noisy")


def batches(rng: np.random.Generator, family: str, problems: int) -> Array:
    """Batch sizes of every problem, in units of the law's best one, (problems, points)."""
    points = 7 if family == "few" else 12
    low, high = {
        "steep": (0.25, 12.0),
        "mild": (0.4, 4.0),
        "few": (0.4, 6.0),
        "branch": (1.2, 12.0),
        "tied": (0.3, 8.0),
        "noisy": (0.3, 8.0),
    }[family]
    grid = np.geomspace(low, high, points // 3 if family == "tied" else points)
    if family == "tied":
        grid = np.repeat(grid, 3)
    wobble = 1.0 if family == "tied" else np.exp(0.05 * rng.standard_normal((problems, points)))
    return grid * wobble * np.ones((problems, 1))


def tokens_steps(family: str, problems: int, seed: int) -> tuple[Array, Array]:
    """(S, E) of piecewise laws, with noise along the rays."""
    rng = np.random.default_rng([seed, FAMILIES.index(family)])

    def spread(low: float, high: float) -> Array:
        return np.exp(rng.uniform(np.log(low), np.log(high), (problems, 1)))

    s_min = spread(3e3, 3e4)
    b, a, c = s_min * spread(0.3, 1.5), s_min * spread(0.3, 1.5), s_min * spread(0.4, 2.0)
    e_min, s_opt = spread(1e9, 1e11), s_min + b + a
    s_2 = s_opt + c
    params = {
        "S_min": s_min, "S_1": s_min + b, "S_opt": s_opt, "S_2": s_2,
        "C": spread(0.1, 0.6) * e_min / (s_2**2 - s_opt**2), "E_min": e_min,
    }  # fmt: skip
    batch = batches(rng, family, problems) * e_min / s_opt
    noise = {"noisy": 0.1, "mild": 0.02}.get(family, 0.01)
    steps = steps_at_batch("wsd", params, batch)
    factor = np.exp(noise * rng.standard_normal(steps.shape))
    reached = np.isfinite(steps).all(axis=1)
    return (steps * factor)[reached], (steps * batch * factor)[reached]


def starts_of(law: str, s: Array, e: Array, rng: np.random.Generator) -> dict[str, Array]:
    """One random start a problem, over the whole range that the points allow."""
    count = len(s)
    batch = e / s

    def spread(low: float, high: float) -> Array:
        return np.exp(rng.uniform(np.log(low), np.log(high), count))

    if law == "wsd":
        first, last = s.min(axis=1), s.max(axis=1)
        s_min = first * (1 - np.exp(rng.uniform(-4, -0.05, count)))
        s_opt = s_min + (last - s_min) * spread(0.03, 1.0)
        s_1 = s_min + (s_opt - s_min) * rng.uniform(0.05, 0.98, count)
        s_2 = s_opt + (last - s_opt + 0.05 * last) * spread(0.02, 1.0)
        e_min = e.min(axis=1) * spread(0.9, 1.05)
        share = spread(0.02, 0.9)
        curvature = share * e_min / (s_2**2 - s_opt**2)
        return {
            "S_min": s_min, "S_1": s_1, "S_opt": s_opt, "S_2": s_2, "C": curvature,
            "E_min": e_min,
        }  # fmt: skip
    if law == "noise_floor":
        return {
            "S_min": s.min(axis=1) * spread(0.3, 1.0),
            "B_min": batch.min(axis=1) * rng.uniform(0.02, 0.98, count),
            "p": spread(0.1, 10),
            "q": spread(0.1, 10),
        }
    if law == "two_power":
        u, w = spread(0.03, 3), spread(0.03, 3)
        middle = np.exp(np.log(batch).mean(axis=1))
        level = e.mean(axis=1)
        return {
            "a": 0.5 * level * middle**u * spread(0.3, 3), "c": 0.5 * level * middle**-w, "u": u,
            "w": w,
        }  # fmt: skip
    return {
        "S_min": s.min(axis=1) * spread(0.3, 1.0),
        "E_min": e.min(axis=1) * spread(0.3, 1.0),
    }


class Tally:
    """Fits beside the lowest costs seen: success, quiet misses and needless doubts, shares."""

    def __init__(self, found: fitting.FitResult, best: Array) -> None:
        hit = found.objective <= best * (1 + TOLERANCE)  # False for NaN
        lonely = found.flags & int(fitting.Flag.STARTS_DISAGREE) != 0
        doubt = ~found.solved | lonely
        self.success = float(hit.mean())
        self.quiet = float((~hit & ~doubt).mean())
        self.needless = float((hit & doubt).mean())

    def __str__(self) -> str:
        return f"{100 * self.success:.1f}/{100 * self.quiet:.1f}/{100 * self.needless:.1f}"


BLOCK = 10  # random starts that one call fits


def measure(law: str, residual: str, family: str, problems: int, starts: int, seed: int) -> Tally:
    """Fits of a law of tokens and steps beside the best of `starts` random ones."""
    s, e = tokens_steps(family, problems, seed)
    found = fitting.fit(law, s, e, residual=residual, errors="status")
    rng = np.random.default_rng([seed, 1])
    best = np.where(np.isfinite(found.objective), found.objective, np.inf)
    many_s, many_e = np.tile(s, (BLOCK, 1)), np.tile(e, (BLOCK, 1))
    for _ in range(0, starts, BLOCK):
        draws = [starts_of(law, s, e, rng) for _ in range(BLOCK)]
        initial = {name: np.concatenate([draw[name] for draw in draws]) for name in draws[0]}
        other = fitting.fit(law, many_s, many_e, residual=residual, initial=initial)
        cost = np.where(np.isfinite(other.objective), other.objective, np.inf)
        best = np.minimum(best, cost.reshape(BLOCK, -1).min(axis=0))
    return Tally(found, best)


def power_terms(law: str, family: str, problems: int, seed: int) -> tuple[Array, Array, Array]:
    """Inputs (inputs, problems, points), targets and true parameters of the other laws."""
    rng = np.random.default_rng([seed, OTHERS.index(law), FAMILIES.index(family)])
    points = 8 if family == "few" else 24
    noise = {"noisy": 0.05, "few": 0.003}.get(family, 0.003)

    def spread(low: float, high: float) -> Array:
        return np.exp(rng.uniform(np.log(low), np.log(high), problems))

    def inputs(low: float, high: float) -> Array:
        return np.exp(rng.uniform(np.log(low), np.log(high), (problems, points)))

    floor, p, q = spread(1.5, 3), spread(0.15, 0.8), spread(0.15, 0.8)
    if law == "loss_curve":
        x = inputs(1e8, 1e11)[None]
        truth = np.stack([floor, spread(0.3, 2) * 1e9**p, p], 1)
        y = truth[:, :1] + truth[:, 1:2] * x[0] ** -truth[:, 2:]
    elif law == "power_law":
        x = np.stack([inputs(1e7, 1e10), inputs(1e8, 1e12)])
        truth = np.stack([spread(0.1, 10), -p, q], 1)
        y = truth[:, :1] * x[0] ** truth[:, 1:2] * x[1] ** truth[:, 2:]
    elif law == "log_quadratic":
        x = inputs(1e-4, 1e-2)[None]
        truth = np.stack([floor, spread(4e-4, 3e-3), spread(0.02, 0.2)], 1)
        y = truth[:, :1] + truth[:, 2:] * np.log(x[0] / truth[:, 1:2]) ** 2
    else:
        low, high = ((1e7, 1e10), (1e9, 1e12)) if law == "chinchilla" else ((1e3, 1e6), (1e5, 1e7))
        x = np.stack([inputs(*low), inputs(*high)])
        first, second = spread(0.3, 1.5) * low[0] ** p, spread(0.3, 1.5) * high[0] ** q
        truth = np.stack([floor, first, second, p, q], 1)
        y = truth[:, :1] + first[:, None] * x[0] ** -p[:, None]
        y = y + second[:, None] * x[1] ** -q[:, None]
    return x, y * np.exp(noise * rng.standard_normal(y.shape)), truth


def measure_other(
    law: str, residual: str, family: str, problems: int, starts: int, seed: int
) -> Tally:
    """The same for a law of losses or powers."""
    x, y, truth = power_terms(law, family, problems, seed)
    flat, target = x.reshape(len(x), -1), y.ravel()
    offsets = np.arange(problems + 1) * y.shape[1]

    def run(initial: dict[str, Array] | None) -> fitting.FitResult:
        return fitting.fit(
            law, flat, target, offsets=offsets, residual=residual, initial=initial, errors="status"
        )

    found = run(None)
    rng = np.random.default_rng([seed, 2])
    best = np.where(np.isfinite(found.objective), found.objective, np.inf)
    for _ in range(starts):
        shaken = truth * np.exp(0.3 * rng.standard_normal(truth.shape))
        other = run(dict(zip(found.names, shaken.T, strict=True)))
        best = np.where(other.solved & (other.objective < best), other.objective, best)
    return Tally(found, best)


def rate(law: str, residual: str, timer: Callable[[], float] = time.process_time) -> float:
    """Problems a second of CPU time on one thread, mild family."""
    s, e = tokens_steps("mild", 2000, 7)
    fitting.fit(law, s[:50], e[:50], residual=residual, threads=1)
    took = []
    for _ in range(3):
        began = timer()
        fitting.fit(law, s, e, residual=residual, threads=1)
        took.append(timer() - began)
    return len(s) / float(np.median(took))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--starts", type=int, default=500)
    parser.add_argument("--law", choices=TOKENS_STEPS + OTHERS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"{'law':12} {'residual':9} {'problems/s':>11}  success/quiet/needless by family, in %")
    print(f"{'':34}" + "".join(f"{family:>15}" for family in FAMILIES))
    wanted = (options.law,) if options.law else TOKENS_STEPS + OTHERS
    for law in (law for law in wanted if law in TOKENS_STEPS):
        assert laws()[law].tokens_steps
        for residual in ("ray", "relative", "log", "absolute"):
            cells = []
            for family in FAMILIES:
                tally = measure(
                    law, residual, family, options.problems, options.starts, options.seed
                )
                cells.append(str(tally))
            speed = f"{rate(law, residual):,.0f}"
            print(
                f"{law:12} {residual:9} {speed:>11}  " + "".join(f"{c:>15}" for c in cells),
                flush=True,
            )
    print(f"{'':34}" + "".join(f"{family:>15}" for family in OTHER_FAMILIES))
    for law in (law for law in wanted if law in OTHERS):
        signed = law == "log_quadratic"  # targets of any sign
        for residual in ("absolute",) if signed else ("relative", "log", "absolute"):
            cells = []
            for family in OTHER_FAMILIES:
                tally = measure_other(
                    law, residual, family, options.problems, options.starts, options.seed
                )
                cells.append(str(tally))
            print(
                f"{law:12} {residual:9} {'':11}  " + "".join(f"{c:>15}" for c in cells), flush=True
            )


if __name__ == "__main__":
    main()
