"""Fits a second, one core: megascale beside scipy, in turns in the same process.

    OMP_NUM_THREADS=1 python benchmarks/fitting_peers.py [--quick] [--json FILE]

The process pins itself to one core, where the system lets it. Every row warms up, alternates both
sides `--rounds` times and reports the median rate of each (process CPU time, at least 0.1 s a
reading) and the median of the paired ratios. The last row spreads over all online cores and
compares the wall time of one thread and two. Rows whose data are absent (MEGASCALE_DATA, default
../shared/data) use a seeded twin. `success` is the share of problems within 1e-6 of the best known
objective.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy import optimize

from megascale import fitting

DATA = Path(os.environ.get("MEGASCALE_DATA", Path(__file__).parents[2] / "shared" / "data"))


@dataclass
class Row:
    """One line of the table; rates in units a second of CPU time."""

    work: str
    peer: str
    peer_rate: float
    rate: float
    ratio: float
    note: str = ""


SHORTEST = 0.1  # seconds of CPU time of one reading


def rate(work: Callable[[], int]) -> float:
    """Units a second of process CPU time; `work` returns how many units it did."""
    begin = time.process_time()
    units, spent = 0, 0.0
    while spent < SHORTEST:
        units += work()
        spent = time.process_time() - begin
    return units / spent


def compare(
    name: str,
    peer: str,
    theirs: Callable[[], int],
    ours: Callable[[], int],
    rounds: int,
    note: str = "",
) -> Row:
    """Alternates both sides; medians of rates and of paired ratios."""
    ours()
    pairs = [(rate(theirs), rate(ours)) for _ in range(rounds)]
    row = Row(
        name,
        peer,
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        statistics.median(b / a for a, b in pairs),
        note,
    )
    print(
        f"{row.work:44s} {row.peer:26s} {row.peer_rate:10.3g}/s {row.rate:10.3g}/s "
        f"{row.ratio:10.3g}x  {row.note}",
        flush=True,
    )
    return row


def tokens_steps_points() -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """The frozen 1,500 problems of 16 points, or a seeded twin without best costs."""
    path = DATA / "es_fits" / "frozen_m16.npz"
    if path.is_file():
        frozen = np.load(path)
        return frozen["S"], frozen["E"], frozen["best_cost"]
    rng = np.random.default_rng(0)
    s = np.geomspace(1.2, 8, 16) * np.exp(rng.normal(0, 1, (1500, 1)))
    e = (0.4 / (s / s[:, :1] - 0.8) + 1 + s / s[:, :1]) * np.exp(0.01 * rng.normal(size=s.shape))
    return s, e, None


def wsd_curve(s: np.ndarray, t: np.ndarray) -> np.ndarray:
    """The piecewise law in six logarithmic parameters, as a user would hand it to scipy."""
    s_min, b, a, c, curvature, floor = np.exp(t)
    d = s - s_min
    e = d - a - b
    with np.errstate(all="ignore"):
        left = a * a - 2 * a * b + 2 * a * b * b / np.maximum(d, 1e-9 * b)
    phi = np.where(d < b, left, np.where(e <= c, e * e, 2 * c * e - c * c))
    return curvature * phi + floor


def wsd_start(s: np.ndarray, e: np.ndarray) -> np.ndarray:
    """One sensible start from the data."""
    best = s[np.argmin(e)]
    s_min = 0.9 * s[0]
    middle = 0.5 * max(best - s_min, 0.1 * s[0])
    right = max(0.5 * (s[-1] - best), 0.1 * best)
    curvature = max(e.max() - e.min(), 1e-3 * e.min()) / (s[-1] - s[0]) ** 2
    return np.log([s_min, middle, middle, right, curvature, e.min()])


def wsd_rows(rounds: int, some: int) -> list[Row]:
    s, e, best = tokens_steps_points()
    scale_s = np.exp(np.log(s).mean(1, keepdims=True))
    scale_e = np.exp(np.log(e).mean(1, keepdims=True))
    u, v = s / scale_s, e / scale_e

    def curve_fit() -> int:
        for i in range(some):
            try:
                optimize.curve_fit(
                    lambda x, *t, y=v[i]: wsd_curve(x, np.array(t)) / y,
                    u[i], np.ones(16), wsd_start(u[i], v[i]), maxfev=2000,
                )  # fmt: skip
            except RuntimeError:
                continue
        return some

    def many_starts() -> int:
        rng = np.random.default_rng(0)
        count = max(some // 16, 2)
        for i in range(count):
            base = wsd_start(u[i], v[i])
            for _ in range(32):
                optimize.leastsq(
                    lambda t, x=u[i], y=v[i]: wsd_curve(x, t) / y - 1,
                    base + 0.5 * rng.standard_normal(6), maxfev=2000,
                )  # fmt: skip
        return count

    def warm() -> int:
        rng = np.random.default_rng(0)
        at = optimize.leastsq(lambda t: wsd_curve(u[0], t) / v[0] - 1, wsd_start(u[0], v[0]))[0]
        fitted = wsd_curve(u[0], at)
        for _ in range(some):
            y = fitted * (1 + 0.01 * rng.standard_normal(16))
            optimize.leastsq(lambda t, y=y: wsd_curve(u[0], t) / y - 1, at, maxfev=2000)
        return some

    options = {"residual": "relative", "threads": 1}
    result = fitting.fit("wsd", s, e, **options)
    note = ""
    if best is not None:
        note = f"success {np.mean(result.objective <= best * (1 + 1e-6)):.4f}"

    def single() -> int:
        fitting.fit("wsd", s, e, starts=1, **options)
        return len(s)

    def whole() -> int:
        fitting.fit("wsd", s, e, **options)
        return len(s)

    def boot() -> int:
        fitting.fit("wsd", s[:200], e[:200], bootstrap="parametric", replicates=500, **options)
        return 100_000

    def rays() -> int:
        fitting.fit("wsd", s, e, threads=1)
        return len(s)

    return [
        compare("WSD E(S), 16 points, single runs", "curve_fit", curve_fit, single, rounds),
        compare(
            "WSD E(S), global optimum", "leastsq x 32 starts", many_starts, whole, rounds, note
        ),
        compare("WSD E(S), global + ray polish", "leastsq x 32 starts", many_starts, rays, rounds),
        compare("WSD E(S), warm parametric bootstraps", "leastsq, warm", warm, boot, rounds),
    ]


def classic_row(rounds: int, some: int) -> Row:
    rng = np.random.default_rng(0)
    batch = np.geomspace(1e5, 1e7, 12)
    e = 1e10 * np.exp(rng.normal(0, 0.3, (200_000, 1))) + 1e4 * batch
    noise = np.exp(0.01 * rng.standard_normal(e.shape))
    s, e = e / batch * noise, e * noise

    def scipy_side() -> int:
        for i in range(some):
            optimize.curve_fit(
                lambda x, a, b: b * x / (x - a), s[i] / 1e4, e[i] / 1e10,
                (0.9 * s[i].min() / 1e4, e[i].min() / 1e10), sigma=e[i] / 1e10, maxfev=5000,
            )  # fmt: skip
        return some

    def ours() -> int:
        fitting.fit("classic", s, e, threads=1)
        return len(s)

    return compare("classic law, 12 points", "curve_fit", scipy_side, ours, rounds)


def curve_rows(rounds: int, some: int) -> list[Row]:
    rows = []
    for points, problems in ((100, 4000), (1000, 800), (10_000, 100)):
        rng = np.random.default_rng(points)
        d = np.linspace(1e8, 1e10, points)
        gamma = rng.uniform(0.2, 0.6, (problems, 1))
        y = 2 + rng.uniform(0.5, 1.5, (problems, 1)) * (d / 1e9) ** -gamma
        y *= 1 + 0.005 * rng.standard_normal(y.shape)

        def scipy_side(d=d, y=y, points=points) -> int:
            count = max(some * 100 // points, 4)
            for i in range(count):
                optimize.curve_fit(
                    lambda x, a, b, g: a + b * x**-g, d / 1e9, y[i], (1, 1, 0.5), sigma=y[i]
                )
            return count

        def ours(d=d, y=y) -> int:
            fitting.fit("loss_curve", d, y, threads=1)
            return len(y)

        rows.append(
            compare(
                f"loss curve, {points:,} points", "curve_fit on D/1e9", scipy_side, ours, rounds
            )
        )
    return rows


def power_rows(rounds: int, some: int) -> list[Row]:
    rng = np.random.default_rng(0)
    x = np.exp(rng.uniform([[18], [22]], [[22], [25]], (2, 129)))
    y = 1.8 * x[0] ** -0.7 * x[1] ** 0.3 * np.exp(0.1 * rng.standard_normal(129))
    design = np.stack([np.ones(129), *(np.log(x) - np.log(x).mean(1, keepdims=True))], 1)
    target = np.log(y)

    def ols() -> int:
        draw = np.random.default_rng(1)
        for _ in range(some * 10):
            index = draw.integers(0, 129, 129)
            np.linalg.lstsq(design[index], target[index], rcond=None)
        return some * 10

    def huber() -> int:
        draw = np.random.default_rng(1)
        start = np.linalg.lstsq(design, target, rcond=None)[0]
        for _ in range(max(some // 4, 2)):
            index = draw.integers(0, 129, 129)
            optimize.least_squares(
                lambda c, i=index: design[i] @ c - target[i], start, loss="huber", f_scale=0.05
            )
        return max(some // 4, 2)

    def ours(replicates: int, **options) -> int:
        fitting.fit(
            "power_law", x, y, bootstrap="pairs", replicates=replicates, threads=1, **options
        )
        return replicates

    return [
        compare("power law, 129 rows, OLS bootstraps", "numpy lstsq", ols,
                lambda: ours(100_000), rounds),
        compare("power law, 129 rows, Huber bootstraps", "least_squares huber", huber,
                lambda: ours(20_000, loss="huber", delta=0.05), rounds),
    ]  # fmt: skip


def chinchilla_rows(rounds: int) -> list[Row]:
    path = DATA / "chinchilla" / "svg_extracted_data.csv"
    if path.is_file():
        with path.open() as f:
            table = list(csv.DictReader(f))
        n = np.array([float(r["Model Size"]) for r in table])
        d = np.array([float(r["Training FLOP"]) for r in table]) / 6 / n
        loss = np.array([float(r["loss"]) for r in table])
        keep = np.sort(np.argsort(loss)[:-5])
        n, d, loss = n[keep], d[keep], loss[keep]
    else:
        rng = np.random.default_rng(0)
        n, d = np.exp(rng.uniform([[17], [21]], [[24], [27]], (2, 240)))
        loss = (1.8 + 480 * n**-0.35 + 2100 * d**-0.37) * np.exp(0.007 * rng.standard_normal(240))
    log_n, log_d, log_l = np.log(n), np.log(d), np.log(loss)

    def objective(t: np.ndarray) -> float:
        a, b, e, alpha, beta = t
        terms = np.stack([a - alpha * log_n, b - beta * log_d, np.full_like(log_n, e)])
        top = terms.max(0)
        r = np.abs(top + np.log(np.exp(terms - top).sum(0)) - log_l)
        return float(np.where(r < 1e-3, r * r / 2, 1e-3 * (r - 5e-4)).sum())

    def inits() -> int:
        for k in range(3):
            optimize.minimize(objective, [5.0 * k, 10, 0.5, 0.5, 0.5], method="L-BFGS-B")
        return 3

    def boots() -> int:
        at = [np.log(477.8), np.log(2143.4), np.log(1.817), 0.347, 0.367]
        for _ in range(3):
            optimize.minimize(objective, at, method="BFGS")
        return 3

    x = np.stack([n, d])

    def grid() -> int:
        fitting.fit("chinchilla", x, loss, loss="huber", starts="grid", threads=1)
        return 4500

    def many() -> int:
        fitting.fit(
            "chinchilla", x, loss, loss="huber", bootstrap="pairs", replicates=4000, threads=1
        )
        return 4000

    a = compare("Chinchilla, 240 rows, starts of the grid", "L-BFGS-B", inits, grid, rounds)
    a.note = f"4,500 starts in {4500 / a.rate:.2f} s"
    b = compare("Chinchilla, 240 rows, bootstraps", "BFGS, warm", boots, many, rounds)
    b.note = f"4,000 bootstraps in {4000 / b.rate:.2f} s"
    return [a, b]


@contextmanager
def on_cores(cores: set[int]) -> Iterator[None]:
    """Runs its body on these cores, as far as the system allows, and goes back afterwards."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    with suppress(OSError):
        os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def free_cores() -> set[int]:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def threads_row(rounds: int) -> Row:
    """Wall time of one thread over two: needs two idle cores to mean anything."""
    s, e, _ = tokens_steps_points()
    s, e = np.tile(s, (16, 1)), np.tile(e, (16, 1))
    ratios = []
    for turn in range(rounds + 1):
        wall, found = [], []
        for threads in (1, 2):
            begin = time.perf_counter()
            found.append(fitting.fit("wsd", s, e, threads=threads).values)
            wall.append(time.perf_counter() - begin)
        if not np.array_equal(*found, equal_nan=True):
            raise SystemExit("two threads changed the numbers")
        if turn > 0:  # the first warms up
            ratios.append(wall[0] / wall[1])
    ratio = statistics.median(ratios)
    print(f"{'two threads over one, wall':44s} {'bitwise equal':26s} {ratio:42.2f}x", flush=True)
    return Row("two threads over one, wall", "one thread", 1.0, ratio, ratio, "bitwise equal")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round, fewer scipy fits")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rounds = 1 if arguments.quick else arguments.rounds
    some = 32 if arguments.quick else 128
    with on_cores({min(free_cores())}):
        rows = [
            *wsd_rows(rounds, some),
            classic_row(rounds, some),
            *curve_rows(rounds, some),
            *power_rows(rounds, some),
            *chinchilla_rows(rounds),
        ]
    with on_cores(set(range(os.cpu_count() or 1))):
        if len(free_cores()) > 1:
            rows.append(threads_row(rounds))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
