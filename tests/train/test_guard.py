"""The guard: finds spikes whatever the batch, skips within a budget, then stops."""

from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megascale.errors import EXIT_GUARD, ConfigError, GuardError
from megascale.train.guard import Guard, GuardSettings, way_out

BATCH = 1000


def quiet(**changes) -> GuardSettings:
    values = {"window_tokens": 200 * BATCH, "min_steps": 20, "min_rise": 0.0}
    return GuardSettings(**(values | changes))


def feed(guard: Guard, steps: int, *, batch=BATCH, seed=0, noise=0.05, tokens=0, level=3.0):
    """Noise that shrinks with sqrt(batch), as that of a mean over the batch does."""
    stream = random.Random(seed)
    verdicts = []
    for _ in range(steps):
        tokens += batch
        scale = math.sqrt(BATCH / batch)
        loss = level + noise * scale * stream.gauss(0, 1)
        verdicts.append(guard.check(tokens=tokens, batch_tokens=batch, loss=loss, grad_norm=scale))
    return tokens, verdicts


def test_ordinary_noise_passes():
    _, verdicts = feed(Guard(quiet()), 2000)
    assert all(verdict.apply for verdict in verdicts)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["loss", "grad_norm"])
def test_non_finite_is_skipped_at_once_even_without_a_window(bad, where):
    values = {"loss": 3.0, "grad_norm": 1.0} | {where: bad}
    verdict = Guard(quiet()).check(tokens=10, batch_tokens=10, **values)
    assert verdict.action == "skip"
    assert verdict.event_kind == "skip"
    assert "non-finite" in verdict.reason


def test_spikes_are_found_and_kept_out_of_the_window():
    guard = Guard(quiet(spike_budget=5))
    tokens, _ = feed(guard, 100)
    before = guard.state_dict()["window"]
    verdict = guard.check(tokens=tokens + BATCH, batch_tokens=BATCH, loss=4.0, grad_norm=1.0)
    assert (verdict.action, verdict.reason, verdict.event_kind) == ("skip", "loss spike", "spike")
    assert verdict.limit < 4.0
    verdict = guard.check(tokens=tokens + 2 * BATCH, batch_tokens=BATCH, loss=3.0, grad_norm=50.0)
    assert verdict.reason == "gradient spike"
    assert guard.state_dict()["window"] == before


def test_a_falling_loss_is_no_spike():
    guard = Guard(quiet(spike_factor=4.0))
    for step in range(1, 500):
        loss = 10.0 * step**-0.2
        assert guard.check(tokens=step * BATCH, batch_tokens=BATCH, loss=loss, grad_norm=1.0).apply


