"""The laws of whole histories by their definition: step by step, every pair of steps and points."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.optimize import brentq


def brute_force(
    p: Mapping[str, float],
    lr: np.ndarray,
    batch: np.ndarray,
    *,
    kernel: str = "power",
    clock: str = "lr",
    excess: str = "none",
    annealing: bool = False,
    saturated: bool = False,
    progress_ref: float = 1.0,
    batch_ref: float = 1.0,
    decay: np.ndarray | None = None,
    log_size: float = 0.0,
) -> np.ndarray:
    """Loss after each step, steps of constant learning rate (over its reference) and batch."""
    scaled = {"L_inf": p["n_L"], "a": p["n_a"], "c": p["n_c"], "c2": p["n_c"]}
    p = {**p, **{name: p[name] * np.exp(-by * log_size) for name, by in scaled.items()}}
    n = len(lr)
    pace = lr ** p["u"] * (batch / batch_ref) ** p["r"] / np.sqrt(1 + p["B_n"] / batch)
    fade = np.zeros(n) if decay is None else p["omega"] * decay
    progress = np.zeros(n + 1)
    for k in range(n):
        gain = 1.0 if fade[k] == 0 else -np.expm1(-fade[k]) / fade[k]
        progress[k + 1] = progress[k] * np.exp(-fade[k]) + pace[k] * gain
    signal = ((p["T0"] + progress) / progress_ref) ** -p["p"] if p["T0"] > 0 else None
    if signal is None:
        with np.errstate(divide="ignore"):
            signal = (progress / progress_ref) ** -p["p"]
    middle = ((p["T0"] + 0.5 * (progress[1:] + progress[:-1])) / progress_ref) ** -p["p"]
    source = lr ** p["x"] * (batch / batch_ref) ** -p["q"]
    source = source * {"none": 1, "plus": 1 + p["g"] * middle, "times": middle}[excess]
    forward = {"lr": lr, "progress": pace, "steps": np.ones(n)}[clock]
    at = np.concatenate([[0.0], np.cumsum(forward)])

    def kept(v: np.ndarray, scale: float | np.ndarray = 1.0) -> np.ndarray:
        if kernel == "power":
            return p["c"] * (1 + v / (p["tau"] * scale)) ** -p["kappa"]
        if kernel == "density":
            out = (1 + v / p["tau"]) ** -p["kappa"]
            return p["c"] * p["tau"] / p["kappa"] * out
        out = p["c"] * np.exp(-v / p["tau"])
        if kernel == "two_exponentials":
            out = out + p["c2"] * np.exp(-v / p["tau2"])
        return out

    loss = np.empty(n)
    for k in range(n):
        back = at[k + 1] - at[: k + 2]
        if annealing:
            jump = source[:k] - source[1 : k + 1]
            noise = kept(np.zeros(1))[0] * source[k]
            noise -= 0.0 if saturated else source[0] * kept(back[:1], lr[0] ** p["gamma"])[0]
            noise += np.sum(jump * kept(back[1 : k + 1], lr[1 : k + 1] ** p["gamma"]))
        else:
            share = np.diff(kept(back))
            noise = np.sum(source[: k + 1] * share)
        loss[k] = p["L_inf"] + p["a"] * signal[k + 1] + noise
    return loss


def walked(
    p: Mapping[str, float],
    lr: np.ndarray,
    batch: np.ndarray,
    *,
    progress_ref: float = 1.0,
    batch_ref: float = 1.0,
    log_size: float = 0.0,
) -> np.ndarray:
    """State equivalence by its words: loss after each step, each from the progress at which a run
    of this step's batch and rate has the loss of now, found by bisection."""
    floor = lr ** p["x"] * (batch / batch_ref) ** -p["q"] * p["c"] * np.exp(-p["n_c"] * log_size)
    pace = lr ** p["u"] * (batch / batch_ref) ** p["r"] / np.sqrt(1 + p["B_n"] / batch)
    a = p["a"] * np.exp(-p["n_a"] * log_size)

    def fixed(progress: float, k: int) -> float:
        return float(floor[k] + a * (progress / progress_ref) ** -p["p"])

    now, out = None, []
    for k in range(len(lr)):
        if now is None:
            now = fixed(p["T0"] + pace[k], k)
        elif now > fixed(1e300, k):
            at = brentq(lambda t, k=k, to=now: fixed(np.exp(t), k) - to, -50, 690, xtol=1e-14)
            now = fixed(np.exp(at) + pace[k], k)
        out.append(now)
    return np.array(out) + p["L_inf"] * np.exp(-p["n_L"] * log_size)
