"""Half-lives and weight decay's time, against averages and decays carried out step by step."""

from __future__ import annotations

import pytest

from megascale.config.time_scales import half_life_tokens, time_scales
from tests.config.test_init_section import run

AT = {"batch_tokens": 128, "lr": 1e-3, "weight_decay": 0.1}


def test_half_of_an_average_is_left_after_its_half_life():
    tokens = half_life_tokens(0.95, 128)
    assert 0.95 ** (tokens / 128) == pytest.approx(0.5)
    assert half_life_tokens(0.0, 128) is None


def test_a_weight_loses_a_factor_e_over_the_time_of_its_decay():
    found = time_scales(run({}), **AT)
    weight, consumed = 1.0, 0
    while weight > 0.36788:
        weight *= 1 - 1e-3 * 0.1
        consumed += 128
    assert found.weight_decay == pytest.approx(consumed, rel=1e-3)
    assert time_scales(run({}), **{**AT, "weight_decay": 0.0}).weight_decay is None


def test_a_decay_relative_to_the_schedule_has_the_time_of_its_coefficient():
    config = run({}, weight_decay={"value": 1e-4, "relative_to": "schedule"})
    found = time_scales(config, batch_tokens=128, lr=config.lr.peak, weight_decay=1e-4)
    assert found.weight_decay == pytest.approx(128 / 1e-4)


def test_a_larger_batch_remembers_longer_unless_the_half_life_is_fixed():
    plain, fixed = run({}), run({}, optimizer={"beta2_half_life_tokens": 5000})
    small, large = (time_scales(plain, **{**AT, "batch_tokens": b}) for b in (128, 512))
    assert large.beta2 == pytest.approx(4 * small.beta2)
    assert time_scales(fixed, **{**AT, "batch_tokens": 512}).beta2 == 5000
    sign = time_scales(run({}, optimizer={"name": "sign", "beta1": 0.0}), **AT)
    assert (sign.beta1, sign.beta2) == (None, None)
    assert sign.sentence().startswith("memory in tokens: weight decay's time")
