"""A run under way: its history so far, and what its losses tell of its end."""

from __future__ import annotations

import numpy as np
import pytest

from megascale.laws.schedule.discrepancy import LawDiscrepancy
from megascale.propose.run_standing import MeasuredSoFar, remaining_errors, until
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


def test_the_error_that_is_left_shrinks_as_the_run_goes_on() -> None:
    law = LawDiscrepancy((), 0.1, 8.0)
    left = [remaining_errors(law, [PLAN], [standing(t)])[0][0, 0] for t in (3e5, 6e5, 9e5, 1e6)]
    assert (np.diff(left) < 0).all()
    assert left[-1] == pytest.approx(0, abs=1e-9)
    alone = remaining_errors(law, [PLAN], [None])
    assert alone[0][0, 0] == pytest.approx(0.01)
    assert alone[1][0] == pytest.approx(law.jitter)


def test_choices_of_one_run_share_what_it_has_shown() -> None:
    """The past cancels in their difference."""
    law = LawDiscrepancy((), 0.1, 8.0)
    other = known_plan(((0, 256), (500_000, 1024)), 300_000).history("other")
    so_far = standing(6e5)
    shared, _ = remaining_errors(law, [PLAN, other], [so_far, so_far])
    gap = shared[0, 0] + shared[1, 1] - 2 * shared[0, 1]
    assert np.sqrt(gap) == pytest.approx(law.differences([PLAN], other)[0])


def test_the_offset_has_the_error_of_its_jitter() -> None:
    assert standing(6e5).offset_error == pytest.approx(0.01 / np.sqrt(10), rel=0.15)
