"""Which law the points support, when a law never reaches one of them."""

import numpy as np
import polars as pl
import pytest

from megascale.laws.batch.select import select
from megascale.laws.batch.tokens_steps import TokensStepsFits


def studies(groups: int) -> pl.DataFrame:
    """Points of the noise-floor law at 12 batches a target, with errors of 1 %."""
    rng = np.random.default_rng(0)
    rows = []
    for g in range(groups):
        batch = np.geomspace(2e5, 2e7, 12)
        tokens = 4e9 * (1 + g) * (1 + batch / 2e6) / (1 - (1e5 / batch) ** 0.8) ** 0.5
        tokens *= np.exp(0.01 * rng.standard_normal(12))
        rows += [
            {"n_params": 1e9, "lr": 1e-3, "target_loss": 3.0 - 0.1 * g, "batch_tokens": b,
             "tokens": t, "steps": t / b, "seed": 0, "run": f"b{b:.0f}"}
            for b, t in zip(batch, tokens, strict=True)
        ]  # fmt: skip
    return pl.DataFrame(rows)


def test_one_unreachable_batch_does_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    points = studies(3)
    whole = select(points, ["wsd", "noise_floor"])
    plain = TokensStepsFits.log_residuals

    def with_a_hole(fits: TokensStepsFits) -> np.ndarray:
        residual = plain(fits).copy()
        if fits.law == whole.best:
            residual[0] = np.nan
        return residual

    monkeypatch.setattr(TokensStepsFits, "log_residuals", with_a_hole)
    found = select(points, ["wsd", "noise_floor"])
    assert found.best == whole.best
    assert all(np.isfinite(verdict.pooled_aicc) for verdict in found.verdicts)
    assert [verdict.groups for verdict in found.verdicts] == [2, 2]
    assert found.verdicts[0].unreachable == whole.verdicts[0].unreachable + 1
