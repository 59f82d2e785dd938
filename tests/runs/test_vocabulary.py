"""One vocabulary of columns: names of other programs, units, what is stated."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megascale.runs.readers import fields
from megascale.runs.vocabulary import (
    COLUMNS,
    GRID,
    LOGS,
    POINTS,
    column_words,
    columns_of,
    find_column,
    find_columns,
    names_of,
    our_name,
    scale_of,
)

KINDS = (LOGS, POINTS, GRID)


def test_every_column_has_a_unit_or_is_text_and_a_meaning() -> None:
    texts = {"run", "loss_kind"}
    for name, column in COLUMNS.items():
        assert column.meaning
        assert bool(column.unit) != (name in texts)
        assert column.names
        assert set(column.also) <= set(column.kinds)


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_is_one_column_of_a_kind_alone(kind) -> None:
    seen: dict[str, str] = {}
    for ours in columns_of(kind):
        for name in names_of(ours, kind):
            assert seen.setdefault(name, ours) == ours, name


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("learning_rate", "lr"),
        ("Learning Rate", "lr"),
        ("batch_size", "batch_samples"),
        ("val/loss", "validation"),
        ("eval/loss", "validation"),
        ("train/loss", "loss"),
        ("tokens_seen", "tokens"),
        ("consumed_tokens", "tokens"),
        ("Name", "run"),
        ("D", "tokens"),
        ("N", "n_params"),
        ("eta", "lr"),
    ],
)
def test_names_of_other_programs(theirs: str, ours: str) -> None:
    assert find_columns([theirs], GRID) == {ours: theirs}
    assert our_name(theirs, GRID) == ours


def test_single_letters_are_exact_and_belong_to_their_kind() -> None:
    assert find_columns(["S", "E", "L"], POINTS) == {
        "steps": "S", "tokens": "E", "target_loss": "L",
    }  # fmt: skip
    assert find_columns(["n", "d", "s", "e"], GRID) == {}
    assert find_columns(["N", "D", "E"], LOGS) == {}
    for kind in (POINTS, GRID):
        assert not {"batch_tokens", "batch_samples"} & {*find_columns(["B", "batch"], kind)}


def test_what_is_stated_comes_first() -> None:
    names = ["B", "bs", "final", "loss"]
    found = find_columns(names, GRID, [("batch", "B"), ("loss", "final")])
    assert found == {"batch_tokens": "B", "loss": "final"}
    assert find_columns(["eta", "lr"], GRID, [("learning_rate", "eta")]) == {"lr": "eta"}


@pytest.mark.parametrize(
    ("name", "ours", "scale"),
    [
        ("params_m", "n_params", 10**6),
        ("N (M)", "n_params", 10**6),
        ("n_params_in_millions", "n_params", 10**6),
        ("D_billions", "tokens", 10**9),
        ("tokens [B]", "tokens", 10**9),
        ("params", "n_params", None),
        ("loss_m", "loss", None),
        ("colour_m", "n_params", None),
    ],
)
def test_units_in_names(name: str, ours: str, scale: int | None) -> None:
    assert scale_of(name, ours, GRID) == scale


@given(st.sampled_from(KINDS), st.data())
def test_a_known_name_is_found_in_any_writing(kind, data) -> None:
    ours = data.draw(st.sampled_from(columns_of(kind)))
    name = data.draw(st.sampled_from(names_of(ours, kind)))
    written = name
    if len(name) > 1:
        change = data.draw(st.sampled_from([str.upper, str.lower, lambda text: f" {text} "]))
        written = change(name).replace("_", data.draw(st.sampled_from("_- ")))
    assert find_column(ours, ["colour", written], kind) == written


def test_readers_of_logs_use_the_same_names() -> None:
    for ours, names in fields.NAMES.items():
        assert names == names_of(ours, LOGS)


def test_columns_are_described_with_their_unit() -> None:
    assert column_words("batch_samples", GRID).startswith("batch_samples (in sequences, or bs")
    assert column_words("log_error", POINTS) == "log_error"
