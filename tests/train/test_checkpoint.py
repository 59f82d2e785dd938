"""Checkpoints: what is written, what is read back, what is refused."""

from __future__ import annotations

import itertools
import json
import os
import random
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from megascale.errors import EXIT_CHECKPOINT, CheckpointError, RunError
from megascale.train.checkpoint import (
    Checkpointer,
    check_same_model,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    read_rank_state,
    read_state,
    rng_state,
    set_rng_state,
    verify_checkpoint,
)
from megascale.train.checkpoint.directory import manifest_bytes, read_manifest
from tests.train.checkpoint_samples import (
    Chunk,
    empty_like,
    equal,
    files_below,
    sample_chunks,
    whole,
)

STATE = {"guard": {"window": [[1, 2, 0.1, 1e-300]]}, "model": {"hidden_size": 4}}


def save(directory, step=1, chunks=None, **options):
    checkpointer = Checkpointer(directory)
    return checkpointer.save(
        step=step,
        tokens=step * 100,
        chunks=sample_chunks(step) if chunks is None else chunks,
        state=STATE,
        **options,
    )


def refresh_manifest(path):
    """Make the manifest agree with the files, as an attacker would."""
    import hashlib

    files = {
        name: ((path / name).stat().st_size, hashlib.sha256((path / name).read_bytes()).hexdigest())
        for name in read_manifest(path)
    }
    (path / "manifest.json").write_bytes(manifest_bytes(files))


def test_round_trip_is_bitwise(tmp_path):
    result = save(tmp_path, 3)
    assert result.path.name == "step-00000003-tokens-300"
    assert result.bytes == sum(len(data) for data in files_below(result.path).values())
    loaded = empty_like(sample_chunks(3))
    state = load_checkpoint(result.path, loaded)
    assert equal(loaded, sample_chunks(3))
    assert (state["step"], state["consumed_tokens"], state["world_size"]) == (3, 300, 1)
    assert {key: state[key] for key in STATE} == STATE


def test_negative_zero_and_the_smallest_numbers_keep_their_bits(tmp_path):
    bits = torch.tensor([0x7F7FFFFF, 0x00800000, -0x80000000, 1], dtype=torch.int32)
    odd = bits.view(torch.float32)
    result = save(tmp_path, chunks=[whole("odd", odd)])
    back = torch.zeros(4)
    load_checkpoint(result.path, [whole("odd", back)])
    assert torch.equal(back.view(torch.int32), bits)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_is_never_saved(tmp_path, value):
    with pytest.raises(RunError, match="odd holds a number that is not finite"):
        save(tmp_path, chunks=[whole("odd", torch.tensor([1.0, value]))])
    assert not list(tmp_path.glob("step-*"))


def test_non_contiguous_and_empty_tensors(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    result = save(tmp_path, chunks=[whole("t", base.t()), whole("none", torch.empty(0, 3))])
    target = torch.zeros(4, 6)
    load_checkpoint(result.path, [whole("t", target.t()), whole("none", torch.empty(0, 3))])
    assert torch.equal(target, base)


def test_tensor_files_are_plain_safetensors(tmp_path):
    path = save(tmp_path).path
    names = sorted(os.listdir(path))
    assert names == ["index.json", "manifest.json", "rank-00000.safetensors", "state.json"]
    tensors = load_file(path / "rank-00000.safetensors")
    assert torch.equal(tensors["model.weight"], sample_chunks(1)[0].local)


def test_own_keys_of_the_state_are_protected(tmp_path):
    with pytest.raises(ValueError, match="consumed_tokens"):
        Checkpointer(tmp_path).save(step=1, tokens=1, chunks=[], state={"consumed_tokens": 2})


def test_rng_states_continue_the_same_streams(tmp_path):
    def draw():
        return random.random(), np.random.rand(3).tolist(), torch.rand(3).tolist()  # noqa: NPY002

    np.random.randn()  # noqa: NPY002 - leaves a cached Gaussian
    random.gauss(0, 1)
    result = save(tmp_path, rank_state=rng_state())
    expected = draw()
    set_rng_state(read_rank_state(result.path, 0, read_state(result.path)))
    assert draw() == expected
    with pytest.raises(CheckpointError, match="RNG"):
        set_rng_state({"python": [3, [1], None]})


def test_saving_the_same_step_again_keeps_the_first_and_another_content_replaces_it(tmp_path):
    path = save(tmp_path).path
    before = files_below(path)
    save(tmp_path)
    assert files_below(path) == before
    assert not (tmp_path / "set-aside").exists()
    save(tmp_path, chunks=sample_chunks(9))
    loaded = empty_like(sample_chunks(9))
    load_checkpoint(path, loaded)
    assert equal(loaded, sample_chunks(9))
    assert files_below(tmp_path / "set-aside" / path.name) == before


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (lambda: sample_chunks()[:-1], "does not have: model.expert_count"),
        (lambda: [*sample_chunks(), whole("model.extra", torch.zeros(2))], "extra is missing"),
        (lambda: [*sample_chunks(rows=9)], r"model.weight is \[8, 5\], wanted \[9, 5\]"),
        (
            lambda: [whole("model.weight", torch.zeros(8, 5).double()), *sample_chunks()[1:]],
            "model.weight is torch.float32, wanted torch.float64",
        ),
    ],
)
def test_misfit_names_the_tensor(tmp_path, wanted, words):
    path = save(tmp_path).path
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(path, wanted())


