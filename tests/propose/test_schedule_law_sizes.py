"""A law of whole schedules over model sizes: from runs to its file, and asked at another size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megascale.errors import FitError
from megascale.fitting.history_law import FORMS
from megascale.formats.schedule_law_file import read_schedule_law
from megascale.propose.prediction import predict_schedules
from megascale.propose.schedule_law import LawSearch, ScheduleLaw, search_schedule_law
from megascale.propose.seen_ranges import unseen_by_runs
from tests.laws.schedule.simulated import PLANS, SIZES, TRUTH, planned, run_of
from tests.verbs.scene import call

LAW = FORMS["power"].of_sizes()
POINT = {**TRUTH, **SIZES}


@pytest.fixture(scope="module")
def search() -> LawSearch:
    runs = [
        run_of(LAW, POINT, planned(plan, n_params=n, name=f"{plan[0]} {n:g}"), noise=0.002, seed=i)
        for n in (3e5, 1e6, 3e6)
        for i, plan in enumerate(PLANS)
    ]
    return search_schedule_law(
        runs, loss="validation", from_tokens=1.2e5, weight_decay=None, forms=("power", "tissue"),
        replicates=20, threads=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def file(search: LawSearch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("law") / "law.json"
    path.write_text(search.law.to_file("sizes").to_json())
    return path


def test_a_file_predicts_a_size_between_those_fitted(file: Path) -> None:
    law = ScheduleLaw.of_file(read_schedule_law(file))
    assert law.sized
    assert law.seen.n_params == (3e5, 3e6)
    for n in (3e5, 6e5, 2e6):
        history = planned(("new", [(0, 256), (6e5, 1024)], 2e5), n_params=n)
        true = run_of(LAW, POINT, history).loss[-1]
        [found] = predict_schedules(law, [history], [()])
        assert found.end.low < true < found.end.high
        assert found.end.value == pytest.approx(true, abs=0.01)


def test_all_ways_of_leaving_out_are_told(search: LawSearch) -> None:
    assert set(search.contest.elsewhere) == {"decays", "size"}
    assert search.contest.elsewhere["size"]["power"].end_error < 0.02
    assert not any("two sizes" in text for text in search.weak)


def test_a_size_outside_or_unknown_is_refused(file: Path) -> None:
    law = ScheduleLaw.of_file(read_schedule_law(file))
    far = planned(PLANS[0], n_params=1e7)
    assert unseen_by_runs(far, law.seen) == ("10M parameters, runs have 300K to 3M",)
    with pytest.raises(FitError, match="several sizes"):
        predict_schedules(law, [planned(PLANS[0])], [()])


def test_predict_asks_for_the_size(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["predict", "--law-file", str(file), "--batch", "0:256", "--lr", "5e-3"]
    words += ["--tokens", "1M", "--warmup", "50K"]
    assert call(words) == 2
    assert "--params" in capsys.readouterr().err
    assert call([*words, "--params", "10M"]) == 2
    assert "10M parameters, runs have 300K to 3M" in capsys.readouterr().err
    ends = {}
    for size in ("500K", "2M"):
        assert call([*words, "--params", size, "--json"]) == 0
        ends[size] = json.loads(capsys.readouterr().out)["schedules"][0]["end"]["value"]
    assert ends["2M"] < ends["500K"]


def test_two_sizes_are_said_to_be_levels() -> None:
    runs = [
        run_of(LAW, POINT, planned(plan, n_params=n, name=f"{plan[0]} {n:g}"), noise=0.002, seed=i)
        for n in (3e5, 1e6)
        for i, plan in enumerate(PLANS)
    ]
    found = search_schedule_law(
        runs, loss="validation", from_tokens=1.2e5, weight_decay=None, forms=("tissue",),
        replicates=20, threads=1, profiles=True,
    )  # fmt: skip
    assert any("two sizes" in text for text in found.weak)
    assert set(found.profiles) == set(found.law.fits[0].law.free)
    for name, (low, high) in found.profiles.items():
        assert low <= high, name
