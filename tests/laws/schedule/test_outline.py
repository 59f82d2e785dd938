"""How unlike schedules are."""

from __future__ import annotations

import numpy as np
import pytest

from megascale.fitting.history import History
from megascale.laws.schedule.outline import ScheduleOutline, unlikeness

TOTAL = 1e6


def outline(batches=((0, 256),), peak=5e-3, decay=0.0, total=TOTAL) -> ScheduleOutline:
    def lr(tokens: float) -> float:
        left = (total - tokens) / (decay * total) if decay else 1.0
        return peak * min(1.0, max(left, 0.0))

    return ScheduleOutline.of_history(History.of_schedule(batches, lr, total))


def test_a_doubling_of_everything_is_a_stated_distance() -> None:
    base = outline()
    others = [outline(((0, 512),)), outline(peak=1e-2), outline(total=2 * TOTAL)]
    np.testing.assert_allclose(unlikeness([base], others), [[1.0, 2.0, 1.0]])
    assert unlikeness([base], [base])[0, 0] == 0


def test_a_change_counts_by_the_share_that_it_holds_and_more_at_the_end() -> None:
    """Half of the weight is even over the run, half lies on the last fifth."""
    base = outline()
    early, late = outline(((0, 512), (500_000, 256))), outline(((0, 256), (500_000, 512)))
    found = unlikeness([base], [early, late])[0]
    np.testing.assert_allclose(found**2, [0.25, 0.75])


def test_the_longer_decay_is_farther_from_none() -> None:
    none, short, long = outline(), outline(decay=0.1), outline(decay=0.4)
    to_short, to_long = unlikeness([none], [short, long])[0]
    assert 0 < to_short < to_long
    assert to_long <= unlikeness([none], [short])[0, 0] + unlikeness([short], [long])[0, 0]


def test_outlines_of_a_log_and_of_its_plan_agree() -> None:
    edges = np.linspace(0, TOTAL, 201)
    batch = np.where(edges[:-1] < 500_000, 256, 1024)
    logged = ScheduleOutline.of_history(History.of_sections(edges, batch, 5e-3))
    planned = outline(((0, 256), (500_000, 1024)))
    assert unlikeness([logged], [planned])[0, 0] == pytest.approx(0, abs=1e-6)
