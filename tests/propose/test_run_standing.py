"""A run under way: its history so far, and what its losses tell of its end."""

from __future__ import annotations

import numpy as np
import pytest

from megascale.laws.schedule.discrepancy import LawDiscrepancy
from megascale.laws.schedule.histories import until
from megascale.propose.run_standing import (
    MeasuredSoFar,
    RemainingError,
    remaining_errors,
)
from tests.propose.known_law import known_plan

PLAN = known_plan(((0, 256), (500_000, 1024)), 200_000).history("run")


@pytest.mark.parametrize("share", [0.04, 0.5, 0.7, 0.9, 1.0])
def test_a_history_is_cut_where_the_run_stands(share: float) -> None:
    past = until(PLAN, share * 1e6)
    assert past.total_tokens == share * 1e6
    for tokens in np.linspace(0.01, share * 1e6 - 1, 23):
        ours, whole = (_at(one, tokens) for one in (past, PLAN))
        assert ours == pytest.approx(whole)


def _at(history, tokens: float) -> tuple[float, float]:
    section = int(np.searchsorted(history.tokens, tokens, side="right")) - 1
    begin, end = history.tokens[section], history.tokens[section + 1]
    share = (tokens - begin) / (end - begin)
    rate = history.lr_start[section] * (1 - share) + history.lr_end[section] * share
    return float(history.batch[section]), float(rate)


def standing(tokens: float) -> MeasuredSoFar:
    at = np.linspace(0.7, 1, 10) * tokens
    loss = 3 - at / 1e7 + np.tile([0.01, -0.01], 5)
    return MeasuredSoFar(tokens, 0.0, 10, False, at, loss, until(PLAN, tokens))


def left_of(law: LawDiscrepancy, histories, so_far) -> RemainingError:
    """Of a law whose draws do not scatter."""
    offsets = [None if one is None else np.zeros(5) for one in so_far]
    return remaining_errors(law, histories, so_far, np.zeros((5, len(histories))), offsets)


def test_the_error_that_is_left_shrinks_as_the_run_goes_on() -> None:
    law = LawDiscrepancy((), 0.1, 8.0)
    left = [left_of(law, [PLAN], [standing(t)]) for t in (2e5, 4e5, 6e5, 9e5, 1e6)]
    variance = [one.shared[0, 0] + one.alone[0] for one in left]
    assert (np.diff(variance) < 0).all()
    assert (np.diff([one.weights[0] for one in left]) > 0).all()
    assert variance[0] < 0.01 + law.jitter
    assert variance[-1] == pytest.approx(0, abs=2e-5)
    nothing = left_of(law, [PLAN], [None])
    assert (nothing.weights[0], nothing.shared[0, 0]) == (0, pytest.approx(0.01))
    assert nothing.alone[0] == pytest.approx(law.jitter)


def test_draws_that_go_together_are_told_by_the_past() -> None:
    """A law with next to no error of its own: the end goes with half of the offset by its draws."""
    before = np.random.default_rng(0).normal(0, 0.1, 500)
    law = LawDiscrepancy((), 1e-3, 8.0)
    left = remaining_errors(law, [PLAN], [standing(6e5)], 0.5 * before[:, None], [-before])
    assert left.weights[0] == pytest.approx(0.5, rel=0.02)


def test_an_offset_that_nothing_explains_stays() -> None:
    law = LawDiscrepancy((), 1e-3, 8.0)
    for above, low, high in ((0.0, 0.0, 0.5), (0.1, 0.99, 1.0)):
        offsets = [np.full(5, above)]
        left = remaining_errors(law, [PLAN], [standing(3e5)], np.zeros((5, 1)), offsets)
        assert low <= left.weights[0] <= high


def test_choices_of_one_run_share_what_it_has_shown() -> None:
    """Their difference is surer than that of two schedules of which nothing is measured."""
    law = LawDiscrepancy((), 0.1, 8.0)
    other = known_plan(((0, 256), (500_000, 1024)), 300_000).history("other")
    so_far = standing(6e5)
    shared = left_of(law, [PLAN, other], [so_far, so_far]).shared
    gap = shared[0, 0] + shared[1, 1] - 2 * shared[0, 1]
    assert 0 < np.sqrt(gap) <= law.differences([PLAN], other)[0] * (1 + 1e-9)


def test_the_offset_has_the_error_of_its_jitter() -> None:
    assert standing(6e5).offset_error == pytest.approx(0.01 / np.sqrt(10), rel=0.15)
