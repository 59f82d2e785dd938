"""Tables of several runs without a column that is called so."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megascale.runs.check import check_runs
from megascale.runs.readers import csv
from megascale.runs.readers.base import ReadOptions
from megascale.runs.table import load_runs
from tests.runs.readers.helpers import kinds, read_as

SEEDS = "seed,step,tokens,loss\n" + "".join(
    f"{seed},{step},{step * 10},{5 - step - seed / 100}\n" for seed in range(20) for step in (1, 2)
)


def test_seeds_in_one_file_are_runs_of_their_own():
    found = read_as(csv, SEEDS)
    assert [meta.run for meta in found.runs] == [f"seed={seed}" for seed in range(20)]
    assert found.table.height == 40
    assert "separate_runs" in kinds(found)
    part = found.table.filter(pl.col("run") == "seed=7")
    assert part["loss"].to_list() == pytest.approx([3.93, 2.93])


def test_what_no_column_tells_apart_is_a_problem(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text(SEEDS.replace("seed,", "noise,"))
    found = [one for one in check_runs(load_runs(path, cache=False)) if one.kind == "mixed_runs"]
    assert [one.severity for one in found] == ["problem"]
    assert "2 of 2 steps have several instantaneous losses that differ" in found[0].message


def test_two_columns_together_tell_apart_what_one_does_not():
    rows = [(m, s, step) for m in ("a", "b") for s in (1, 2) for step in (1, 2)]
    text = "model,seed,step,loss\n" + "".join(
        f"{m},{s},{step},{5 - step - s / 10 - (m == 'b') / 100}\n" for m, s, step in rows
    )
    found = read_as(csv, text)
    assert [meta.run for meta in found.runs] == [
        f"model={m} seed={s}" for m in ("a", "b") for s in (1, 2)
    ]
    named = read_as(csv, text.replace("model,", "run,"))
    assert [meta.run for meta in named.runs] == [
        f"run={m} seed={s}" for m in ("a", "b") for s in (1, 2)
    ]


def test_sizes_tell_runs_apart_or_are_a_problem():
    text = "n_params,step,loss\n" + "".join(
        f"{n},{step},{5 - step - n / 1e7}\n" for n in (1_000_000, 2_000_000) for step in (1, 2)
    )
    found = read_as(csv, text)
    assert [meta.n_params for meta in found.runs] == [1_000_000, 2_000_000]
    apart = "n_params,step,loss\n1000000,1,5\n2000000,2,4\n"
    assert "mixed_runs" in kinds(read_as(csv, apart))


RUNS = st.dictionaries(
    st.text("abc", min_size=1, max_size=3),
    st.lists(st.floats(1, 9), min_size=3, max_size=3),
    min_size=1,
    max_size=4,
)


@given(RUNS)
def test_a_column_that_names_the_run_is_all_that_is_needed(runs):
    text = "run,seed,step,loss\n" + "".join(
        f"{run},3,{step},{loss!r}\n"
        for run, losses in runs.items()
        for step, loss in enumerate(losses, start=1)
    )
    found = read_as(csv, text, ReadOptions())
    assert [meta.run for meta in found.runs] == list(runs)
    assert found.table["loss"].to_list() == [loss for losses in runs.values() for loss in losses]
