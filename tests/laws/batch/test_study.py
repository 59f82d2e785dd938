"""What the points say about the best batch, and when they leave it open."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from megascale.laws.batch.study import left_open
from megascale.laws.power import PowerLaw


def test_optima_that_leave_their_law_open():
    two = PowerLaw(1.0, 0.0, 0.8, np.diag([400.0, 0.0, 1.0]), 0.1, 0.9, 2, False, None, (1e5, 4e5))
    assert "2 optima do not determine it" in left_open(two, [None], 0.9)
    sure = replace(two, covariance=np.diag([0.0, 0.0, 1e-6]), points=9)
    assert left_open(sure, [None], 0.9) == ""
