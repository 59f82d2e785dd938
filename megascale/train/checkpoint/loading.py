"""Find the newest sound checkpoint and load it, on whatever layout is running now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from pydantic import ValidationError
from torch.distributed.checkpoint.api import CheckpointException

from megascale.errors import CheckpointError, ConfigError, UserError
from megascale.model.config import ModelConfig
from megascale.train.checkpoint.chunks import (
    ChunkLoadPlanner,
    ChunkSet,
    TensorChunk,
    group_chunks,
)
from megascale.train.checkpoint.directory import (
    FORMAT,
    READABLE,
    STATE_FILE,
    Saved,
    damage,
    damage_of,
    list_checkpoints,
    parse_checkpoint,
    rank_file,
    read_manifest,
    read_object,
    set_aside,
)
from megascale.train.checkpoint.index_parts import IndexParts
from megascale.train.checkpoint.saving import user_error
from megascale.train.checkpoint.storage import SafetensorsReader, checked_index
from megascale.train.rundir import disk_error, flatten

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Found:
    """The newest sound checkpoint, and why newer ones were passed over."""

    saved: Saved
    rejected: list[str]  # one line per finding, newest checkpoint first
    set_aside: list[Path]  # where damaged ones were moved to

    @property
    def path(self) -> Path:
        return self.saved.path


def latest_checkpoint(
    directory: str | Path,
    *,
    verify: bool = True,
    move_damaged: bool = False,
    group: dist.ProcessGroup | None = None,
) -> Found | None:
    """The newest checkpoint whose files match their manifest, the same on every rank.

    Collective when torch.distributed is initialised: rank 0 lists, all ranks share the hashing.

    Args:
        directory: a run's `checkpoints` folder.
        verify: check sizes and sha256 of every file; False takes the newest by name.
        move_damaged: move damaged checkpoints newer than the one found into `set-aside/`. Only
            for the process group that holds the run directory.
        group: the ranks to agree with, on gloo; None: all ranks.

    Returns:
        None if there is no checkpoint at all.

    Raises:
        CheckpointError: there are checkpoints, and every one of them is damaged.
        RunError: a damaged one could not be moved.
    """
    directory = Path(directory)
    rank, _ = _place(group)
    candidates = _from_first(list_checkpoints(directory) if rank == 0 else None, group)
    rejected: list[str] = []
    damaged: list[Path] = []
    for saved in reversed(candidates):
        findings = _damage(saved.path, group) if verify else []
        if not findings:
            moved = _move(damaged, rank, group) if move_damaged else []
            return Found(saved, rejected, moved)
        damaged.append(saved.path)
        rejected += findings
    if candidates:
        raise CheckpointError(
            f"checkpoint = {directory}: all {len(candidates)} are damaged: {'; '.join(rejected)}. "
            "Restore one from a copy, or choose another name or output_dir to start afresh"
        )
    return None


def verify_checkpoint(path: str | Path, *, group: dist.ProcessGroup | None = None) -> Saved:
    """Check one checkpoint that the user named, as `latest_checkpoint` does.

    Raises:
        CheckpointError: no such checkpoint, or damaged.
    """
    path = Path(path)
    saved = _from_first(parse_checkpoint(path), group)
    if saved is None:
        siblings = [one.path.name for one in list_checkpoints(path.parent)]
        raise CheckpointError.of(
            "checkpoint", str(path), "no such checkpoint", siblings[-1] if siblings else None
        )
    findings = _damage(path, group)
    if findings:
        raise CheckpointError(f"checkpoint = {path}: damaged: {'; '.join(findings)}")
    return saved


def read_state(path: str | Path) -> dict[str, Any]:
    """The non-tensor state of a checkpoint (`state.json`).

    Raises:
        CheckpointError: missing, malformed, or of another format version.
    """
    path = Path(path)
    state = read_object(path / STATE_FILE)
    if state.get("format") not in READABLE:
        raise CheckpointError.of(
            f"format of {path / STATE_FILE}", state.get("format"), "cannot be read", FORMAT
        )
    for key, least in (("step", 0), ("consumed_tokens", 0), ("world_size", 1)):
        value = state.get(key)
        if type(value) is not int or not least <= value < 2**63:
            rule = f"{key} must be a whole number of at least {least}, found {value!r:.60}"
            raise CheckpointError.of("checkpoint", str(path / STATE_FILE), rule)
    ranks = state.get("ranks", [])
    if not isinstance(ranks, list) or not all(isinstance(one, dict | None) for one in ranks):
        rule = "ranks must be a list of mappings, one a rank"
        raise CheckpointError.of("checkpoint", str(path / STATE_FILE), rule)
    return state


def read_rank_state(path: str | Path, rank: int, state: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the checkpoint keeps of one rank (its random states); None where it keeps nothing.

    Args:
        path: the checkpoint.
        rank: which one; each rank reads its own.
        state: of the checkpoint; the first format version kept all ranks' there.

    Raises:
        CheckpointError: the rank's file is malformed.
    """
    if "ranks" in state:
        ranks = state["ranks"]
        return ranks[rank] if rank < len(ranks) else None
    file = Path(path) / rank_file(rank)
    return read_object(file) if file.is_file() else None


