"""Tables of points and of finished runs under our names and in our units; nothing is guessed."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megascale.errors import FitError
from megascale.runs.measured import grid_rows, name_columns, point_rows
from megascale.runs.vocabulary import GRID

ROWS = {"N": [1e8, 4e8], "D": [1e9, 8e9], "lr": [1e-3, 2e-3], "loss": [3.0, 2.5]}


def grid(rows: dict, **options) -> tuple[dict, list[str]]:
    table, notes = grid_rows(pl.DataFrame(rows), "t", needs=("lr",), **options)
    return table.to_dict(as_series=False), notes


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("N_millions", [100, 400]),
        ("params_m", [100, 400]),
        ("N (M)", [100.0, 400.0]),
        ("params_b", [0.1, 0.4]),
        ("params", ["100M", "400M"]),
        ("n_params", ["1e8", "0.4B"]),
    ],
)
def test_sizes_with_a_unit_are_understood(name: str, values: list) -> None:
    table, _ = grid({**{k: v for k, v in ROWS.items() if k != "N"}, name: values})
    assert table["n_params"] == pytest.approx([1e8, 4e8])


@pytest.mark.parametrize("column", ["N", "D"])
def test_millions_without_a_unit_are_refused(column: str) -> None:
    with pytest.raises(FitError, match=rf"{column} = 100.0: .*{column}_millions"):
        grid(ROWS | {column: [100, 400]})


def test_a_batch_says_its_unit() -> None:
    batch = ROWS | {"batch_size": [64, 128]}
    assert grid(batch, seq_length=2048)[0]["batch_tokens"] == [131072, 262144]
    assert grid(batch | {"seq_len": [1024, 2048]})[0]["batch_tokens"] == [65536, 262144]
    table, notes = grid(batch)
    assert "batch_tokens" not in table
    assert "counts sequences: --seq-length" in notes[0]
    with pytest.raises(FitError, match="counts sequences: --seq-length"):
        grid_rows(pl.DataFrame(batch), "t")
    large = ROWS | {"batch_size": [131072, 262144]}
    with pytest.raises(FitError, match=r"up to 262,144, too many.*batch_tokens=batch_size"):
        grid_rows(pl.DataFrame(large), "t", seq_length=2048)
    for ours, wanted in (("batch_tokens", 131072), ("batch_samples", 131072 * 2)):
        table, _ = grid(large, stated=[(ours, "batch_size")], seq_length=2)
        assert table["batch_tokens"][0] == wanted
    with pytest.raises(FitError, match=r"B says no unit: --columns batch_tokens=B or"):
        grid_rows(pl.DataFrame(ROWS | {"B": [64, 128]}), "t")
    table, notes = grid(ROWS | {"bs": [64, 128]})  # the Step Law's own tables
    assert table["batch_tokens"] == [64 * 2048, 128 * 2048]
    assert "sequences of 2048" in notes[0]


def test_the_loss_is_held_out_where_there_is_one() -> None:
    both = ROWS | {"val/loss": [3.1, 2.6]}
    table, notes = grid(both)
    assert table["loss"] == [3.1, 2.6]
    assert "the loss is column 'val/loss', not 'loss'" in notes[0]
    assert grid(both, loss="train")[0]["loss"] == [3.0, 2.5]
    assert grid(both, stated=[("loss", "loss")])[0]["loss"] == [3.0, 2.5]
    with pytest.raises(FitError, match="--loss = validation"):
        grid(ROWS, loss="validation")


def test_what_is_missing_is_listed_by_name() -> None:
    with pytest.raises(FitError) as failure:
        grid_rows(pl.DataFrame({"colour": [1], "loss": [2.0], "D": [1e9]}), "t")
    said = str(failure.value)
    assert "for a table of final losses these columns are missing: n_params" in said
    assert "lr (or " in said
    assert "batch_tokens (in tokens" in said
    assert "found: colour, loss, D" in said
    table, _ = grid({k: v for k, v in ROWS.items() if k != "N"}, constant={"n_params": 5e8})
    assert table["n_params"] == [5e8, 5e8]


def test_unfinished_runs_are_left_out_and_told() -> None:
    table, notes = grid(ROWS | {"State": ["crashed", "finished"]})
    assert table["loss"] == [2.5]
    assert notes == ["t: 1 runs left out that are crashed"]


def test_stated_columns_must_be_ours_and_there() -> None:
    with pytest.raises(FitError, match="hue"):
        name_columns(["colour"], GRID, [("hue", "colour")])
    with pytest.raises(FitError, match="not a column of the table"):
        name_columns(["colour"], GRID, [("lr", "eta")])


@given(
    steps=st.lists(st.floats(1.0, 1e6), min_size=1, max_size=5),
    batch=st.floats(1.0, 1e8),
    given_two=st.sampled_from([("S", "E"), ("S", "batch_tokens"), ("E", "batch_tokens")]),
)
def test_of_tokens_steps_and_batch_the_third_follows(steps, batch, given_two) -> None:
    whole = {"S": steps, "E": [s * batch for s in steps], "batch_tokens": [batch] * len(steps)}
    rows = pl.DataFrame({name: whole[name] for name in given_two})
    table, _ = point_rows(rows, "t")
    for ours, theirs in (("steps", "S"), ("tokens", "E"), ("batch_tokens", "batch_tokens")):
        assert table[ours].to_list() == pytest.approx(whole[theirs])


def test_points_lack_what_they_lack() -> None:
    with pytest.raises(FitError, match=r"points these columns are missing: steps .* or batch"):
        point_rows(pl.DataFrame({"E": [1e9], "target_loss": [3.0]}), "t")
    with pytest.raises(FitError, match="B says no unit"):
        point_rows(pl.DataFrame({"S": [10], "B": [64], "target_loss": [3.0]}), "t")
    rows = pl.DataFrame({"S": [10], "B": [64]})
    table, _ = point_rows(rows, "t", stated=[("batch_samples", "B")], seq_length=1024)
    assert table["tokens"].to_list() == [10 * 64 * 1024]
