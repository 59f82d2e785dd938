"""Schedules by rule as rivals of a planned one."""

from __future__ import annotations

from megascale.propose.plan_bounds import PlanBounds
from megascale.propose.plan_rivals import followed, rule_rivals
from tests.propose.known_law import KnownLaw, known_plan


def test_rules_keep_the_bounds_on_batches() -> None:
    law = KnownLaw(2)
    bounds = PlanBounds(10**6, 256, (256, 2048), (5e-3, 5e-3), warmup_tokens=50_000)
    opponent = known_plan(((0, 512),), 200_000)
    rivals = rule_rivals(law, opponent, bounds)
    assert {name for name, plans in rivals.items() if plans} == {"remaining", "late", "follow"}
    for plans in rivals.values():
        for plan in plans:
            assert plan.lr == opponent.lr
            sizes = [size for _, size in plan.batches]
            assert all(size % 256 == 0 and 256 <= size <= 2048 for size in sizes)
            assert sizes == sorted(sizes) or plan in rivals["follow"]


def test_following_the_best_fixed_batch_grows() -> None:
    bounds = PlanBounds(10**6, 64, (64, 8192), (5e-3, 5e-3), warmup_tokens=50_000)
    points = followed(KnownLaw(2), known_plan(((0, 512),), 200_000), bounds)
    assert points[0].start_tokens == 0
    assert points[-1].batch_tokens > points[0].batch_tokens
