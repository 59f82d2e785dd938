"""Forms of eta(B): the one that made the rates is found, and edges of the grid are left out."""

from __future__ import annotations

import numpy as np
import pytest

from megascale.errors import FitError
from megascale.sweep.rate_scaling import (
    best_rates,
    fit_forms,
    rate_scaling_answers,
    rate_vertex,
    scaling_verdict,
)
from tests.sweep.rate_results import result

BATCHES = [256, 512, 1024, 2048, 4096, 8192, 16384]
SHAPES = {
    "linear": lambda b: 1e-6 * b,
    "square root": lambda b: 1e-4 * b**0.5,
    "saturation": lambda b: 0.1 / (1 + 1500 / b),
    "root, then saturation": lambda b: 0.01 / (1 + 1500 / b) ** 0.5,
    "surge": lambda b: 0.01 * 2 / ((1500 / b) ** 0.5 + (b / 1500) ** 0.5),
}


@pytest.mark.parametrize("form", SHAPES)
def test_the_form_that_made_the_rates_is_the_best(form):
    generator = np.random.default_rng(3)
    batches = np.repeat(BATCHES, 3)
    rates = SHAPES[form](batches) * np.exp(generator.normal(0, 0.05, len(batches)))
    forms = fit_forms(batches.tolist(), rates.tolist())
    assert forms[0].form == form
    assert form in scaling_verdict(forms)
    if "B_noise" in forms[0].parameters:
        assert forms[0].parameters["B_noise"] == pytest.approx(1500, rel=0.25)


def test_the_interval_of_the_exponent_covers():
    hits = 0
    for seed in range(60):
        noise = np.random.default_rng(seed).normal(0, 0.1, len(BATCHES))
        rates = 1e-4 * np.array(BATCHES) ** 0.5 * np.exp(noise)
        power = next(one for one in fit_forms(BATCHES, rates.tolist()) if one.form == "power")
        low, high = power.exponent_interval
        hits += low <= 0.5 <= high
    assert hits >= 52  # 95 % of 60 is 57; fewer than 52 has a chance below 1 %


def test_few_or_noisy_rates_choose_no_form():
    few = fit_forms(BATCHES[:4], [1e-4 * batch**0.5 for batch in BATCHES[:4]])
    assert scaling_verdict(few).endswith("too few points to choose a form")
    noise = np.random.default_rng(0).normal(0, 0.5, len(BATCHES))
    noisy = fit_forms(BATCHES, (1e-4 * np.array(BATCHES) ** 0.75 * np.exp(noise)).tolist())
    assert scaling_verdict(noisy).endswith("cannot be told apart")


def test_a_parabola_gives_its_vertex_and_an_edge_nothing():
    rates = [1e-3, 2e-3, 4e-3, 8e-3]
    losses = [3 + (np.log(rate) - np.log(3e-3)) ** 2 for rate in rates]
    assert rate_vertex(rates, losses) == pytest.approx(3e-3)
    assert rate_vertex(rates, [1.0, 2.0, 3.0, 4.0]) is None
    assert rate_vertex(rates, [3.0, 1.0, float("nan"), 4.0]) is None


def test_two_batches_are_too_few():
    with pytest.raises(FitError, match="three batches"):
        fit_forms([256, 512], [1e-3, 2e-3])


def test_answers_are_by_arm_and_name_what_is_left_out():
    results = []
    for seed in (1, 2):
        for batch in (256, 512, 1024, 2048):
            best = 1e-4 * batch**0.5 * (1 + 0.01 * seed)
            for rate in (5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2):
                loss = 3 + (np.log(rate) - np.log(best)) ** 2
                results.append(result("sign", seed, batch, rate, loss))
        for rate in (1e-3, 2e-3, 4e-3):
            results.append(result("sgd", seed, 256, rate, 4 - rate))
    rates, notes = best_rates([one for one in results if one.arm == "sgd"])
    assert rates == []
    assert len(notes) == 2
    sign, sgd = rate_scaling_answers(results)
    assert sign.data["verdict"].startswith("the rate goes with the batch to the 0.50")
    assert "no optimum inside the grid" in sgd.notes[0]
    assert sgd.rows == []
