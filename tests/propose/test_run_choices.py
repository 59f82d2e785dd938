"""What a run under way may still choose."""

from __future__ import annotations

from dataclasses import replace

import pytest

from megascale.errors import ConfigError
from megascale.propose.replan import Standing
from megascale.propose.run_choices import choice_of
from megascale.schedule.points import BatchPoint
from tests.propose.known_law import known_plan

PLAN = known_plan(((0, 256), (800_000, 1024)), 200_000)
AT = Standing("run", 400_000, 1500, 512, 1, 32, (BatchPoint(0, 256), BatchPoint(300_000, 512)),
              1_000_000, 1)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "batches"),
    [
        ("keep", ((0, 256), (300_000, 512))),
        ("1Ki", ((0, 256), (300_000, 512), (400_000, 1024))),
        ("0:512, 100K:2Ki", ((0, 256), (300_000, 512), (500_000, 2048))),
        ("200K: 256", ((0, 256), (300_000, 512), (600_000, 256))),
    ],
)
def test_batches_count_from_now(text: str, batches) -> None:
    assert choice_of(text, AT, PLAN) == replace(PLAN, batches=batches)


def test_a_decay_of_its_own() -> None:
    plan = choice_of("keep; decay 400K; final 0.02", AT, PLAN)
    assert (plan.lr.decay_tokens, plan.final_ratio) == (400_000, pytest.approx(0.02))
    flat = known_plan(((0, 256),), 0)
    assert choice_of("512; decay 100K", AT, flat).final_ratio == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("700K:512", "goes beyond the 600,000 tokens"),
        ("keep; decay 700K", "a decay takes 1 to 600,000 tokens"),
        ("keep; final 2", "0 to 1 of the peak"),
        ("keep; final x", "0 to 1 of the peak"),
        ("keep; grow 3", "none of decay D and final R"),
    ],
)
def test_refusals(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        choice_of(text, AT, PLAN)


def test_a_rate_that_falls_is_not_planned_anew() -> None:
    with pytest.raises(ConfigError, match="while the learning rate is constant"):
        choice_of("keep; decay 50K", replace(AT, tokens=900_000), PLAN)
