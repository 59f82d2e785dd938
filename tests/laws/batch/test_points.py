"""(S, E) points against runs whose loss is known in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from megascale.curves.table import curves_from_table
from megascale.errors import FitError
from megascale.laws.batch.points import choose_targets, extract
from tests.curves.simulated import Truth, run_table

TRUTH = Truth()


def test_extracted_tokens_are_the_true_ones() -> None:
    curves = curves_from_table(run_table(TRUTH, seed=5)).curves
    found = extract(curves, choose_targets(curves))
    truth = np.array(
        [
            TRUTH.tokens_to(target, batch)
            for target, batch in found.points.select("target_loss", "batch_tokens").iter_rows()
        ]
    )
    miss = np.log(found.points["tokens"].to_numpy() / truth)
    assert len(miss) > 40
    assert np.sqrt(np.mean(miss**2)) < 0.02
    z = miss / found.points["log_error"].to_numpy()
    assert 0.5 < np.sqrt(np.mean(z**2)) < 1.5
    # E = B S to the last bit.
    points = found.points
    assert (points["steps"] == points["tokens"] / points["batch_tokens"]).all()
    # What is missing was not reached by the run, and nothing is extrapolated.
    assert found.missed["reason"].str.contains("not reached").all()


def test_targets_enclose_a_best_batch() -> None:
    curves = curves_from_table(run_table(TRUTH, noise=0.003)).curves
    targets = choose_targets(curves, 6)
    assert targets == sorted(targets, reverse=True)
    best = [TRUTH.best_batch(target) for target in targets]
    assert min(best) > 16384
    with pytest.raises(FitError, match="at least 12"):
        choose_targets(curves, min_batches=12)
