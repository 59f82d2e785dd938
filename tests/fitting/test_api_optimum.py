"""Whether fits along rays are global, and their standard errors right."""

import numpy as np
import pytest

from megascale import fitting
from megascale.fitting.status import Flag
from megascale.formats.tokens_to_loss import steps_at_batch

Array = np.ndarray
NAMES = ("S_min", "S_1", "S_opt", "S_2", "C", "E_min")


def studies(
    low: float, high: float, points: int, problems: int, seed: int, noise: float = 0.01
) -> tuple[Array, Array, dict[str, Array]]:
    """(S, E) and the truth of piecewise laws measured from `low` to `high` times the best batch."""
    rng = np.random.default_rng(seed)

    def spread(least: float, most: float) -> Array:
        return np.exp(rng.uniform(np.log(least), np.log(most), (problems, 1)))

    s_min = spread(3e3, 3e4)
    s_1 = s_min * (1 + spread(0.3, 1.5))
    s_opt = s_1 + s_min * spread(0.3, 1.5)
    s_2 = s_opt + s_min * spread(0.4, 2)
    e_min = spread(1e9, 1e11)
    curvature = spread(0.1, 0.6) * e_min / (s_2**2 - s_opt**2)
    truth = dict(zip(NAMES, (s_min, s_1, s_opt, s_2, curvature, e_min), strict=True))
    batch = np.geomspace(low, high, points) * e_min / s_opt
    steps = steps_at_batch("wsd", truth, batch)
    kept = np.isfinite(steps).all(axis=1)
    factor = np.exp(noise * rng.standard_normal(steps.shape))
    return (
        (steps * factor)[kept],
        (steps * batch * factor)[kept],
        {name: value[kept, 0] for name, value in truth.items()},
    )


@pytest.mark.parametrize(
    ("low", "high", "points"), [(0.25, 12, 12), (0.4, 4, 12), (0.4, 6, 7)], ids=str
)
def test_no_start_near_the_truth_beats_the_search_unsaid(
    low: float, high: float, points: int
) -> None:
    s, e, truth = studies(low, high, points, 60, seed=5)
    found = fitting.fit("wsd", s, e)
    rng = np.random.default_rng(0)
    best = np.full(len(s), np.inf)
    for width in [0.0, *np.repeat([0.03, 0.1, 0.3], 8)]:
        shaken = {k: v * np.exp(width * rng.standard_normal(len(s))) for k, v in truth.items()}
        joints = np.sort([shaken[k] for k in NAMES[:4]], axis=0) * [[1], [1.01], [1.02], [1.03]]
        shaken.update(zip(NAMES[:4], joints, strict=True))
        other = fitting.fit("wsd", s, e, initial=shaken)
        best = np.where(other.solved, np.fmin(best, other.objective), best)
    hit = found.objective <= best * (1 + 1e-6)
    said = ~found.solved | (found.flags & int(Flag.STARTS_DISAGREE) != 0)
    assert hit.mean() >= 0.98
    assert (~hit & ~said).mean() <= 0.02


@pytest.mark.parametrize("residual", ["relative", "log", "absolute"])
def test_random_starts_in_the_very_residual_rarely_beat_the_search(residual: str) -> None:
    s, e, _ = studies(0.4, 4, 12, 40, seed=6)
    found = fitting.fit("wsd", s, e, residual=residual)
    rng = np.random.default_rng(1)
    best = np.full(len(s), np.inf)
    first, last = s.min(axis=1), s.max(axis=1)
    for _ in range(40):
        s_min = first * (1 - np.exp(rng.uniform(-4, -0.05, len(s))))
        s_opt = s_min + (last - s_min) * np.exp(rng.uniform(-3.5, 0, len(s)))
        s_2 = s_opt + last * np.exp(rng.uniform(-4, 0, len(s)))
        e_min = e.min(axis=1)
        share = np.exp(rng.uniform(-4, 0, len(s)))
        start = {
            "S_min": s_min, "S_1": s_min + (s_opt - s_min) * rng.uniform(0.05, 0.98, len(s)),
            "S_opt": s_opt, "S_2": s_2, "C": share * e_min / (s_2**2 - s_opt**2), "E_min": e_min,
        }  # fmt: skip
        other = fitting.fit("wsd", s, e, residual=residual, initial=start)
        best = np.where(other.solved, np.fmin(best, other.objective), best)
    hit = found.objective <= best * (1 + 1e-6)
    said = ~found.solved | (found.flags & int(Flag.STARTS_DISAGREE) != 0)
    assert hit.mean() >= 0.92
    assert (~hit & ~said).mean() <= 0.06


def test_a_fit_does_not_depend_on_its_neighbours() -> None:
    s, e, _ = studies(0.3, 8, 12, 30, seed=7, noise=0.05)
    for residual in ("ray", "relative"):
        together = fitting.fit("wsd", s, e, residual=residual, threads=2)
        assert together.starts.max() > together.starts.min()  # hard problems take more rounds
        for i in (0, 7, len(s) - 1):
            alone = fitting.fit("wsd", s[i], e[i], residual=residual)
            assert alone.objective[0] == together.objective[i]
            for name in NAMES:
                assert alone[name][0] == together[name][i]
            assert alone.flags[0] == together.flags[i]


def test_a_fixed_value_in_one_problem_changes_no_other() -> None:
    s, e, truth = studies(0.3, 8, 12, 4, seed=8)
    free = fitting.fit("wsd", s, e)
    fixed = np.full(len(s), np.nan)
    fixed[0] = truth["E_min"][0]
    some = fitting.fit("wsd", s, e, fixed={"E_min": fixed})
    assert np.array_equal(some.objective[1:], free.objective[1:])
    assert some["E_min"][0] == truth["E_min"][0]


def test_derived_errors_keep_their_digits() -> None:
    s, e, _ = studies(0.25, 8, 16, 300, seed=2, noise=0.02)
    found = fitting.fit("wsd", s, e)
    for name in ("B_min", "B_opt", "A_1"):
        error = found.errors[name][found.solved]
        assert not (error == 0).any()
    assert np.array_equal(found.errors["B_min"], found.errors["A_1"], equal_nan=True)


def test_derived_errors_are_those_of_a_bootstrap() -> None:
    s, e, _ = studies(0.25, 8, 24, 30, seed=3, noise=0.002)
    found = fitting.fit("wsd", s, e, bootstrap="parametric", replicates=400)
    for name in ("B_opt", "B_min", "E_min"):
        draws = found.replicates(name)
        low, high = np.nanpercentile(draws, [16, 84], axis=1)
        ratio = found.errors[name] / ((high - low) / 2)
        assert 0.7 < np.median(ratio[found.solved]) < 1.5, name


def test_a_parameter_on_a_bound_has_no_error() -> None:
    s, e, truth = studies(0.25, 8, 16, 1, seed=4)
    ceiling = 0.9 * truth["E_min"][0]
    found = fitting.fit("wsd", s[0], e[0], bounds={"E_min": (None, ceiling)})
    assert found["E_min"][0] == ceiling
    assert np.isnan(found.errors["E_min"][0])
    assert found.errors["S_min"][0] > 0
    assert found.flags[0] & int(Flag.AT_BOUND)


def test_a_fixed_parameter_has_an_error_of_zero() -> None:
    s, e, truth = studies(0.25, 8, 16, 1, seed=4)
    found = fitting.fit("wsd", s[0], e[0], fixed={"E_min": truth["E_min"][0]})
    assert found.errors["E_min"][0] == 0
    assert found.errors["B_opt"][0] > 0
