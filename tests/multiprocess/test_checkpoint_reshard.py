"""Checkpoints saved on one layout and loaded on another are equal bit by bit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from megascale.errors import CheckpointError, RunError
from megascale.parallel.shards import Chunk
from megascale.train.checkpoint import (
    Checkpointer,
    Retention,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    read_rank_state,
    read_state,
    rng_state,
    verify_checkpoint,
)
from tests.multiprocess.harness import spawn_ranks

TENSORS = {
    # name: (shape, tensor-parallel dim, expert-parallel dim, data-parallel (FSDP) cut of rows)
    "model.embed_tokens.weight": ((16, 6), 0, None, True),
    "model.layers.0.self_attn.o_proj.weight": ((6, 8), 1, None, True),
    "model.layers.0.mlp.experts.gate_up": ((4, 2, 6, 5), None, 0, True),
    "model.layers.0.mlp.experts.down": ((4, 5, 6), None, 0, True),
    "model.layers.0.mlp.gate.weight": ((4, 5), None, None, True),
    "model.layers.0.mlp.expert_bias": ((4,), None, None, False),
    "model.norm.weight": ((5,), None, None, True),
    "balance.tokens": ((), None, None, False),
}
DTYPES = {"model.norm.weight": torch.bfloat16, "balance.tokens": torch.int64}

# (tp, ep, dp, fully sharded); ranks = tp * dp, ep divides dp
LAYOUTS = {
    "single": (1, 1, 1, False),
    "tp2": (2, 1, 1, False),
    "ddp2": (1, 1, 2, False),
    "fsdp2": (1, 1, 2, True),
    "ep2": (1, 2, 2, False),
    "tp2 x fsdp2": (2, 1, 2, True),
    "ep2 x fsdp2": (1, 2, 4, True),
    "fsdp4": (1, 1, 4, True),
    "tp4": (4, 1, 1, False),
    "ep4": (1, 4, 4, False),
}


def ranks_of(layout: str) -> int:
    tp, _, dp, _ = LAYOUTS[layout]
    return tp * dp


def full_tensor(name: str, seed: int) -> torch.Tensor:
    shape = TENSORS[name][0]
    generator = torch.Generator().manual_seed(seed * 1000 + list(TENSORS).index(name))
    dtype = DTYPES.get(name, torch.float32)
    if dtype == torch.int64:
        return torch.randint(0, 2**40, shape, generator=generator)
    return torch.randn(shape, generator=generator).to(dtype)


def box(layout: str, rank: int, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Offsets and sizes of a rank's part; rows are cut like FSDP2 does, rounding up."""
    tp, ep, dp, sharded = LAYOUTS[layout]
    shape, tp_dim, ep_dim, cuttable = TENSORS[name]
    offsets, sizes = [0] * len(shape), list(shape)
    tp_rank, dp_rank = rank % tp, rank // tp
    for dim, index, degree in ((tp_dim, tp_rank, tp), (ep_dim, dp_rank % ep, ep)):
        if dim is not None:
            sizes[dim] //= degree
            offsets[dim] += index * sizes[dim]
    if sharded and cuttable:
        index, degree = (dp_rank // ep, dp // ep) if ep_dim is not None else (dp_rank, dp)
        step = -(-sizes[0] // degree)
        begin = min(index * step, sizes[0])
        rows = min(step, sizes[0] - begin)
        offsets[0] += begin if rows else 0
        sizes[0] = rows
    return tuple(offsets), tuple(sizes)


def chunks(layout: str, rank: int, seed: int | None) -> list[Chunk]:
    """This rank's parts of parameters and moments; zeros when `seed` is None."""
    found = []
    for number, prefix in enumerate(("", "optimizer.exp_avg.", "optimizer.exp_avg_sq.")):
        for name in TENSORS:
            offsets, sizes = box(layout, rank, name)
            full = full_tensor(name, 0 if seed is None else seed + number)
            part = full[tuple(slice(o, o + s) for o, s in zip(offsets, sizes, strict=True))]
            part = torch.zeros_like(part) if seed is None else part.clone()
            found.append(Chunk(prefix + name, tuple(full.shape), offsets, part, 1))
    return found


def save_rank(rank: int, layout: str, folder: str, asynchronous: bool, seed: int) -> dict:
    checkpointer = Checkpointer(folder, asynchronous=asynchronous)
    torch.manual_seed(rank)
    mine = chunks(layout, rank, seed)
    result = checkpointer.save(
        step=seed, tokens=seed * 10, chunks=mine, state={"x": seed}, rank_state=rng_state()
    )
    if asynchronous:
        for chunk in mine:
            chunk.local.zero_()
        dist.all_reduce(torch.ones(3))  # training goes on meanwhile, on another group
        result = checkpointer.close()
    return {"path": str(result.path), "bytes": result.bytes}


def load_rank(rank: int, layout: str, folder: str, seed: int) -> int:
    found = latest_checkpoint(folder)
    loaded = chunks(layout, rank, None)
    state = load_checkpoint(found.path, loaded)
    assert state["x"] == seed
    for got, wanted in zip(loaded, chunks(layout, rank, seed), strict=True):
        assert torch.equal(got.local, wanted.local), got.fqn
    return found.saved.step


def load_on(layout: str, folder: str, seed: int) -> None:
    if ranks_of(layout) == 1:
        assert load_rank(0, layout, folder, seed) == seed
    else:
        assert spawn_ranks(ranks_of(layout), load_rank, layout, folder, seed) == [seed] * (
            ranks_of(layout)
        )


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(
    "layout", ["tp2", "ddp2", "fsdp2", "ep2", "tp2 x fsdp2", "ep2 x fsdp2", "fsdp4"]
)
def test_saved_on_any_layout_loads_on_every_other(tmp_path, layout, asynchronous):
    folder = str(tmp_path)
    spawn_ranks(ranks_of(layout), save_rank, layout, folder, asynchronous, 7)
    others = ["single", layout, "fsdp2"]
    if not asynchronous:
        others += ["tp2", "ep2", "tp2 x fsdp2", "tp4", "ep4", "ep2 x fsdp2"]
    for other in dict.fromkeys(others):
        load_on(other, folder, 7)


def test_saved_alone_loads_on_four(tmp_path):
    save_rank(0, "single", str(tmp_path), False, 3)
    for layout in ("tp4", "ep2 x fsdp2"):
        load_on(layout, str(tmp_path), 3)


def test_replicated_tensors_are_written_once_and_spread_over_the_ranks(tmp_path):
    alone = save_rank(0, "single", str(tmp_path / "alone"), False, 5)
    double = spawn_ranks(2, save_rank, "ddp2", str(tmp_path / "double"), False, 5)[0]
    tensor_bytes = sum(c.local.nbytes for c in chunks("single", 0, 5))
    for path in (alone["path"], double["path"]):
        stored = sum(p.stat().st_size for p in Path(path).glob("rank-*.safetensors"))
        assert tensor_bytes < stored < 2 * tensor_bytes + 4000
    sizes = [p.stat().st_size for p in sorted(Path(double["path"]).glob("rank-*.safetensors"))]
    assert len(sizes) == 2
    assert max(sizes) < 0.75 * sum(sizes)


def test_every_rank_keeps_its_own_random_state(tmp_path):
    (result, _) = spawn_ranks(2, save_rank, "ddp2", str(tmp_path), False, 1)
    kept = read_state(result["path"])
    assert "ranks" not in kept
    ranks = [read_rank_state(result["path"], rank, kept) for rank in range(2)]
    for rank, state in enumerate(ranks):
        torch.manual_seed(rank)
        assert state["torch"] == rng_state()["torch"]
    assert ranks[0]["torch"] != ranks[1]["torch"]


def _find(rank: int, folder: str) -> tuple:
    found = latest_checkpoint(folder, move_damaged=True)
    return found.saved.step, found.rejected, [str(path) for path in found.set_aside]


def test_all_ranks_agree_on_the_fallback_and_it_is_moved_once(tmp_path):
    for seed in (1, 2):
        save_rank(0, "single", str(tmp_path), False, seed)
    (tmp_path / "step-00000002-tokens-20" / "state.json").write_text("{}")
    answers = spawn_ranks(4, _find, str(tmp_path))
    assert answers == [answers[0]] * 4
    step, rejected, moved = answers[0]
    assert step == 1
    assert len(rejected) == 1
    assert moved == [str(tmp_path / "set-aside" / "step-00000002-tokens-20")]
    assert [saved.step for saved in list_checkpoints(tmp_path)] == [1]


def _save_with_one_bad_disk(rank: int, folder: str, asynchronous: bool) -> str:
    checkpointer = Checkpointer(folder, asynchronous=asynchronous, retention=Retention(2))
    options = {"state": {"x": 1}, "chunks": chunks("ddp2", rank, 1)}
    checkpointer.save(step=1, tokens=10, **options)
    checkpointer.collect()
    if rank == 1:

        def full(descriptor):
            raise OSError(28, "No space left on device")

        os.fsync = full
    try:
        checkpointer.save(step=2, tokens=20, **options)
        checkpointer.collect()
    except RunError as failure:
        return str(failure)
    return "saved"


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_failure_of_one_rank_is_an_error_on_all_and_leaves_the_old_set(tmp_path, asynchronous):
    answers = spawn_ranks(2, _save_with_one_bad_disk, str(tmp_path), asynchronous)
    assert answers[0] == answers[1]
    assert "No space left on device; free some space" in answers[0]
    assert os.listdir(tmp_path) == ["step-00000001-tokens-10"]


def _load_wrong_shape(rank: int, folder: str) -> str:
    wanted = chunks("ddp2", rank, None)
    if rank == 1:
        wanted[0] = Chunk(wanted[0].fqn, (3, 3), (0, 0), torch.zeros(3, 3), 1)
    path = verify_checkpoint(Path(folder) / "step-00000001-tokens-10").path
    try:
        load_checkpoint(path, wanted)
    except CheckpointError as failure:
        return str(failure)
    return "loaded"


def test_misfit_on_one_rank_stops_all(tmp_path):
    save_rank(0, "single", str(tmp_path), False, 1)
    answers = spawn_ranks(2, _load_wrong_shape, str(tmp_path))
    assert answers[0] == answers[1]
    assert "embed_tokens.weight is [16, 6], wanted [3, 3]" in answers[0]
