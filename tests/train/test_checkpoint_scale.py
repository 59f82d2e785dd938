"""What a rank reads and keeps does not grow with the ranks; older formats still load."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megascale.train.checkpoint import (
    load_checkpoint,
    read_rank_state,
    read_state,
    set_rng_state,
    verify_checkpoint,
)
from megascale.train.checkpoint.index_parts import IndexParts
from tests.train.checkpoint_samples import empty_like, equal, sample_chunks

OLD = Path(__file__).parent / "checkpoints_v1" / "step-00000003-tokens-12"


def index_of(ranks: int, tensors: int = 20, rows: int = 2) -> dict:
    """Tensors cut by rows over all ranks, and one that is whole."""
    cut = {
        f"layer.{number}": {
            "dtype": "F32",
            "shape": [ranks * rows, 4],
            "chunks": [
                {
                    "offsets": [rank * rows, 0],
                    "shape": [rows, 4],
                    "file": f"rank-{rank:05d}.safetensors",
                    "key": f"layer.{number}@{rank * rows},0",
                }
                for rank in range(ranks)
            ],
        }
        for number in range(tensors)
    }
    norm = {"offsets": [0], "shape": [4], "file": "rank-00000.safetensors", "key": "norm"}
    return {"tensors": {**cut, "norm": {"dtype": "F32", "shape": [4], "chunks": [norm]}}}


def wanted_of(rank: int, rows: int, tensors: int = 20) -> dict:
    boxes = {f"layer.{n}": [((rank * rows, 0), (rows, 4))] for n in range(tensors)}
    return {**boxes, "norm": [((0,), (4,))]}


@pytest.mark.parametrize("ranks", [4, 64, 512])
def test_a_ranks_part_of_the_index_is_as_large_for_few_ranks_as_for_many(ranks):
    parts = IndexParts(index_of(ranks))
    for rank in (0, ranks // 2, ranks - 1):
        part = parts.part(wanted_of(rank, 2))["tensors"]
        assert {len(entry["chunks"]) for entry in part.values()} == {1}
        assert len(json.dumps(part)) < 21 * 170
        assert part["layer.3"]["chunks"][0]["offsets"] == [rank * 2, 0]


def test_another_number_of_ranks_gets_the_overlaps_alone():
    parts = IndexParts(index_of(64))
    part = parts.part({"layer.0": [((5, 0), (6, 4))], "none": [((0,), (1,))]})["tensors"]
    assert list(part) == ["layer.0"]
    assert [chunk["offsets"][0] for chunk in part["layer.0"]["chunks"]] == [4, 6, 8, 10]


@given(st.data())
def test_every_overlap_is_found(data):
    rows, columns = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 5))
    row_cuts = sorted({0, rows, *data.draw(st.lists(st.integers(0, rows), max_size=3))})
    chunks = []
    for top, bottom in itertools.pairwise(row_cuts):
        cuts = sorted({0, columns, *data.draw(st.lists(st.integers(0, columns), max_size=2))})
        chunks += [
            {"offsets": [top, left], "shape": [bottom - top, right - left]}
            for left, right in itertools.pairwise(cuts)
        ]
    index = {"tensors": {"t": {"dtype": "F32", "shape": [rows, columns], "chunks": chunks}}}
    top, left = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
    high, wide = data.draw(st.integers(1, rows - top)), data.draw(st.integers(1, columns - left))
    mine = np.zeros((rows, columns), bool)
    mine[top : top + high, left : left + wide] = True
    overlapping = []
    for chunk in chunks:
        (row, column), (height, width) = chunk["offsets"], chunk["shape"]
        if mine[row : row + height, column : column + width].any():
            overlapping.append(chunk)
    part = IndexParts(index).part({"t": [((top, left), (high, wide))]})
    found = part["tensors"]["t"]["chunks"]
    assert sorted(map(str, found)) == sorted(map(str, overlapping))


def test_a_checkpoint_of_the_first_format_loads():
    verify_checkpoint(OLD)
    loaded = empty_like(sample_chunks(3))
    state = load_checkpoint(OLD, loaded)
    assert equal(loaded, sample_chunks(3))
    assert (state["step"], state["consumed_tokens"], state["samples"]) == (3, 12, 6)
    random.seed(5)
    torch.manual_seed(5)
    expected = random.random(), torch.rand(3)
    own = read_rank_state(OLD, 0, read_state(OLD))
    assert own is not None
    set_rng_state(own)
    assert random.random() == expected[0]
    assert torch.equal(torch.rand(3), expected[1])
    assert read_rank_state(OLD, 1, state) is None
