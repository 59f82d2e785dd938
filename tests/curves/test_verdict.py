"""The sentence that a comparison begins with."""

from __future__ import annotations

import pytest

from megascale.curves.compare import AtLoss, AtTokens, Comparison
from megascale.curves.verdict import verdict


def compared(b: str, difference: float, error: float | None, *, reached: bool = True) -> Comparison:
    end = AtTokens(2e6, 3.0, 3.0 + difference, difference, error, 400, 200, None, None)
    equal = AtLoss(3.1, 1e6, 8e5, 0.8, 0.05, 300, 150, 0.5, None, None)
    at_loss = (equal,) if reached else ()
    return Comparison("base", b, 3.0, 3.0 + difference, (end,), at_loss, (), ())


@pytest.mark.parametrize(
    ("difference", "error", "says"),
    [
        (-0.03, 0.01, "After 2,000,000 tokens each, grown is 0.0300 ± 0.0100 nats below base ("),
        (0.03, 0.01, "base is 0.0300 ± 0.0100 nats below grown ("),
        (-0.019, 0.01, "the runs cannot be told apart: grown is 0.0190 ± 0.0100 nats below base"),
        (-0.03, None, "grown is 0.0300 nats below base; how sure, the logs do not say."),
    ],
)
def test_two_runs(difference, error, says):
    text = verdict([compared("grown", difference, error)])
    assert says in text
    assert ("told apart" in text) == ("told apart" in says)
    assert "To a loss of 3.1000, grown takes 0.800 ± 0.040 of the tokens of base and 0.500" in text


def test_losses_that_no_two_runs_share_are_left_out():
    assert "To a loss" not in verdict([compared("grown", -0.03, 0.01, reached=False)])


def test_many_runs_name_the_lowest_and_count_the_rest():
    found = [compared("x", -0.02, 0.01), compared("y", -0.05, 0.01), compared("z", 0.04, 0.01)]
    text = verdict([*found, compared("w", 0.001, 0.01)])
    assert text.startswith("Lowest is y, 0.0500 ± 0.0100 nats below base after 2M tokens each;")
    assert "of 4 runs 2 end below base, 1 above, and 1 cannot be told" in text


def test_many_runs_of_which_none_is_ahead():
    text = verdict([compared("x", 0.02, 0.01), compared("y", 0.001, 0.01)])
    assert text.startswith("No run is below base at equal tokens: of 2 runs 0 end below")
    nearly = verdict([compared("x", 0.02, 0.01), compared("y", -0.001, 0.01)])
    assert "y, 0.0010 ± 0.0100 nats below base after 2M tokens each, which is within" in nearly
