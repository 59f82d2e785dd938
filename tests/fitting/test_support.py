"""Fits that the solver calls converged and their own points refute."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars
import pytest
from typer.testing import CliRunner

from megascale import fitting
from megascale.errors import EXIT_DONE, EXIT_FIT
from megascale.fitting.catalogue import laws
from megascale.fitting.points import collect
from megascale.fitting.status import Flag, Status, flag_words
from megascale.fitting.support import stated_noise, unsupported
from megascale.verbs.fit import app

BATCH = 2.0 ** np.arange(15, 25)


def bowl(batch: np.ndarray) -> np.ndarray:
    """E(B) of a two-power law, in tokens; its best batch is 2^20 x 0.9 / 1.4."""
    return 3e9 * (batch / 2**20) ** -0.3 + 2e9 * (batch / 2**20) ** 0.7


def test_noise_by_repeats_is_the_pooled_deviation() -> None:
    rng = np.random.default_rng(0)
    x = np.repeat(np.arange(6.0), 4)
    y = x**2 + rng.standard_normal(24)
    groups = y.reshape(6, 4)
    pooled = np.sqrt(groups.var(axis=1, ddof=1).mean())
    mixed = rng.permutation(24)
    found = stated_noise(x[mixed], y[mixed], np.zeros(24, dtype=int), 1)
    assert found[0] == pytest.approx(pooled, rel=1e-12)


def test_noise_by_second_differences() -> None:
    rng = np.random.default_rng(1)
    x = np.tile(np.cumsum(rng.uniform(0.5, 2, 400)), 2)
    owner = np.repeat([0, 1], 400)
    y = 3 - 2 * x + np.where(owner == 1, 0.05, 0.0) * rng.standard_normal(800)
    noise = stated_noise(x, y, owner, 2)
    assert noise[0] < 1e-9
    assert noise[1] == pytest.approx(0.05, rel=0.1)
    # Four points have two second differences, which state nothing.
    assert np.isinf(stated_noise(x[:4], y[:4], owner[:4], 1)[0])


def test_a_law_of_the_wrong_shape_is_unsupported() -> None:
    """The classic law has no minimum; these points have one a third below their ends."""
    tokens = bowl(BATCH)
    result = fitting.fit("classic", tokens / BATCH, tokens)
    assert result.solved.all()
    assert not result.converged.any()
    assert result.status[0] == Status.UNSUPPORTED
    assert flag_words(result.flags[0]) == ["above_noise"]
    assert "unsupported" in repr(result)
    assert "far above the noise" in repr(result)
    right = fitting.fit("two_power", tokens / BATCH, tokens)
    assert right.converged.all()


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_right_law_is_hardly_ever_refuted(seeds: int) -> None:
    rng = np.random.default_rng(2)
    batch = np.repeat(BATCH, seeds)
    tokens = bowl(batch) * np.exp(0.02 * rng.standard_normal((300, len(batch))))
    result = fitting.fit("two_power", tokens / batch, tokens)
    assert result.solved.all()
    assert (~result.converged).sum() <= 2


def test_seeds_refute_what_roughness_cannot() -> None:
    """A bend of 4 % at five batches: too few for second differences, plain beside the seeds."""
    rng = np.random.default_rng(3)
    batch = np.repeat(BATCH[:5], 3)
    tokens = (1e9 + 1e3 * batch) * (1 + 0.04 * np.cos(2 * np.log2(batch)))
    tokens *= np.exp(1e-3 * rng.standard_normal(len(batch)))
    one = fitting.fit("classic", tokens[::3] / batch[::3], tokens[::3])
    many = fitting.fit("classic", tokens / batch, tokens)
    assert one.converged.all()
    assert flag_words(many.flags[0]) == ["above_noise"]


def test_an_optimum_outside_the_points_is_no_finding() -> None:
    tokens = bowl(BATCH[6:])  # the minimum, at 0.64 x 2^20, lies below them all
    result = fitting.fit("two_power", tokens / BATCH[6:], tokens)
    assert result.solved.all()
    assert flag_words(result.flags[0])[-1] == "outside"
    assert result.status[0] == Status.UNSUPPORTED
    rates = np.array([1e-4, 2e-4, 4e-4, 8e-4])
    loss = 2 + 0.1 * np.log(rates / 2e-3) ** 2
    quadratic = fitting.fit("log_quadratic", rates, loss)
    assert quadratic["eta_opt"][0] == pytest.approx(2e-3)
    assert quadratic.status[0] == Status.UNSUPPORTED
    inside = fitting.fit("log_quadratic", rates, 2 + 0.1 * np.log(rates / 3e-4) ** 2)
    assert inside.converged.all()


def test_a_batch_below_b_min_that_reached_the_loss() -> None:
    """noise_floor with B_min = 2^16, and a point at 2^15; the same point with weight zero."""
    points = collect(bowl(BATCH) / BATCH, bowl(BATCH))
    params = {"S_min": 1e3, "B_min": 2.0**16, "p": 1.0, "q": 1.0}
    arrays = {name: np.array([value]) for name, value in params.items()}
    best = {"B_opt": np.array([2.0**17])}
    found = unsupported(laws()["noise_floor"], arrays, best, points, None)
    assert found[0] & Flag.NEVER_REACHED
    silent = np.where(BATCH > 2**16, 1.0, 0.0)
    found = unsupported(laws()["noise_floor"], arrays, best, points, silent)
    assert not found[0] & Flag.NEVER_REACHED


def test_the_command_line_says_so(tmp_path: Path) -> None:
    tokens = bowl(BATCH)
    path = tmp_path / "points.csv"
    polars.DataFrame({"S": tokens / BATCH, "E": tokens}).write_csv(path)
    run = CliRunner().invoke(app, [str(path), "--law", "classic"])
    assert run.exit_code == EXIT_FIT
    assert "far above the noise" in run.stdout
    run = CliRunner().invoke(app, [str(path), "--law", "classic", "--json"])
    assert json.loads(run.stdout)["problems"][0]["status"] == "unsupported"
    assert CliRunner().invoke(app, [str(path), "--law", "two_power"]).exit_code == EXIT_DONE
