"""The functional scaling law as its paper writes it, by quadrature in continuous time."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.integrate import quad

from megascale.fitting.history import History
from megascale.fitting.history_law import FORMS, NAMES
from megascale.fitting.history_result import Scales, predict_history

PEAK, REF = 1e-2, 512.0
SECTIONS = [(0.0, 4e5, 256.0, 1.0), (4e5, 7e5, 1024.0, 1.0), (7e5, 1e6, 1024.0, 0.3)]
"""Tokens, batch and learning rate over the peak."""


def written(tokens: float, beta: float, s: float, sigma2: float, a: float, noise: float) -> float:
    """arXiv 2509.19189: (1 + t)^-s plus the integral of (1 + t - r)^-(2 - 1/beta) times
    ((1 + r)^-s + sigma^2) LR / B over intrinsic time r, the sum of learning rates."""

    def time(at: float) -> float:
        parts = ((min(at, end) - begin) / batch * e for begin, end, batch, e in SECTIONS)
        return sum(part for part in parts if part > 0)

    now = time(tokens)
    total = a * (1 + now) ** -s
    for begin, end, batch, e in SECTIONS:
        if begin >= tokens:
            continue

        def rate(r: float, batch: float = batch, e: float = e) -> float:
            return (1 + now - r) ** -(2 - 1 / beta) * (a * (1 + r) ** -s + sigma2) * e * REF / batch

        first, last = time(begin), time(min(end, tokens))
        cuts = [first, *(last - (last - first) * 10.0**-k for k in range(1, 6)), last]
        total += noise * sum(
            quad(rate, left, right, epsabs=1e-12, epsrel=1e-10)[0]
            for left, right in itertools.pairwise(cuts)
        )
    return total


@pytest.mark.parametrize("form", ["fsl", "surrogate"])
@pytest.mark.parametrize("beta", [1.3, 2.0, 4.0])
def test_the_recursion_is_the_papers_integral(form: str, beta: float) -> None:
    s, sigma2, a, noise = 0.6, 0.4, 1.5, 0.05
    scales = Scales(lr=PEAK, batch=REF, progress=1.0)
    point = {
        **FORMS[form].fixed, "L_inf": 2.0, "a": a, "p": s, "T0": 1.0, "tau": 1.0,
        "kappa": 1 - 1 / beta, "c": noise * sigma2, "g": a / sigma2,
    }  # fmt: skip
    edges = [0.0, *(end for _, end, _, _ in SECTIONS)]
    batch, rate = ([part[i] for part in SECTIONS] for i in (2, 3))
    history = History.of_sections(edges, batch, np.array(rate) * PEAK)
    at = np.array([2e5, 4e5, 4.2e5, 6.9e5, 7.2e5, 1e6])
    got, _ = predict_history(form, [point[name] for name in NAMES], history, at, scales)
    want = [2.0 + written(tokens, beta, s, sigma2, a, noise) for tokens in at]
    # The excess is taken in the middle of pieces that grow by 15 %, whole steps the first ones.
    np.testing.assert_allclose(got[0], want, rtol=0, atol=2e-3)