def read_once(read: Callable[[], Value], group: dist.ProcessGroup | None = None) -> Value:
    """What `read` gives on the first rank, on every rank; so a file is read once for all.

    Collective when torch.distributed is initialised.

    Raises:
        UserError: the one that `read` raised, on every rank.
    """
    if not dist.is_initialized():
        return read()
    outcome: list[Any] = [None, None]
    if dist.get_rank(group) == 0:
        try:
            outcome = [read(), None]
        except UserError as failure:
            outcome = [None, failure]
    value, error = _from_first(outcome, group)
    if error is not None:
        raise error
    return value


def load_checkpoint(
    path: str | Path,
    chunks: Iterable[TensorChunk],
    *,
    state: dict[str, Any] | None = None,
    partial: bool = False,
    group: dist.ProcessGroup | None = None,
) -> dict[str, Any]:
    """Fill the chunks' tensors, in place, from a checkpoint of any layout.

    Collective when torch.distributed is initialised. Hashes are not checked here:
    `latest_checkpoint` and `verify_checkpoint` do. Nothing is unpickled.

    Args:
        path: the checkpoint.
        chunks: every tensor wanted, as this rank's boxes of global tensors.
        state: its state where it was read already; else it is read here, once for all ranks.
        partial: allow tensors in the checkpoint that no rank wants (loading the model without
            its optimizer).
        group: the ranks that load, on gloo; None: all ranks.

    Returns:
        The non-tensor state, as `read_state`.

    Raises:
        CheckpointError: names, shapes or dtypes do not fit, or a file is damaged; on every rank.
            Tensors may then be partly filled.
    """
    path = Path(path)
    if state is None:
        state = read_once(lambda: read_state(path), group)
    grouped = group_chunks(chunks)
    part, names = _own_part(path, grouped, group)
    try:
        dcp.load(
            grouped,
            storage_reader=SafetensorsReader(path, part),
            planner=ChunkLoadPlanner(partial=partial, names=names),
            process_group=group,
            no_dist=not dist.is_initialized(),
        )
    except CheckpointException as failure:
        raise user_error(failure, path) from failure
    return state


LONGER_CONTEXT = ("max_position_embeddings", "rope_theta")
"""Keys of a model that a stage of longer sequences may change: no tensor depends on them."""