def test_the_limit_tightens_with_the_square_root_of_the_batch():
    guard = Guard(quiet())
    feed(guard, 150)
    centre = guard.loss_limit(10**18)  # no spread is left at an enormous batch
    rise = guard.loss_limit(BATCH) - centre
    assert guard.loss_limit(4 * BATCH) - centre == pytest.approx(rise / 2, rel=1e-3)
    assert guard.loss_limit(BATCH // 4) - centre == pytest.approx(rise * 2, rel=1e-3)


def test_gradient_limit_allows_for_the_noise_of_a_smaller_batch():
    guard = Guard(quiet())
    for step in range(1, 31):
        guard.check(tokens=step * BATCH, batch_tokens=BATCH, loss=3.0, grad_norm=1.0)
    assert guard.grad_norm_limit(BATCH) == 10.0
    assert guard.grad_norm_limit(BATCH // 4) == 20.0
    assert guard.grad_norm_limit(BATCH * 4) == 10.0  # a larger batch has no larger norm


@pytest.mark.parametrize("batches", [(1000, 4000), (4000, 1000), (1000, 250)])
def test_no_false_alarm_when_the_batch_changes(batches):
    first, second = batches
    guard = Guard(quiet(window_tokens=10**9, spike_factor=6.0))
    tokens, _ = feed(guard, 200, batch=first)
    _, verdicts = feed(guard, 200, batch=second, tokens=tokens, seed=1)
    assert all(verdict.apply for verdict in verdicts)


def test_the_scaling_finds_what_a_fixed_threshold_would_miss():
    """At 16x the batch the noise is 4x smaller, so a smaller rise is already a spike."""
    guard = Guard(quiet())
    tokens, _ = feed(guard, 150)
    rise = 0.5 * (guard.loss_limit(BATCH) - 3.0)
    small = guard.check(tokens=tokens + 1, batch_tokens=BATCH, loss=3.0 + rise, grad_norm=1.0)
    large = guard.check(tokens=tokens + 2, batch_tokens=16 * BATCH, loss=3.0 + rise, grad_norm=1.0)
    assert small.apply
    assert large.reason == "loss spike"


def test_a_few_spikes_in_the_window_do_not_move_the_limit():
    clean, dirty = Guard(quiet()), Guard(quiet())
    feed(clean, 100)
    feed(dirty, 100)
    state = dirty.state_dict()
    for row in state["window"][::10]:
        row[2] += 100.0
    dirty.load_state_dict(state)
    assert dirty.loss_limit(BATCH) < 3.0 + 1.5 * (clean.loss_limit(BATCH) - 3.0)


def test_budget_is_spent_then_the_run_stops_and_names_the_checkpoint():
    guard = Guard(quiet(nonfinite_budget=2))
    actions = []
    for step in range(1, 4):
        verdict = guard.check(tokens=step, batch_tokens=1, loss=math.nan, grad_norm=1.0)
        actions.append((verdict.action, verdict.spent))
    assert actions == [("skip", 1), ("skip", 2), ("stop", 3)]
    error = verdict.error(2, 2, way_out("checkpoints/step-00000001-tokens-1", (1, 2)))
    assert isinstance(error, GuardError)
    assert error.exit_code == EXIT_GUARD
    assert "checkpoints/step-00000001-tokens-1" in str(error)
    assert "non-finite loss: nan" in str(error)
    assert "no checkpoint from before" in str(verdict.error(2, 2, way_out(None, (1, 2))))


def test_budgets_refill_with_tokens_and_are_separate():
    guard = Guard(quiet(nonfinite_budget=1, spike_budget=0, budget_window_tokens=100))

    def check(tokens, loss=math.nan):
        return guard.check(tokens=tokens, batch_tokens=1, loss=loss, grad_norm=1.0).action

    assert [check(10), check(50, 3.0), check(111), check(112)] == ["skip", "apply", "skip", "stop"]


def test_an_unbroken_series_of_skips_stops_even_in_a_window_of_one_step():
    guard = Guard(quiet(window_tokens=1, nonfinite_budget=3))
    actions = [
        guard.check(tokens=step * 100, batch_tokens=100, loss=math.nan, grad_norm=1.0).action
        for step in range(1, 5)
    ]
    assert actions == ["skip", "skip", "skip", "stop"]


def test_reset_window_forgets_statistics_but_not_spending():
    guard = Guard(quiet(nonfinite_budget=1))
    tokens, _ = feed(guard, 100)
    guard.check(tokens=tokens + 1, batch_tokens=1, loss=math.nan, grad_norm=1.0)
    guard.reset_window()
    assert guard.loss_limit(BATCH) == math.inf
    stopped = guard.check(tokens=tokens + 2, batch_tokens=1, loss=math.nan, grad_norm=1.0)
    assert stopped.action == "stop"


def test_limits_can_be_switched_off():
    guard = Guard(quiet(spike_factor=None, grad_norm_factor=None))
    tokens, _ = feed(guard, 100)
    assert guard.check(tokens=tokens + 1, batch_tokens=1, loss=1e9, grad_norm=1e9).apply


steps_strategy = st.lists(
    st.tuples(
        st.sampled_from([100, 1000, 3000]),
        st.one_of(st.floats(0, 20), st.just(math.nan), st.just(1e6)),
        st.one_of(st.floats(0, 5), st.just(math.inf)),
    ),
    min_size=1,
    max_size=120,
)


@settings(max_examples=60, deadline=None)
@given(steps=steps_strategy, cut=st.integers(0, 120))
def test_restart_through_json_changes_no_decision(steps, cut):
    chosen = GuardSettings(window_tokens=20_000, min_steps=5, nonfinite_budget=3, spike_budget=3)
    whole, resumed = Guard(chosen), Guard(chosen)
    tokens = 0
    for number, (batch, loss, norm) in enumerate(steps):
        if number == cut:
            state = json.loads(json.dumps(resumed.state_dict(), allow_nan=False))
            resumed = Guard(chosen)
            resumed.load_state_dict(state)
        tokens += batch
        step = {"tokens": tokens, "batch_tokens": batch, "loss": loss, "grad_norm": norm}
        first, second = whole.check(**step), resumed.check(**step)
        assert repr(first) == repr(second)  # repr: NaN equals itself
    assert whole.state_dict() == resumed.state_dict()


@settings(max_examples=60, deadline=None)
@given(steps=steps_strategy)
def test_window_holds_only_finite_recent_steps_and_budgets_are_never_overdrawn(steps):
    chosen = GuardSettings(window_tokens=5000, min_steps=5, nonfinite_budget=2, spike_budget=1)
    guard = Guard(chosen)
    tokens = 0
    for batch, loss, norm in steps:
        tokens += batch
        verdict = guard.check(tokens=tokens, batch_tokens=batch, loss=loss, grad_norm=norm)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            assert verdict.reason.startswith("non-finite")
        assert (verdict.action == "stop") == (verdict.spent > verdict.budget)
        window = guard.state_dict()["window"]
        assert all(math.isfinite(row[2]) and math.isfinite(row[3]) for row in window)
        if verdict.apply:
            assert all(row[0] > tokens - 5000 for row in window)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("window_tokens", 0),
        ("spike_factor", 1.0),
        ("spike_factor", math.nan),
        ("grad_norm_factor", 0.5),
        ("nonfinite_budget", -1),
        ("max_steps", 5),
        ("budget_window_tokens", 0),
    ],
)
def test_bad_settings_name_the_key(key, value):
    with pytest.raises(ConfigError, match=f"guard.{key} = "):
        quiet(**{key: value})
