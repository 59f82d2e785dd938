"""The law's own error: narrow among the fitted schedules, wide away from them."""

from __future__ import annotations

import numpy as np
import pytest

from megascale.fitting.history import History
from megascale.laws.schedule.discrepancy import JITTER, REACH, LawDiscrepancy
from megascale.laws.schedule.outline import ScheduleOutline


def fixed(batch: float, peak: float = 5e-3) -> History:
    return History.of_sections([0, 1e6], batch, peak)


def error_of(histories: dict[str, History], errors: dict[str, float]) -> LawDiscrepancy:
    outlines = {name: ScheduleOutline.of_history(one) for name, one in histories.items()}
    return LawDiscrepancy.of_left_out(outlines, errors)


GRID = {str(b): fixed(b) for b in (256, 512, 1024, 2048)}


def test_a_schedule_like_the_fitted_ones_is_surer() -> None:
    own = error_of(GRID, dict.fromkeys(GRID, 0.01))
    levels = own.levels([fixed(b) for b in (512, 724, 256, 128, 64, 8, 1)])
    assert levels[1] == pytest.approx(levels[0], rel=0.2)
    assert (np.diff(levels[2:]) > 0).all()
    assert levels[-1] == pytest.approx(own.scale * np.sqrt(1 + JITTER))


def test_one_odd_schedule_does_not_widen_all() -> None:
    """A schedule with another peak is missed by 0.1, the others by 0.005: the law is unsure of
    other peaks, and not ten times less sure of the batches in between."""
    odd = GRID | {"low peak": fixed(512, 3e-3)}
    errors = dict.fromkeys(GRID, 0.005) | {"low peak": 0.1}
    own = error_of(odd, errors)
    inside, outside = own.levels([fixed(724), fixed(512, 1.5e-3)])
    level = np.sqrt(np.mean(np.square(list(errors.values()))))
    assert inside < 0.5 * level < level < outside


def test_what_the_fit_leaves_moves_schedules_that_are_alike() -> None:
    """The law lies 0.03 above a batch of 2,048 and meets the others: it is moved there, and hardly
    at a batch that is far from it."""
    outlines = {name: ScheduleOutline.of_history(one) for name, one in GRID.items()}
    errors = dict.fromkeys(GRID, 0.05)
    left = dict.fromkeys(GRID, 0.0) | {"2048": 0.03}
    own = LawDiscrepancy.of_left_out(outlines, errors, left)
    at, near, far = own.shifts([fixed(2048), fixed(2400), fixed(1)])
    assert at == pytest.approx(-0.03, rel=0.2)
    assert near == pytest.approx(at, rel=0.4)
    assert abs(far) < 0.003
    assert error_of(GRID, errors).shifts([fixed(2048)]) == 0


def test_differences_of_like_schedules_are_surer_than_levels() -> None:
    own = error_of(GRID, {"256": 0.02, "512": 0.03, "1024": 0.02, "2048": -0.03})
    near, far, same = own.differences([fixed(150), fixed(4096), fixed(128)], fixed(128))
    assert same == 0
    assert near < own.levels([fixed(128)])[0]
    assert near < far
    covariance = own.covariance([fixed(4096), fixed(128)])
    known = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert far == pytest.approx(np.sqrt(known))


@pytest.mark.parametrize("scale", [0.01, 0.1])
def test_the_scale_of_a_known_process_is_found(scale: float) -> None:
    """Errors drawn from the process itself, each left out in turn and foretold by the others."""
    rng = np.random.default_rng(3)
    histories = {f"{i}": fixed(b, p) for i, (b, p) in enumerate(
        zip(2 ** rng.uniform(6, 12, 12), 2 ** rng.uniform(-9, -7, 12), strict=True)
    )}  # fmt: skip
    prior = LawDiscrepancy((), 1.0, 1.0)
    shared = prior.covariance(list(histories.values())) + JITTER * np.eye(12)
    inverse = np.linalg.inv(shared)
    found = []
    for _ in range(200):
        drawn = scale * np.linalg.cholesky(shared) @ rng.standard_normal(12)
        left_out = inverse @ drawn / np.diag(inverse)
        found.append(error_of(histories, dict(zip(histories, left_out, strict=True))).scale ** 2)
    assert np.mean(found) == pytest.approx(scale**2, rel=0.1)


def test_two_schedules_as_unlike_as_the_reach_still_share_some_error() -> None:
    prior = LawDiscrepancy((), 1.0, 1.0)
    far = fixed(256 * 2**REACH)
    assert prior.covariance([fixed(256), far])[0, 1] == pytest.approx(np.exp(-0.5))