def test_partial_load_takes_the_model_without_the_optimizer(tmp_path):
    path = save(tmp_path).path
    target = empty_like(sample_chunks()[:2])
    load_checkpoint(path, target, partial=True)
    assert equal(target, sample_chunks(1)[:2])


def cuts(total: int, where: list[int]) -> list[tuple[int, int]]:
    edges = sorted({0, total, *(point % total for point in where)})
    return list(itertools.pairwise(edges))


grids = st.tuples(*[st.lists(st.integers(0, 10), max_size=4)] * 2)


@settings(max_examples=30, deadline=None)
@given(saved=grids, wanted=grids)
def test_any_cut_loads_as_any_other_cut(tmp_path_factory, saved, wanted):
    """One rank with many boxes sees all the overlaps that many ranks with one box each see."""
    full = torch.randn(7, 9, generator=torch.Generator().manual_seed(0))

    def boxes(tensor, grid):
        for top, bottom in cuts(7, grid[0]):
            for left, right in cuts(9, grid[1]):
                yield Chunk("w", (7, 9), (top, left), tensor[top:bottom, left:right], 1)

    path = save(tmp_path_factory.mktemp("cut"), chunks=list(boxes(full, saved))).path
    target = torch.zeros(7, 9)
    load_checkpoint(path, boxes(target, wanted))
    assert torch.equal(target, full)


def test_gaps_and_overlaps_are_refused_when_saving(tmp_path):
    half = Chunk("w", (4,), (0,), torch.zeros(2), 1)
    with pytest.raises(CheckpointError, match="w"):
        save(tmp_path, chunks=[half])
    overlapping = [half, Chunk("w", (4,), (1,), torch.zeros(3), 1)]
    with pytest.raises(CheckpointError, match="overlapping"):
        save(tmp_path, chunks=overlapping)
    assert os.listdir(tmp_path) == []


def test_checkpoint_of_another_model_names_the_keys(tmp_path):
    saved = {"hidden_size": 64, "num_experts": 8, "rope": {"theta": 1e4}}
    current = {"hidden_size": 64, "num_experts": 16, "rope": {"theta": 1e6}}
    with pytest.raises(CheckpointError) as caught:
        check_same_model(tmp_path, saved, current)
    message = str(caught.value)
    assert "model.num_experts: 8 in the checkpoint, 16 in the config" in message
    assert "model.rope.theta" in message
    assert "hidden_size" not in message
    assert caught.value.exit_code == EXIT_CHECKPOINT
    check_same_model(tmp_path, saved, dict(saved))


def test_latest_is_by_tokens_and_foreign_folders_are_left_alone(tmp_path):
    assert latest_checkpoint(tmp_path / "missing") is None
    for name in (".tmp-step-00000009-tokens-900", "step-9-tokens-1", "notes"):
        (tmp_path / name).mkdir()
    for step in (2, 10, 9):
        save(tmp_path, step)
    found = latest_checkpoint(tmp_path)
    assert found.saved.step == 10
    assert found.rejected == []
    assert (tmp_path / "notes").is_dir()
    assert not (tmp_path / ".tmp-step-00000009-tokens-900").exists()


def test_verify_names_what_is_there_instead(tmp_path):
    save(tmp_path, 5)
    assert verify_checkpoint(tmp_path / "step-00000005-tokens-500").tokens == 500
    with pytest.raises(CheckpointError, match="Nearest legal: step-00000005-tokens-500"):
        verify_checkpoint(tmp_path / "step-00000006-tokens-600")


