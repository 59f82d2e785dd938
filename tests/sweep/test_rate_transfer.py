"""Transfer against fitting on parabolas whose drift is known."""

from __future__ import annotations

import numpy as np
import pytest

from megascale.sweep.rate_transfer import rate_transfer, rate_transfer_answer
from tests.sweep.rate_results import result

SIZES, RATES = (1000, 4000, 16000), tuple(1e-3 * 2.0**n for n in range(7))


def runs(arm: str, drift: float, seeds=(1, 2), curvature: float = 0.05) -> list:
    found = []
    for seed in seeds:
        for size in SIZES:
            best = 1e-2 * (size / SIZES[0]) ** drift * (1 + 0.02 * seed)
            for rate in RATES:
                loss = 3 + curvature * (np.log(rate) - np.log(best)) ** 2
                found.append(result(arm, seed, 1024, rate, loss, size))
    return found


def test_a_drifting_rate_costs_what_its_parabola_says():
    found = rate_transfer(runs("global", -0.4))
    assert found.drift.mean == pytest.approx(-0.4)
    # the small size's rate is off by 0.4 ln 16 at the largest
    assert found.transfer_cost.mean == pytest.approx(0.05 * (0.4 * np.log(16)) ** 2, rel=1e-6)
    assert found.fitted_cost.mean == pytest.approx(0.0, abs=1e-9)
    assert found.fitted == pytest.approx(1e-2 * 1.03 * 16**-0.4, rel=1e-3)


def test_a_rate_that_stays_costs_nothing():
    found = rate_transfer(runs("mup", 0.0))
    assert found.drift.mean == pytest.approx(0.0, abs=1e-9)
    assert found.transfer_cost.mean == pytest.approx(0.0, abs=1e-9)


def test_a_seed_without_an_optimum_is_left_out_and_named():
    every = runs("mup", 0.0)
    every += [result("mup", 3, 1024, rate, 3 - rate, size) for size in SIZES for rate in RATES]
    assert rate_transfer(every).left_out == [3]
    answer = rate_transfer_answer(every + runs("edge", 2.0))
    assert len(answer.rows) == 1
    assert any("seeds 3" in note for note in answer.notes)
    assert any(note.startswith("edge: no seed") for note in answer.notes)
