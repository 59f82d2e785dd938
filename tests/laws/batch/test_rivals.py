"""What other laws add to the error of the best batch."""

from __future__ import annotations

import numpy as np
import pytest

from megascale.laws.batch.batch_power import fit_batch_power
from megascale.laws.batch.from_points import batch_law_from_points
from megascale.laws.batch.optimum import optimal_batches
from megascale.laws.batch.rivals import Rival, independent_share, log_distances, rivals_of
from megascale.laws.batch.select import select
from megascale.laws.batch.tokens_steps import fit_tokens_steps
from megascale.laws.law_files import Naming
from tests.laws.batch.simulated import FAMILY_TOKENS, family_best, family_points

POINTS = family_points("noise_floor", 0, 9)


def test_weights_are_those_of_aicc_scaled_to_independent_targets() -> None:
    selection = select(POINTS, ("two_power", "noise_floor", "classic"))
    (rival,) = rivals_of("two_power", selection)
    assert rival.fits.law == "noise_floor"
    by_law = {verdict.law: verdict.pooled_aicc for verdict in selection.verdicts}
    share = independent_share(selection.fits["noise_floor"])
    gap = share * (by_law["two_power"] - by_law["noise_floor"])
    assert 1 / 8 <= share < 1
    assert rival.weight == pytest.approx(1 / (1 + np.exp(-gap / 2)))
    (other,) = rivals_of("noise_floor", selection)
    assert other.weight + rival.weight == pytest.approx(1)


def test_targets_that_move_together_count_once() -> None:
    alone = family_points("two_power", 3, 9, delay=0.0)
    together = family_points("two_power", 3, 9, delay=0.05)
    shares = [independent_share(fit_tokens_steps(p, "two_power")) for p in (alone, together)]
    assert shares[0] > 1.5 * shares[1]
    assert shares[1] < 0.3


def test_a_distance_is_the_logarithm_of_the_ratio() -> None:
    own, other = (fit_tokens_steps(POINTS, law) for law in ("two_power", "noise_floor"))
    ((weight, away),) = log_distances(own, [Rival(other, 0.7)], "B_opt")
    assert weight == 0.7
    assert away == pytest.approx(np.log(other.optimum()["B_opt"] / own.optimum()["B_opt"]))
    ((_, none),) = log_distances(own, [Rival(other, 0.7)], "B_min")
    assert np.isnan(none).all()


def test_a_worse_law_is_widened_by_its_distance_to_the_better_one() -> None:
    fits = fit_tokens_steps(POINTS, "two_power")
    alone = optimal_batches(fits)
    rivals = rivals_of("two_power", select(POINTS, ("two_power", "noise_floor")))
    wide = optimal_batches(fits, rivals=rivals)
    assert wide.table["batch_tokens"].equals(alone.table["batch_tokens"])
    ratio = np.log(wide.table["high"] / wide.table["low"]) / np.log(
        alone.table["high"] / alone.table["low"]
    )
    assert (ratio > 1).all()
    for tokens in (FAMILY_TOKENS[0], FAMILY_TOKENS[-1], 10 * FAMILY_TOKENS[-1]):
        narrow = fit_batch_power(alone).law
        low, high = fit_batch_power(wide).law.band(None, tokens)
        assert low <= family_best(tokens) <= high
        assert np.log(high / low) > np.log(np.divide(*narrow.band(None, tokens)[::-1]))


def test_the_file_says_how_much_others_weigh() -> None:
    made = batch_law_from_points(POINTS, "two_power", Naming("x"))
    weights = made.file.diagnostics["rival_weights"]
    assert weights["noise_floor"] > 0.9
    assert made.warnings
