"""Files of the first version still load, and mean what they meant."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from megascale.errors import DataError
from megascale.formats.law_band import law_band
from megascale.formats.law_file import read_law_file, write_law_file

OLD = Path(__file__).parent / "laws_v1"
FILES = sorted(OLD.glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_old_files_load_and_are_written_as_new_ones(path: Path, tmp_path: Path) -> None:
    old = json.loads(path.read_text())
    assert old["schema"] == "megascale.law/1"
    law = read_law_file(path)
    for name, parameter in law.parameters.items():
        assert parameter.model_dump() == old["parameters"][name]
    write_law_file(law, tmp_path / "new.json")
    assert json.loads((tmp_path / "new.json").read_text())["schema"] == "megascale.law/2"
    again = read_law_file(tmp_path / "new.json")
    assert again.model_dump() == law.model_dump()


def test_all_kinds_of_old_files_are_here() -> None:
    """Best batch as a law and as a table, a surface, a grid's laws, points, and the shipped one."""
    assert {path.stem for path in FILES} == {
        "batch-power", "batch-table", "surface", "grid-lr", "grid-batch", "optima", "step-law"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "freedom"), [("batch-power", 6), ("optima", 3), ("grid-batch", None)]
)
def test_an_old_covariance_has_the_band_of_its_own_confidence(
    name: str, freedom: float | None
) -> None:
    """Student's t at the stated 90 %, where 1.96 standard errors were shown for it."""
    old = json.loads((OLD / f"{name}.json").read_text())
    law = read_law_file(OLD / f"{name}.json")
    assert law.confidence == old["diagnostics"]["confidence"] == 0.9
    if freedom is not None:
        assert law.degrees_of_freedom == freedom
    assert law.degrees_of_freedom is not None
    matrix = np.array(old["diagnostics"]["covariance"]["matrix"])
    n, d = 3e8, 1e10
    x = np.array([1.0, math.log(n), math.log(d)])
    reach = stats.t.ppf(0.95, law.degrees_of_freedom)
    band = law_band(law, n, d)
    assert band is not None
    assert math.log(band.high / law.evaluate(n, d)) == pytest.approx(
        reach * math.sqrt(x @ matrix @ x), rel=1e-6
    )


def test_what_an_old_file_does_not_say_is_not_made_up() -> None:
    law = read_law_file(OLD / "step-law.json")
    assert (law.confidence, law.covariance, law.degrees_of_freedom) == (None, None, None)
    band = law_band(law, 1e9, 1e10)
    assert band is not None
    assert band.confidence is None
    assert law.left_out == {}


def test_the_shipped_law_says_what_its_interval_is(repository: Path) -> None:
    """One bootstrap standard deviation to either side."""
    law = read_law_file(repository / "configs" / "laws" / "step-law.json")
    assert law.confidence == 0.683
    old = read_law_file(OLD / "step-law.json")
    for d in (1e9, 1e12):
        new_band, old_band = law_band(law, 1e9, d), law_band(old, 1e9, d)
        assert new_band is not None
        assert old_band is not None
        assert (new_band.low, new_band.high) == (old_band.low, old_band.high)


def test_a_broken_old_file_is_refused(tmp_path: Path) -> None:
    old = json.loads((OLD / "batch-power.json").read_text())
    old["diagnostics"]["covariance"]["matrix"][0][0] = -1.0
    (tmp_path / "law.json").write_text(json.dumps(old))
    with pytest.raises(DataError, match="variances are not negative"):
        read_law_file(tmp_path / "law.json")
