"""Seeded problems with known truth, in the user's units."""

from __future__ import annotations

import numpy as np


def wsd_truth(problems: int, seed: int) -> dict[str, np.ndarray]:
    """Parameters of piecewise tokens-steps laws of many scales and shapes."""
    rng = np.random.default_rng(seed)

    def spread(low: float, high: float) -> np.ndarray:
        return np.exp(rng.uniform(np.log(low), np.log(high), (problems, 1)))

    s_min = spread(3e3, 3e4)
    b, a, c = s_min * spread(0.4, 1.2), s_min * spread(0.4, 1.5), s_min * spread(0.5, 2.0)
    e_min = spread(1e9, 1e11)
    s_opt = s_min + b + a
    s_2 = s_opt + c
    # The right branch must start above the origin: E_min > C (S_2^2 - S_opt^2).
    curvature = spread(0.15, 0.6) * e_min / (s_2**2 - s_opt**2)
    return {
        "S_min": s_min, "S_1": s_min + b, "S_opt": s_opt, "S_2": s_2, "C": curvature,
        "E_min": e_min,
    }  # fmt: skip


def wsd_tokens(p: dict[str, np.ndarray], s: np.ndarray) -> np.ndarray:
    """The law written out branch by branch from its published coefficients."""
    b = p["S_1"] - p["S_min"]
    a = p["S_opt"] - p["S_1"]
    pole = 2 * p["C"] * a * b**2
    left = pole / (s - p["S_min"]) + p["C"] * a**2 + p["E_min"] - pole / b
    middle = p["C"] * (s - p["S_opt"]) ** 2 + p["E_min"]
    slope = 2 * p["C"] * (p["S_2"] - p["S_opt"])
    right = p["C"] * (p["S_2"] - p["S_opt"]) ** 2 + p["E_min"] + slope * (s - p["S_2"])
    return np.where(s < p["S_1"], left, np.where(s <= p["S_2"], middle, right))


def wsd_points(
    problems: int, points: int, noise: float, seed: int
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """(S, E, truth): batch sizes spread from the pole's side to the right branch, noise along the
    ray E = B S."""
    truth = wsd_truth(problems, seed)
    rng = np.random.default_rng(seed + 1)
    reach = np.linspace(0, 1, points)[None, :]
    low = truth["S_min"] + 0.3 * (truth["S_1"] - truth["S_min"])
    high = truth["S_2"] * 1.7
    s = low * (high / low) ** reach
    e = wsd_tokens(truth, s)
    factor = np.exp(noise * rng.standard_normal(s.shape))
    return s * factor, e * factor, truth


def twelve_batches(
    problems: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(S, E, S_min, E_min) of classic laws over twelve batch sizes with 1 % noise."""
    rng = np.random.default_rng(seed)
    batch = np.geomspace(1e5, 1e7, 12)
    s_min = 1e4 * np.exp(0.5 * rng.standard_normal((problems, 1)))
    e_min = 1e10 * np.exp(0.5 * rng.standard_normal((problems, 1)))
    e = e_min + s_min * batch
    factor = np.exp(0.01 * rng.standard_normal(e.shape))
    return e / batch * factor, e * factor, s_min[:, 0], e_min[:, 0]


def within_nominal(share: float, studies: int, nominal: float = 0.9) -> bool:
    """Whether a share of covered studies may be the nominal one, to 3.3 standard deviations."""
    return abs(share - nominal) <= 3.3 * np.sqrt(nominal * (1 - nominal) / studies)


def power_law_studies(studies: int, points: int, seed: int, noise: float = 0.05) -> tuple:
    rng = np.random.default_rng(seed)
    x = np.broadcast_to(np.geomspace(1, 100, points), (studies, points))
    return x, 3 * x**-0.5 * np.exp(noise * rng.standard_normal(x.shape))
