"""A run's batches and rate against laws: inside, outside and extrapolated."""

from __future__ import annotations

import json

import pytest

from megascale.errors import DataError
from megascale.train.checks import batch_schedule_of
from megascale.train.law_standing import law_standings
from tests.config.test_init_section import run

SHIPPED = "configs/laws/step-law.json"


def law_file(folder, **changes):
    """Batch 100 at any N and D, within a factor: ln coef has the given relative ends."""
    content = {
        "schema": "megascale.law/2",
        "name": "flat",
        "version": "1",
        "form": "power",
        "output": "batch_tokens",
        "parameters": {
            "coef": {"value": 100.0, "low": 80.0, "high": 125.0, "unit": "tokens"},
            "a": {"value": 0.0, "low": None, "high": None, "unit": ""},
            "b": {"value": 0.0, "low": None, "high": None, "unit": ""},
        },
        "confidence": 0.9,
        "n_kind": "non_embedding",
        "n_unit": "units",
        "d_kind": "consumed",
        "d_unit": "units",
        "range": {"n": [1e3, 1e9], "d": [1e3, 1e9]},
        "source": "made for a test",
    }
    path = folder / "law.json"
    path.write_text(json.dumps(content | changes))
    return path


def standings(config, *files):
    return law_standings(config, batch_schedule_of(config, 1), files)


def test_each_segment_is_held_against_the_band(tmp_path):
    config = run({}, batch={"schedule": "0: 64, 3000: 96, 6000: 128", "rounding": "exact"})
    (law,) = standings(config, law_file(tmp_path))
    assert [one.where for one in law.standings] == ["below", "inside", "above"]
    assert law.standings[0].law == pytest.approx(100)
    assert (law.standings[0].low, law.standings[0].high) == pytest.approx((80, 125), rel=0.02)
    assert law.outside == ()
    assert "90 % band in 1 of 3 segments" in law.sentence()


def test_a_rate_is_one_value_at_the_end(tmp_path):
    coef = {"value": 2e-3, "low": 1.5e-3, "high": 2.6e-3, "unit": ""}
    flat = {"value": 0.0, "low": None, "high": None, "unit": ""}
    parameters = {"coef": coef, "a": flat, "b": flat}
    (law,) = standings(run({}), law_file(tmp_path, output="peak_lr", parameters=parameters))
    assert [(one.tokens, one.where) for one in law.standings] == [(10_000, "below")]
    assert "the peak learning rate is below the law's 90 % band: 0.001 against" in law.sentence()


def test_a_law_of_whole_budgets_outside_its_points_says_so(repository):
    (law,) = standings(run({}), repository / SHIPPED)
    assert {one.tokens for one in law.standings} == {10_000}
    assert "the law is extrapolated: " in law.sentence()
    assert law.to_dict()["sentence"] == law.sentence()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        standings(run({}), tmp_path / "nowhere.json")