def check_same_model(
    path: Path,
    saved: Mapping[str, Any],
    current: Mapping[str, Any],
    may_change: Iterable[str] = (),
) -> list[str]:
    """Refuse a checkpoint of another model.

    Args:
        path: the checkpoint, for the message.
        saved: the `ModelConfig` in it, as plain data.
        current: the `ModelConfig` of this run, as plain data.
        may_change: keys that may differ.

    Returns:
        A line for each of those that does.

    Raises:
        CheckpointError: naming every key that differs, with both values.
    """
    # Keys that came after the checkpoint stand at their defaults; those that are no more are named.
    with suppress(ValidationError, ConfigError):
        saved = ModelConfig.model_validate(dict(saved)).model_dump(mode="json")
    old, new = flatten(saved), flatten(current)
    differing = {
        key: f"model.{key}: {old.get(key)!r} in the checkpoint, {new.get(key)!r} in the config"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    }
    allowed = tuple(may_change)
    refused = [line for key, line in differing.items() if key not in allowed]
    if refused:
        hint = ""
        if set(differing) <= set(LONGER_CONTEXT):
            hint = "; a stage of longer sequences begins a run of its own with --branch-from"
        raise CheckpointError(
            f"checkpoint = {path}: is of another model: {'; '.join(refused)}. Use the config "
            f"it was saved with, or start another run{hint}"
        )
    return list(differing.values())


def _own_part(
    path: Path, grouped: Mapping[str, ChunkSet], group: dist.ProcessGroup | None
) -> tuple[dict[str, Any], list[str]]:
    """This rank's part of the index, which the first rank alone reads; there also all names."""
    wanted = {
        fqn: [(tuple(chunk.offsets), tuple(chunk.local.shape)) for chunk in one.chunks]
        for fqn, one in grouped.items()
    }
    if not dist.is_initialized():
        index = checked_index(path)
        return IndexParts(index).part(wanted), list(index["tensors"])
    rank, ranks = _place(group)
    all_wanted: list[Any] | None = [None] * ranks if rank == 0 else None
    dist.gather_object(wanted, all_wanted, group=group, group_dst=0)
    parts: list[Any] = [None] * ranks
    names: list[str] = []
    if all_wanted is not None:
        try:
            index = checked_index(path)
            names = list(index["tensors"])
            looked_up = IndexParts(index)
            parts = [looked_up.part(one) for one in all_wanted]
        except UserError as failure:
            parts = [failure] * ranks
    own: list[Any] = [None]
    dist.scatter_object_list(own, parts if rank == 0 else None, group=group, group_src=0)
    if isinstance(own[0], UserError):
        raise own[0]
    return own[0], names


def _place(group: dist.ProcessGroup | None) -> tuple[int, int]:
    if not dist.is_initialized():
        return 0, 1
    return dist.get_rank(group), dist.get_world_size(group)


def _from_first(value: Any, group: dist.ProcessGroup | None) -> Any:
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, group=group, group_src=0)
    return box[0]


def _damage(path: Path, group: dist.ProcessGroup | None) -> list[str]:
    """`damage` with the files shared out: one rank reads the manifest, each hashes its part."""
    if not dist.is_initialized():
        return damage(path)
    rank, ranks = _place(group)
    findings: list[str] = []
    shares: list[Any] | None = None
    if rank == 0:
        try:
            files = sorted(read_manifest(path).items())
        except CheckpointError as failure:
            files, findings = [], [str(failure)]
        shares = [dict(files[one::ranks]) for one in range(ranks)]
    own: list[Any] = [None]
    dist.scatter_object_list(own, shares, group=group, group_src=0)
    findings += damage_of(path, own[0])
    gathered: list[Any] | None = [None] * ranks if rank == 0 else None
    dist.gather_object(findings, gathered, group=group, group_dst=0)
    return _from_first([line for lines in gathered or [] for line in lines], group)


def _move(paths: list[Path], rank: int, group: dist.ProcessGroup | None) -> list[Path]:
    moved: list[Path] | Exception = []
    if rank == 0 and paths:
        try:
            moved = set_aside(paths)
        except OSError as failure:
            moved = disk_error("checkpoint", paths[0], failure)
    moved = _from_first(moved, group)
    if isinstance(moved, Exception):
        raise moved
    return moved