def test_background_save_keeps_the_state_of_the_moment(tmp_path):
    checkpointer = Checkpointer(tmp_path, asynchronous=True)
    chunks = sample_chunks(1)
    state = {"list": [1]}
    assert checkpointer.save(step=1, tokens=100, chunks=chunks, state=state) is None
    for chunk in chunks:
        chunk.local.zero_()  # training goes on
    state["list"].append(2)
    result = checkpointer.close()
    assert result.blocked_seconds <= result.seconds
    loaded = empty_like(chunks)
    assert load_checkpoint(result.path, loaded)["list"] == [1]
    assert equal(loaded, sample_chunks(1))


def test_one_background_save_at_a_time_and_errors_come_out_once(tmp_path, monkeypatch):
    checkpointer = Checkpointer(tmp_path, asynchronous=True)
    gate = threading.Event()
    write = Checkpointer._write

    def gated(self, *args):
        assert gate.wait(20)
        return write(self, *args)

    monkeypatch.setattr(Checkpointer, "_write", gated)
    options = {"chunks": sample_chunks(), "state": {}}
    checkpointer.save(step=1, tokens=1, **options)
    assert checkpointer.in_flight
    assert not checkpointer.finished
    assert not checkpointer.wait(0.01)
    gate.set()
    checkpointer.save(step=2, tokens=2, **options)  # waits for the first
    assert list_checkpoints(tmp_path)[0].step == 1
    assert checkpointer.wait(20)
    assert checkpointer.finished
    assert checkpointer.collect().step == 2
    bad = [Chunk("w", (4,), (0,), torch.zeros(2), 1)]
    checkpointer.save(step=3, tokens=3, chunks=bad, state={})
    with pytest.raises(CheckpointError):
        checkpointer.collect()
    assert checkpointer.collect() is None
    assert checkpointer.save(step=4, tokens=4, **options) is None
    assert checkpointer.close().step == 4


class Poison:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return (os.mkdir, (self.marker,))


def test_malicious_pickles_are_refused_and_never_run(tmp_path):
    """In every file of a checkpoint, with a manifest that agrees, and in files beside them."""
    import pickle

    marker = tmp_path / "executed"
    poison = pickle.dumps(Poison(marker))
    archive = tmp_path / "poison.pt"
    torch.save(Poison(marker), archive)
    for number, name in enumerate(["rank-00000.safetensors", "index.json", "state.json"], 1):
        for payload in (poison, archive.read_bytes()):
            path = save(tmp_path / f"{number}-{len(payload)}").path
            (path / name).write_bytes(payload)
            refresh_manifest(path)
            with pytest.raises(CheckpointError):
                load_checkpoint(path, empty_like(sample_chunks()))
            (path / "manifest.json").write_bytes(payload)
            with pytest.raises(CheckpointError):
                latest_checkpoint(path.parent)
    path = save(tmp_path / "beside").path
    for name in (".metadata", "__0_0.distcp"):
        (path / name).write_bytes(poison)
    load_checkpoint(path, empty_like(sample_chunks()))
    assert not marker.exists()
    pickle.loads(poison)  # the poison does work
    assert marker.exists()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda index: index["tensors"]["model.weight"]["chunks"][0].update(file="../../etc/passwd"),
        lambda index: index["tensors"]["model.weight"]["chunks"][0].update(file="/etc/passwd"),
        lambda index: index["tensors"]["model.weight"]["chunks"][0].update(offsets=[1, 0]),
        lambda index: index["tensors"]["model.weight"]["chunks"][0].update(shape=[8, -5]),
        lambda index: index["tensors"]["model.weight"]["chunks"][0].update(key="model.norm"),
        lambda index: index["tensors"]["model.weight"].update(chunks=[]),
        lambda index: index["tensors"]["model.weight"].update(dtype="object"),
        lambda index: index["tensors"]["model.weight"].update(shape="8x5"),
        lambda index: index.update(tensors=[1, 2]),
    ],
)
def test_malformed_index_is_refused(tmp_path, spoil):
    path = save(tmp_path).path
    index = json.loads((path / "index.json").read_text())
    spoil(index)
    (path / "index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError):
        load_checkpoint(path, empty_like(sample_chunks()))


def test_manifest_cannot_point_outside(tmp_path):
    path = save(tmp_path).path
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["../secret"] = {"bytes": 0, "sha256": ""}
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="bad entry"):
        read_manifest(path)
