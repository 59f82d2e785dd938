"""A schedule that follows a law of fixed batches: its defaults, and what speaks against it."""

from __future__ import annotations

from typing import Any

import pytest

from megascale.formats.law_file import LawFile
from megascale.formats.law_upgrade import SCHEMA
from megascale.propose.proposal import LawRequest, Proposal, propose
from tests.propose.test_savings import LOSSES, SURFACE

TOTAL = 200_000_000


def law(coefficient: float = 10.0, exponent: float = 0.5) -> LawFile:
    return LawFile.model_validate(
        {
            "schema": SCHEMA,
            "name": "toy",
            "version": "1",
            "form": "power",
            "output": "batch_tokens",
            "parameters": {
                "coef": {"value": coefficient},
                "a": {"value": 0.0},
                "b": {"value": exponent},
            },
            "n_kind": "total",
            "d_kind": "horizon",
            "tokens_steps": {
                "form": "loss_surface",
                "target_loss": LOSSES,
                "parameters": {name: [value] for name, value in SURFACE.items()},
            },
        }
    )


def proposed(file: LawFile, unit: int = 1000, **changes: Any) -> Proposal:
    request = LawRequest(file, "law.json", 1.0, TOTAL // 10)
    from dataclasses import replace

    return propose(
        total_tokens=TOTAL,
        law=replace(request, **changes),
        sequence_length=unit,
        micro_batch_size=1,
        data_parallel=1,
        max_rounding=1.0,
        source=None,
    )


def test_the_first_batch_is_the_laws_half_an_interval_in() -> None:
    found = proposed(law())
    first = found.schedule.segments[0]
    assert first.requested_batch_tokens == round(10 * (TOTAL / 20) ** 0.5)
    assert [s.batch_tokens for s in found.schedule.segments] == sorted(
        s.batch_tokens for s in found.schedule.segments
    )
    assert len(found.schedule.segments) == 10


def test_the_first_batch_is_one_that_runs_within_the_bounds() -> None:
    assert proposed(law(), unit=50_000).schedule.segments[0].batch_tokens == 50_000
    found = proposed(law(), min_tokens=60_000)
    assert found.schedule.segments[0].requested_batch_tokens == 60_000
    found = proposed(law(), max_tokens=20_000)
    assert found.schedule.segments[0].requested_batch_tokens == 20_000


def test_a_plan_that_shrinks_the_batch_is_warned_of() -> None:
    found = proposed(law(), initial_tokens=100_000)
    [said] = [one for one in found.warnings if "shrinks the batch from 100K" in one]
    assert "--initial" in said
    many = proposed(law(1e9, -0.5))
    assert any("8 times more" in one for one in many.warnings)
    assert found.to_dict()["warnings"] == list(found.warnings)


def test_a_plan_that_loses_by_its_own_law_is_warned_of() -> None:
    good = proposed(law(3.0))
    assert not isinstance(good.tokens, str)
    bad = proposed(law(1.0))
    assert not isinstance(bad.tokens, str)
    assert bad.tokens.token_saving < 0
    [said] = bad.warnings
    less = 1 - bad.tokens.best_tokens / bad.tokens.tokens
    assert f"on {less:.1%} fewer tokens" in said
    assert good.tokens.token_saving > 0
    assert good.warnings == ()


def test_a_table_is_not_held_against_a_law() -> None:
    from megascale.schedule.points import parse_table

    found = propose(
        total_tokens=TOTAL,
        points=parse_table("0: 2M, 1M: 1M"),
        source={"kind": "schedule"},
        sequence_length=1000,
        micro_batch_size=1,
        data_parallel=1,
    )
    assert found.warnings == ()
    with pytest.raises(Exception, match="give exactly one"):
        propose(total_tokens=TOTAL, sequence_length=1, micro_batch_size=1, data_parallel=1)
