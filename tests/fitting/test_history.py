"""Laws of whole histories: against brute force, their own derivatives, and known special cases."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from megascale.errors import FitError
from megascale.fitting.history import RESOLUTION, History, cut
from megascale.fitting.history_fit import fit_history
from megascale.fitting.history_law import FORMS, LOG, NAMES, HistoryLaw
from megascale.fitting.history_result import HistoryRun, Scales, predict_history
from tests.fitting.history_oracle import brute_force, walked

TRUTH = {
    "L_inf": 1.7, "a": 0.9, "p": 0.4, "T0": 20.0, "u": 0.9, "r": 0.45, "B_n": 150.0, "omega": 0.7,
    "c": 0.3, "x": 0.8, "q": 0.35, "tau": 9.0, "kappa": 0.6, "c2": 0.2, "tau2": 70.0,
    "gamma": 0.4, "g": 0.5, "n_L": 0.1, "n_a": 0.2, "n_c": 0.3,
}  # fmt: skip
SCALES = Scales(lr=5e-3, batch=256.0, progress=300.0, n_params=1e6)
KINDS = [
    ("power", "lr", "none", False),
    ("power", "progress", "none", False),
    ("power", "steps", "plus", False),
    ("power", "progress", "times", False),
    ("exponential", "lr", "none", False),
    ("exponential", "progress", "plus", False),
    ("exponential", "steps", "none", True),
    ("two_exponentials", "lr", "none", False),
    ("density", "lr", "plus", False),
    ("power", "lr", "none", True),
    ("power", "progress", "none", True),
]


def staircase(decays: bool = True, n_params: float = 3e6) -> tuple[np.ndarray, np.ndarray, History]:
    """400 steps: warmup, a batch that grows and shrinks, a decay, step by step and as sections."""
    lr = np.ones(400)
    lr[:30] = (np.arange(30) + 0.5) / 30
    lr[300:] = np.linspace(1, 0.1, 100)
    batch = np.repeat([256.0, 1024.0, 512.0, 2048.0], [120, 100, 120, 60])
    history = History.of_steps(lr * SCALES.lr, batch, weight_decay=0.1 if decays else 0.0)
    return lr, batch, replace(history, n_params=n_params)


def values(**changes: float) -> np.ndarray:
    return np.array([{**TRUTH, **changes}[n] for n in NAMES])


@pytest.mark.parametrize(("kernel", "clock", "excess", "annealing"), KINDS)
def test_a_recursion_is_the_brute_force_convolution(
    kernel: str, clock: str, excess: str, annealing: bool
) -> None:
    lr, batch, history = staircase()
    saturated = annealing and clock != "lr"
    law = HistoryLaw(
        "t",
        kernel=kernel,
        clock=clock,
        excess=excess,
        annealing=annealing,
        saturated=saturated,
    ).of_sizes()
    if annealing:  # the rise leaves no noise there: start at the peak
        lr = np.concatenate([np.ones(30), lr[30:]])
        history = replace(History.of_steps(lr * SCALES.lr, batch, weight_decay=0.1), n_params=3e6)
    gamma = TRUTH["gamma"] if kernel == "power" else 0.0
    want = brute_force(
        {**TRUTH, "gamma": gamma},
        lr,
        batch,
        kernel=kernel,
        clock=clock,
        excess=excess,
        annealing=annealing,
        saturated=saturated,
        progress_ref=SCALES.progress,
        batch_ref=SCALES.batch,
        decay=lr * SCALES.lr * 0.1,
        log_size=np.log(3.0),
    )
    tokens = np.cumsum(batch)
    got, _ = predict_history(law, values(gamma=gamma), history, tokens, SCALES)
    series = kernel in ("power", "density") and not annealing
    np.testing.assert_allclose(got[0], want, rtol=0, atol=2e-6 if series else 1e-11)


@pytest.mark.parametrize(("kernel", "clock", "excess", "annealing"), KINDS)
def test_derivatives_are_those_of_the_loss(
    kernel: str, clock: str, excess: str, annealing: bool
) -> None:
    _, batch, history = staircase()
    saturated = annealing and clock != "lr"
    law = HistoryLaw(
        "t",
        kernel=kernel,
        clock=clock,
        excess=excess,
        annealing=annealing,
        saturated=saturated,
    ).of_sizes()
    base = values(gamma=TRUTH["gamma"] if annealing and kernel == "power" else 0.0)
    tokens = np.cumsum(batch)[9::13]
    _, slopes = predict_history(law, base, history, tokens, SCALES, gradients=True)
    for k, name in enumerate(NAMES):
        step = 1e-4 * max(abs(base[k]), 0.1)
        table = np.repeat(base[None], 4, axis=0)
        table[:, k] += step * np.array([1, -1, 2, -2])
        loss, _ = predict_history(law, table, history, tokens, SCALES)
        slope = (8 * (loss[0] - loss[1]) - (loss[2] - loss[3])) / (12 * step)
        if name == "gamma" and not (annealing and kernel == "power"):
            slope = 0 * slope
        np.testing.assert_allclose(slopes[0, k], slope, rtol=2e-6, atol=2e-8, err_msg=name)


@pytest.mark.parametrize("x", [0.0, 0.8])
def test_state_equivalence_is_its_walk_step_by_step(x: float) -> None:
    """A loss that a batch cannot reach stays (the switch down at x = 0), and derivatives agree."""
    lr, batch, history = staircase()
    law = FORMS["state_equivalence"].of_sizes()
    base = values(omega=0.0, a=0.05, c=0.9, q=0.6, x=x)
    want = walked(
        dict(zip(NAMES, base, strict=True)),
        lr,
        batch,
        progress_ref=SCALES.progress,
        batch_ref=SCALES.batch,
        log_size=np.log(3.0),
    )
    got, slopes = predict_history(law, base, history, np.cumsum(batch), SCALES, gradients=True)
    np.testing.assert_allclose(got[0], want, rtol=0, atol=1e-10)
    assert (np.diff(want[220:300]) == 0).all()
    for k, name in enumerate(NAMES):
        if name in law.fixed and name not in ("r", "u", "B_n", "T0"):
            continue
        step = 1e-4 * max(abs(base[k]), 0.1)
        table = np.repeat(base[None], 4, axis=0)
        table[:, k] += step * np.array([1, -1, 2, -2])
        loss, _ = predict_history(law, table, history, np.cumsum(batch), SCALES)
        slope = (8 * (loss[0] - loss[1]) - (loss[2] - loss[3])) / (12 * step)
        np.testing.assert_allclose(slopes[0, k], slope, rtol=2e-6, atol=2e-8, err_msg=name)


def test_state_equivalence_at_a_fixed_batch_is_the_surface() -> None:
    history = History.of_sections([0, 2e5], 512.0, SCALES.lr)
    tokens = np.linspace(1e4, 2e5, 7)
    base = values(omega=0.0, r=0.0, B_n=0.0, n_L=0.0, T0=0.0)
    for name in ("state_equivalence", "fixed_surface"):
        point = base.copy()
        point[NAMES.index("tau")] = FORMS[name].fixed["tau"]
        got, _ = predict_history(name, point, history, tokens, SCALES)
        want = TRUTH["L_inf"] + TRUTH["a"] * (tokens / 512 / SCALES.progress) ** -TRUTH["p"]
        want = want + TRUTH["c"] * 2 ** -TRUTH["q"]
        np.testing.assert_allclose(got[0], want, rtol=1e-12)


@pytest.mark.parametrize("kappa", [0.05, 0.3, 1.0, 2.5])
@pytest.mark.parametrize("tau", [0.05, 3.0, 5e3])
def test_a_power_law_as_a_sum_of_exponentials(kappa: float, tau: float) -> None:
    """One burst of noise, then silence: what is left is the kernel itself."""
    lr = np.concatenate([np.ones(1), np.full(3000, 1e-9)])
    history = History.of_steps(lr)
    law = HistoryLaw("t", clock="steps")
    point = values(a=0.0, L_inf=0.0, c=1.0, x=1.0, q=0.0, omega=0.0, tau=tau, kappa=kappa)
    got, _ = predict_history(law, point, history, np.arange(1, 3002), Scales(1.0, 1.0, 1.0))
    v = np.arange(3001.0)
    want = (1 + v / tau) ** -kappa - (1 + (v + 1) / tau) ** -kappa
    np.testing.assert_allclose(got[0], want, rtol=0, atol=3e-5 if kappa > 1 else 1e-6)


def test_a_million_steps_are_a_few_pieces() -> None:
    history = History.of_schedule([(0, 1024), (5e8, 4096)], 1e-3, 1e6 * 1024, marks=[2e8])
    pieces = cut([history], [np.array([1e8, 9e8])], 1e-3, growing=False)
    assert len(pieces.columns["steps"]) <= 6
    assert pieces.columns["steps"].sum() == pytest.approx(history.steps)


def test_a_decay_in_pieces_is_the_decay_in_steps() -> None:
    def lr(tokens: float) -> float:
        return 5e-3 * min(1.0, max(1e6 - tokens, 0.0) / 4e5 + 0.05)

    plan = History.of_schedule([(0, 256)], lr, 1e6, samples=64)
    steps = np.array([lr(256 * (k + 0.5)) for k in range(int(1e6 / 256))])
    exact = History.of_steps(steps, 256.0)
    at = np.array([3e5, 7e5, 9e5, exact.total_tokens])
    for law in (HistoryLaw("t"), HistoryLaw("t", kernel="exponential")):
        point = values(gamma=0.0, omega=0.0)
        left, _ = predict_history(law, point, plan, at, SCALES)
        right, _ = predict_history(law, point, exact, at, SCALES)
        np.testing.assert_allclose(left, right, rtol=0, atol=0.3 * 0.8 / (2 * RESOLUTION))


def simulated(law: HistoryLaw, truth: dict[str, float], seed: int) -> list[HistoryRun]:
    """Six unlike schedules with a loss at every 20th step, and noise of 1e-3."""
    rng = np.random.default_rng(seed)
    out = []
    plans = [
        ("256", [(0, 256)], 1.0), ("1024", [(0, 1024)], 1.0), ("up", [(0, 256), (5e5, 2048)], 1.0),
        ("down", [(0, 1024), (4e5, 256)], 1.0), ("decay", [(0, 256)], 0.1),
        ("decay1024", [(0, 1024)], 0.1),
    ]  # fmt: skip
    for name, batch, final in plans:

        def lr(tokens: float, final: float = final) -> float:
            fall = max(tokens - 8e5, 0) / 2e5
            return 5e-3 * min(1, tokens / 5e4 + 1e-3) * (1 - (1 - final) * fall)

        history = History.of_schedule(batch, lr, 1e6, marks=[5e4, 8e5], samples=20, name=name)
        tokens = np.arange(1e5, 1.0001e6, 2e4)
        loss, _ = predict_history(
            law, [truth.get(n, law.fixed.get(n, 0.0)) for n in NAMES], history, tokens, SCALES
        )
        out.append(HistoryRun(history, tokens, loss[0] + 1e-3 * rng.normal(size=len(tokens))))
    return out


@pytest.mark.parametrize("form", ["power", "exponential", "theta"])
def test_a_fit_finds_what_made_the_losses(form: str) -> None:
    law = FORMS[form]
    truth = {"L_inf": 2.0, "a": 1.1, "p": 0.4, "c": 0.25, "x": 0.8, "q": 0.4, "tau": 40.0}
    truth["kappa"] = 0.7
    truth = {k: v for k, v in truth.items() if k in law.free or k in law.ties}
    runs = simulated(law, truth, 1)
    fit = fit_history(form, runs, starts=12, threads=1, scales=SCALES)
    assert fit.converged
    assert fit.rms == pytest.approx(1e-3, rel=0.15)
    assert fit["c"] == pytest.approx(truth["c"], rel=0.25)
    assert fit["x"] == pytest.approx(truth["x"], rel=0.1)
    end, _ = predict_history(law, fit.values, runs[2].history, 1e6, SCALES)
    true, _ = predict_history(
        law, [truth.get(n, law.fixed.get(n, 0.0)) for n in NAMES], runs[2].history, 1e6, SCALES
    )
    assert end[0, 0] == pytest.approx(true[0, 0], abs=1e-3)


def test_threads_change_nothing_and_a_seed_repeats() -> None:
    runs = simulated(FORMS["exponential"], {**TRUTH, "L_inf": 2.0}, 2)
    fits = [
        fit_history("exponential", runs, starts=4, bootstrap=6, threads=t, seed=3) for t in (1, 2)
    ]
    np.testing.assert_array_equal(fits[0].values, fits[1].values)
    np.testing.assert_array_equal(fits[0].bootstrap, fits[1].bootstrap)
    band = fits[0].predict(runs[0].history, [5e5, 1e6])
    assert (band.low <= band.high).all()


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"law": "nonesuch"}, "no form"),
        ({"starts": 0}, "at least 1"),
        ({"fixed": {"L_zero": 1.0}}, "no such one"),
        ({"bounds": {"p": (2.0, 1.0)}}, "lower must not be above"),
        ({"prior": {"p": (0.4, 0.0)}}, "prior"),
        ({"initial": {"p": 0.4}}, "every parameter"),
    ],
)
def test_a_bad_option_is_told_by_name(change: dict, rule: str) -> None:
    runs = simulated(FORMS["exponential"], TRUTH, 2)
    with pytest.raises(FitError, match=rule):
        fit_history(**{"law": "exponential", "runs": runs, **change})


def test_a_point_past_its_history_is_refused() -> None:
    _, _, history = staircase()
    with pytest.raises(FitError, match="outside the run's history"):
        predict_history("power", values(), history, history.total_tokens * 2, SCALES)


def test_a_batch_that_is_unknown_is_refused() -> None:
    with pytest.raises(FitError, match="batch"):
        History.of_sections([0, 10, 20], [256, np.nan], 1e-3, name="run 7")


def test_every_form_is_a_law_of_its_free_parameters() -> None:
    assert len(LOG) == len(NAMES) == 20
    for name, law in FORMS.items():
        assert set(law.fixed) | set(law.ties) | set(law.free) == set(NAMES), name
        assert not set(law.fixed) & set(law.ties), name
