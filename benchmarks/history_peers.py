"""A law of whole histories, one core: the engine beside scipy on the same runs.

    OMP_NUM_THREADS=1 python benchmarks/history_peers.py [--starts 64] [--json FILE]

Twelve simulated runs of 200 points. The engine does the whole job: all starts and the bootstrap.
scipy's `least_squares` (trf, finite differences) does single starts on two numpy models, and its
time is scaled to as many starts:

- `steps`: the law by its definition, every step against every point, one matrix a run;
- `pieces`: the same after cutting histories into pieces of constant batch and learning rate, which
  is the engine's own preparation, as matrices of pieces by points.

Both sides reach the same optimum from their starts; the table says how often.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import optimize

from megascale.fitting import FORMS, History, HistoryRun, Scales, fit_history
from megascale.fitting.history import cut
from megascale.fitting.history_law import NAMES, starts_of
from megascale.fitting.history_result import predict_history

SCALES = Scales(lr=5e-3, batch=512.0, progress=2500.0)
TRUTH = {"L_inf": 2.0, "a": 1.0, "p": 0.4, "c": 0.3, "x": 0.7, "q": 0.35, "tau": 20.0, "kappa": 0.6}
FREE = ("L_inf", "a", "p", "c", "x", "q", "tau", "kappa")
LOWER = [0, 0, 0.02, 0, -1, -0.5, 1e-2, 0.02]
UPPER = [np.inf, np.inf, 5, np.inf, 4, 3, 1e12, 10]


def made_runs() -> list[HistoryRun]:
    """Twelve schedules of 1M tokens, 200 losses each, noise of 0.01."""
    rng = np.random.default_rng(0)
    plans = []
    for final in (1.0, 0.1):
        for batch in (256, 512, 1024):
            plans.append(([(0, batch)], final))
        plans += [([(0, 256), (5e5, 2048)], final), ([(0, 1024), (5e5, 256)], final)]
        plans.append(([(0, 256), (2e5, 512), (4e5, 1024), (6e5, 2048)], final))
    runs = []
    for batch, final in plans:

        def lr(tokens: float, final: float = final) -> float:
            fall = (1 - final) * max(tokens - 8e5, 0) / 2e5
            return 5e-3 * min(1, tokens / 5e4) * (1 - fall)

        history = History.of_schedule(batch, lr, 1e6, marks=[5e4, 8e5], samples=20)
        tokens = np.linspace(5e3, 1e6, 200)
        point = [TRUTH.get(n, FORMS["power"].fixed.get(n, 0.0)) for n in NAMES]
        loss, _ = predict_history("power", point, history, tokens, SCALES)
        runs.append(HistoryRun(history, tokens, loss[0] + 0.01 * rng.normal(size=200)))
    return runs


def model(runs: list[HistoryRun], *, whole_steps: bool) -> Callable[[np.ndarray], np.ndarray]:
    """Residuals of all runs as a numpy function of the free parameters."""
    parts = []
    for run in runs:
        columns = cut([run.history], [run.tokens], SCALES.lr, growing=False).columns
        steps, lr, batch = columns["steps"], columns["lr"], columns["batch"]
        ends = columns["ends"]
        if whole_steps:
            many = np.maximum(np.round(steps).astype(int), 1)
            ends = np.cumsum(many)[ends - 1]
            lr, batch, steps = (np.repeat(v, many) for v in (lr, batch, steps / many))
        clock = np.concatenate([[0.0], np.cumsum(lr * steps)])
        progress = np.cumsum(lr * steps * np.sqrt(batch / SCALES.batch))[ends - 1]
        back = np.maximum(clock[ends][:, None] - clock[None, :], 0.0)
        parts.append((np.log(lr), np.log(batch / SCALES.batch), progress, back, run.loss))

    def residuals(t: np.ndarray) -> np.ndarray:
        l_inf, a, p, c, x, q, tau, kappa = t
        out = []
        for log_lr, log_batch, progress, back, loss in parts:
            kept = (1 + back / tau) ** -kappa
            noise = np.diff(kept, axis=1) @ np.exp(x * log_lr - q * log_batch)
            out.append(l_inf + a * (progress / SCALES.progress) ** -p + c * noise - loss)
        return np.concatenate(out)

    return residuals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--starts", type=int, default=64)
    parser.add_argument("--bootstrap", type=int, default=200)
    parser.add_argument("--peer-starts", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    runs = made_runs()
    begin = time.process_time()
    fit = fit_history("power", runs, starts=options.starts, threads=1, scales=SCALES)
    search = time.process_time() - begin
    begin = time.process_time()
    fit_history(
        "power", runs, starts=1, bootstrap=options.bootstrap, threads=1, scales=SCALES,
        initial={n: fit[n] for n in FREE},
    )  # fmt: skip
    boot = time.process_time() - begin
    each = search / options.starts
    print(f"engine: {options.starts} starts {search:.2f} s, {options.bootstrap} replicates "
          f"{boot:.2f} s, rms {fit.rms:.5f}, {fit.agreeing} agree")  # fmt: skip
    rows = {"engine_start_s": each, "engine_bootstrap_s": boot, "engine_agreeing": fit.agreeing}
    table = starts_of(FORMS["power"], options.peer_starts, 4000.0, SCALES.batch)
    for whole in (False, True):
        residuals = model(runs, whole_steps=whole)
        begin, good = time.process_time(), 0
        for start in table[: 1 if whole else None]:
            t = np.array([start[NAMES.index(n)] for n in FREE])
            t[0], t[1], t[3] = 1.0, 1.0, 0.1
            found = optimize.least_squares(
                residuals, t, bounds=(LOWER, UPPER), x_scale=np.maximum(np.abs(t), 0.1)
            )
            good += 2 * found.cost < fit.objective * (1 + 1e-3)
        count = 1 if whole else len(table)
        spent = (time.process_time() - begin) / count
        name = "steps" if whole else "pieces"
        print(f"scipy, {name}: {spent:.2f} s a start, {good} of {count} agree, "
              f"ratio {spent / each:.0f}")  # fmt: skip
        rows |= {f"scipy_{name}_start_s": spent, f"ratio_{name}": spent / each}
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
