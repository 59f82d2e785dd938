"""One loss surface, or a law at every target loss: what a study can carry."""

from __future__ import annotations

import numpy as np
import pytest

from megascale.curves.table import curves_from_table
from megascale.laws.batch.points import at_peak_rate, choose_targets, extract
from megascale.laws.batch.study import AUTO, study_batches
from megascale.laws.batch.surface_choice import few_batches, surface_or_laws
from tests.curves.simulated import Truth, run_table


class Sharp(Truth):
    """Data and noise do not add: the larger of the two decides, which no surface holds."""

    def loss(self, steps: np.ndarray, batch: float) -> np.ndarray:
        learned, floor = self.a * steps**-self.p, self.c * batch**-self.q
        return self.floor + (learned**3 + floor**3) ** (1 / 3)


@pytest.mark.parametrize(("truth", "taken"), [(Truth(), True), (Sharp(), False)])
def test_batches_left_out_decide(truth, taken):
    curves = curves_from_table(run_table(truth, noise=0.005)).constant_batch()
    points = extract(curves, choose_targets(curves)).points
    study = study_batches(at_peak_rate(points), AUTO, replicates=10, confidence=0.9, seed=0)
    choice = surface_or_laws(curves, points, study.selection, study.law)
    assert choice is not None
    assert choice.taken == taken
    assert (choice.held_out < 0.02) == taken
    assert study.law in choice.reason


def test_few_batch_sizes_carry_the_surface_alone():
    curves = curves_from_table(run_table(Truth())).constant_batch()
    by_size = sorted(curves, key=lambda curve: curve.batch_tokens or 0)
    assert few_batches(by_size) is None
    four = few_batches(by_size[:4])
    assert four is not None
    assert four.taken
    assert "4 batch sizes determine one loss surface" in four.reason
    assert few_batches(by_size[:3]) is None
