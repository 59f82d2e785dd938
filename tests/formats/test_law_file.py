"""Law files: published values, units, hashes, and refusals that name what is wrong."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megascale.errors import DataError
from megascale.formats.law_file import LawFile, read_law_file, write_law_file


def power(**changes: Any) -> dict[str, Any]:
    law: dict[str, Any] = {
        "schema": "megascale.law/2",
        "name": "toy",
        "version": "1",
        "form": "power",
        "output": "batch_tokens",
        "parameters": {"coef": {"value": 2.0}, "a": {"value": 0.5}, "b": {"value": 0.25}},
        "n_kind": "total",
        "d_kind": "consumed",
    }
    return law | changes


def written(folder: Path, law: dict[str, Any]) -> Path:
    path = folder / "law.json"
    path.write_text(json.dumps(law), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("tokens", "batch_in_millions"),
    [(2e9, 0.119), (20e9, 0.442), (100e9, 1.11), (2e12, 6.13), (300e9, 2.07), (500e9, 2.78)],
)
def test_step_law_gives_its_published_batches(
    repository: Path, tokens: float, batch_in_millions: float
) -> None:
    law = read_law_file(repository / "configs" / "laws" / "step-law.json")
    assert law.evaluate(1e9, tokens) / 1e6 == pytest.approx(batch_in_millions, rel=5e-3)
    assert law.evaluate(7e9, tokens) == law.evaluate(1e8, tokens)


def test_hash_is_of_the_file(repository: Path) -> None:
    path = repository / "configs" / "laws" / "step-law.json"
    law = read_law_file(path)
    assert law.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_write_and_read_back(tmp_path: Path) -> None:
    law = LawFile.model_validate(power(diagnostics={"rms": 0.01}))
    digest = write_law_file(law, tmp_path / "law.json")
    again = read_law_file(tmp_path / "law.json")
    assert again.model_dump() == law.model_dump()
    assert again.sha256 == law.sha256 == digest
    with pytest.raises(DataError, match="cannot be written"):
        write_law_file(law, tmp_path / "missing" / "law.json")


@given(st.floats(1e6, 1e12), st.floats(1e6, 1e14))
def test_power_form_and_units(n: float, d: float) -> None:
    plain = LawFile.model_validate(power())
    assert plain.evaluate(n, d) == pytest.approx(2.0 * n**0.5 * d**0.25, rel=1e-9)
    scaled = LawFile.model_validate(power(n_unit="millions", d_unit="billions"))
    assert scaled.evaluate(n, d) == pytest.approx(
        2.0 * (n / 1e6) ** 0.5 * (d / 1e9) ** 0.25, rel=1e-9
    )


def test_table_is_straight_between_knots_in_logarithms() -> None:
    table = {"d": [1.0, 100.0, 1000.0], "value": [10.0, 1000.0, 500.0]}
    law = LawFile.model_validate(
        power(form="loglog_table", parameters={}, table=table, d_unit="millions")
    )
    for d, value in zip(table["d"], table["value"], strict=True):
        assert law.evaluate(1, d * 1e6) == pytest.approx(value)
    assert law.evaluate(1, 10e6) == pytest.approx(100.0)
    assert law.evaluate(1, 1e5) == 10.0
    assert law.evaluate(1, 1e12) == 500.0


def test_another_n_is_outside_where_its_exponent_was_left_out() -> None:
    said = {"a": "N from 2.15e9 to 2.16e9 would give its exponent to ±14 only"}
    parameters = {"coef": {"value": 2.0}, "a": {"value": 0.0}, "b": {"value": 0.25}}
    law = LawFile.model_validate(
        power(parameters=parameters, left_out=said, range={"n": [2.15e9, 2.16e9], "d": None})
    )
    assert not law.uses_n
    assert law.looks_at_n
    (words,) = law.outside_range(4e9, 1e10)
    assert words == "N = 4e+09 is outside 2.15e+09 to 2.16e+09, and the law has no exponent of N"
    assert not LawFile.model_validate(power(parameters=parameters)).looks_at_n


def test_outside_the_fitted_range_is_said() -> None:
    law = LawFile.model_validate(power(range={"n": [1e8, 1e9], "d": [1e9, 1e10]}))
    assert law.outside_range(5e8, 5e9) == []
    assert len(law.outside_range(5e9, 5e10)) == 2
    assert law.outside_range(None, 5e9) == []
    with pytest.raises(DataError, match="positive D"):
        law.evaluate(1e9, 0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema": "megascale.law/3"}, "Nearest legal: megascale.law/2"),
        ({"confidence": 90}, "confidence"),
        ({"degrees_of_freedom": 0}, "degrees_of_freedom"),
        ({"covariance": {"matrix": [[1.0]]}}, "3 x 3"),
        ({"covariance": {"matrix": [[1, 0, 0], [0.5, 1, 0], [0, 0, 1]]}}, "symmetric"),
        ({"covariance": {"matrix": [[1, 2, 0], [2, 1, 0], [0, 0, 1]]}}, "geometric mean"),
        ({"left_out": {"c": "no"}}, "left_out"),
        ({"form": "cubic"}, "form"),
        ({"parameters": {"coef": {"value": 1.0}}}, "coef, a and b"),
        ({"form": "loglog_table"}, "has a table"),
        ({"form": "loglog_table", "table": {"d": [2, 1], "value": [1, 1]}}, "increase"),
        ({"form": "loglog_table", "table": {"d": [1, 2], "value": [1]}}, "same length"),
        ({"form": "loglog_table", "table": {"d": [1, 2], "value": [1, 0]}}, "positive"),
        ({"n_kind": "all"}, "n_kind"),
        ({"colour": "red"}, "colour"),
        ({"inputs": [{"path": "a.csv", "sha256": "12"}]}, "inputs.0.sha256"),
    ],
)
def test_bad_law_files(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    path = written(tmp_path, power(**changes))
    with pytest.raises(DataError) as caught:
        read_law_file(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_missing_or_not_json(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_law_file(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="not valid JSON"):
        read_law_file(tmp_path / "bad.json")
