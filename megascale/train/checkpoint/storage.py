"""Store planned chunks in safetensors files with a JSON index: nothing is ever unpickled.

torch.distributed.checkpoint's own file storage keeps its index as a pickle and its tensors as
`torch.save` archives. This storage plugs into the same planning, writes one safetensors file per
rank (header first, then tensor after tensor, hashed on the way to the disk), and an index that
maps every global tensor to its boxes.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from errno import ENOSPC
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch.distributed.checkpoint.metadata import (
    STORAGE_TYPES,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
    WriteItem,
)
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from megascale.errors import CheckpointError, RunError
from megascale.train.checkpoint.directory import FORMAT, INDEX_FILE, rank_file, read_object

DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}
_TENSOR_FILE = re.compile(r"rank-\d{5}\.safetensors")
_MOST_DIMENSIONS = 8
_SPARE_BYTES = 1 << 20  # asked for beside the tensors: headers, index, state, log


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one chunk lies, and what its whole file weighs and hashes to."""

    file: str
    key: str
    file_bytes: int
    file_sha256: str


@dataclass(frozen=True, slots=True)
class _RankFile:
    """A rank's own file."""

    file: str
    bytes: int
    sha256: str


class SafetensorsWriter(StorageWriter):
    """Writes into a folder that is not yet a checkpoint; `finished` makes it one."""

    def __init__(
        self,
        folder: Path,
        finished: Callable[[dict[str, Any], dict[str, tuple[int, str]]], None],
        rank_state: bytes | None = None,
    ) -> None:
        """Args:
        folder: the temporary folder; made if missing.
        rank_state: content of this rank's own file; None for no such file.
        finished: called on the coordinator, after every rank has written, with the index and
            the tensor files' (bytes, sha256).
        """
        super().__init__()
        self._folder = folder
        self._finished = finished
        self._rank_state = rank_state

    def reset(self, checkpoint_id: str | os.PathLike | None = None) -> None:
        """Nothing to forget between checkpoints: each has its own writer."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Nothing to set up."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        self._folder.mkdir(parents=True, exist_ok=True)
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        need = sum(_chunk_bytes(item) for plan in plans for item in plan.items) + _SPARE_BYTES
        free = shutil.disk_usage(self._folder).free
        if free < need:
            raise OSError(
                ENOSPC,
                f"the checkpoint needs {need / 1e6:.1f} MB, {free / 1e6:.1f} MB are free",
                str(self._folder),
            )
        return [
            replace(plan, storage_data=f"rank-{rank:05d}.safetensors")
            for rank, plan in enumerate(plans)
        ]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        future: Future[list[WriteResult]] = Future()
        rank = int(plan.storage_data[len("rank-") : -len(".safetensors")])
        own = [] if self._rank_state is None else [self._write_rank_state(rank)]
        if not plan.items:
            future.set_result(own)
            return future
        header: dict[str, Any] = {}
        end = 0
        for item in plan.items:
            data = item.tensor_data
            assert data is not None
            begin, end = end, end + _chunk_bytes(item)
            header[chunk_key(item)] = {
                "dtype": DTYPE_NAMES[data.properties.dtype],
                "shape": list(data.chunk.sizes),
                "data_offsets": [begin, end],
            }
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        digest = hashlib.sha256()
        with open(self._folder / plan.storage_data, "wb") as file:
            for part in (len(text).to_bytes(8, "little"), text):
                file.write(part)
                digest.update(part)
            for item in plan.items:
                tensor = planner.resolve_data(item)
                assert isinstance(tensor, torch.Tensor)
                host = tensor.detach().cpu().contiguous().reshape(-1)
                if host.is_floating_point() and not torch.isfinite(host).all():
                    raise RunError.of(
                        "checkpoint",
                        str(self._folder),
                        f"{item.index.fqn} holds a number that is not finite: no checkpoint of it "
                        "is written, older ones stay",
                    )
                block = host.view(torch.uint8).numpy().data
                file.write(block)
                digest.update(block)
            file.flush()
            os.fsync(file.fileno())
        size = 8 + len(text) + end
        future.set_result(
            [
                WriteResult(
                    index=item.index,
                    size_in_bytes=_chunk_bytes(item),
                    storage_data=_Place(
                        plan.storage_data, chunk_key(item), size, digest.hexdigest()
                    ),
                )
                for item in plan.items
            ]
            + own
        )
        return future

    def _write_rank_state(self, rank: int) -> WriteResult:
        data = self._rank_state
        assert data is not None
        name = rank_file(rank)
        with open(self._folder / name, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        written = _RankFile(name, len(data), hashlib.sha256(data).hexdigest())
        return WriteResult(MetadataIndex(name), len(data), written)

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        written = [result for rank in results for result in rank]
        own = [one.storage_data for one in written if isinstance(one.storage_data, _RankFile)]
        places = {one.index: one.storage_data for one in written if one.storage_data not in own}
        tensors = {}
        for fqn, tensor in sorted(metadata.state_dict_metadata.items()):
            assert isinstance(tensor, TensorStorageMetadata)
            boxes = []
            for box in tensor.chunks:
                place = places[MetadataIndex(fqn, box.offsets)]
                boxes.append(
                    {
                        "offsets": list(box.offsets),
                        "shape": list(box.sizes),
                        "file": place.file,
                        "key": place.key,
                    }
                )
            tensors[fqn] = {
                "dtype": DTYPE_NAMES[tensor.properties.dtype],
                "shape": list(tensor.size),
                "chunks": boxes,
            }
        files = {one.file: (one.bytes, one.sha256) for one in own}
        files |= {place.file: (place.file_bytes, place.file_sha256) for place in places.values()}
        self._finished({"format": FORMAT, "tensors": tensors}, files)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike) -> bool:
        return True


class SafetensorsReader(StorageReader):
    """Reads what `SafetensorsWriter` wrote, for `torch.distributed.checkpoint.load`."""

    def __init__(self, path: Path, index: Mapping[str, Any]) -> None:
        """Args:
        path: the checkpoint.
        index: the part of its index that this rank needs, from `IndexParts.part`.
        """
        super().__init__()
        self._path = path
        self._index = index
        self._places: dict[MetadataIndex, tuple[str, str, list[int], str]] = {}

    def reset(self, checkpoint_id: str | os.PathLike | None = None) -> None:
        """Nothing to forget: a reader reads one checkpoint."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The part of the index as the library's metadata."""
        tensors: dict[str, STORAGE_TYPES] = {}
        for fqn, entry in self._index["tensors"].items():
            size, boxes = checked_entry(fqn, entry)
            dtype = entry["dtype"]
            for box, chunk in zip(boxes, entry["chunks"], strict=True):
                place = (chunk["file"], str(chunk["key"]), list(box.sizes), dtype)
                self._places[MetadataIndex(fqn, box.offsets)] = place
            properties = TensorProperties(dtype=_DTYPES[dtype])
            tensors[fqn] = TensorStorageMetadata(properties, size, boxes)
        return Metadata(tensors, storage_data=self._places, storage_meta=StorageMeta())

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any
    ) -> None:
        """Nothing to set up: `read_metadata` has filled in the places."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        by_file: dict[str, list[ReadItem]] = {}
        for item in plan.items:
            by_file.setdefault(self._places[item.storage_index][0], []).append(item)
        for name, items in by_file.items():
            try:
                with safe_open(self._path / name, framework="pt", device="cpu") as file:
                    for item in items:
                        self._read(file, item, planner)
            except (SafetensorError, OSError) as failure:
                raise CheckpointError.of(
                    "checkpoint", str(self._path / name), f"cannot be read ({failure})"
                ) from failure
        future: Future[None] = Future()
        future.set_result(None)
        return future

    def _read(self, file: Any, item: ReadItem, planner: LoadPlanner) -> None:
        name, key, shape, dtype = self._places[item.storage_index]
        stored = file.get_slice(key)
        if stored.get_shape() != shape or stored.get_dtype() != dtype:
            raise CheckpointError.of(
                "checkpoint", str(self._path / name), f"{key} is not what the index says"
            )
        if shape:
            part = stored[
                tuple(
                    slice(offset, offset + length)
                    for offset, length in zip(item.storage_offsets, item.lengths, strict=True)
                )
            ]
        else:
            part = file.get_tensor(key)
        target = planner.resolve_tensor(item)
        target.copy_(part)
        planner.commit_tensor(item, target)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike) -> bool:
        return True


def checked_index(path: Path) -> dict[str, Any]:
    """The index of a checkpoint, with every tensor covered once by its chunks.

    Raises:
        CheckpointError: missing, malformed, or the chunks of a tensor overlap or leave gaps.
    """
    index = read_object(path / INDEX_FILE)
    try:
        for fqn, entry in index["tensors"].items():
            size, boxes = checked_entry(fqn, entry)
            if not tiles(size, [(box.offsets, box.sizes) for box in boxes]):
                raise ValueError(f"the chunks of {fqn} overlap or do not make up the whole tensor")
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as failure:
        raise CheckpointError.of(
            "checkpoint", str(path / INDEX_FILE), f"malformed index ({failure!r})"
        ) from failure
    return index


def checked_entry(
    fqn: str, entry: Mapping[str, Any]
) -> tuple[torch.Size, list[ChunkStorageMetadata]]:
    """Size and boxes of a tensor's entry in the index.

    Raises:
        KeyError, TypeError, ValueError: it is malformed.
    """
    boxes = []
    size = _sizes(entry["shape"])
    if entry["dtype"] not in _DTYPES:
        raise ValueError(f"{fqn} has dtype {entry['dtype']!r}")
    for chunk in entry["chunks"]:
        box = ChunkStorageMetadata(_sizes(chunk["offsets"]), _sizes(chunk["shape"]))
        if not _TENSOR_FILE.fullmatch(chunk["file"]) or not isinstance(chunk["key"], str):
            raise ValueError(f"{fqn} in file {chunk['file']!r}")
        if not len(box.offsets) == len(box.sizes) == len(size) or any(
            offset + extent > whole
            for offset, extent, whole in zip(box.offsets, box.sizes, size, strict=True)
        ):
            raise ValueError(f"{fqn} has a chunk outside its tensor")
        boxes.append(box)
    return size, boxes


def chunk_key(item: WriteItem) -> str:
    """Name of a chunk in its safetensors file: the tensor's, with offsets when it is a part."""
    data = item.tensor_data
    assert data is not None
    if data.chunk.sizes == data.size:
        return item.index.fqn
    return f"{item.index.fqn}@{','.join(str(offset) for offset in data.chunk.offsets)}"


def _chunk_bytes(item: WriteItem) -> int:
    data = item.tensor_data
    assert data is not None
    return math.prod(data.chunk.sizes) * data.properties.dtype.itemsize


def _sizes(values: Any) -> torch.Size:
    if not isinstance(values, list) or len(values) > _MOST_DIMENSIONS:
        raise ValueError(f"sizes {values!r:.80}")
    if any(type(value) is not int or not 0 <= value < 2**63 for value in values):
        raise ValueError(f"sizes {values!r:.80}")
    return torch.Size(values)


def tiles(size: Sequence[int], boxes: Iterable[tuple[Sequence[int], Sequence[int]]]) -> bool:
    """Whether boxes (offsets, sizes) cover a tensor of `size` exactly once each element.

    How often each element is covered is a step function; it is one everywhere inside and nowhere
    else just when its jumps at the boxes' corners add up to those at the tensor's corners. That
    takes 2^dimensions sums a box, however many boxes there are.
    """
    if math.prod(size) == 0:
        return all(math.prod(extents) == 0 for _, extents in boxes)
    jumps: dict[tuple[int, ...], int] = {}
    parts = [((0,) * len(size), tuple(size), -1)]
    parts += [(tuple(offsets), tuple(extents), 1) for offsets, extents in boxes]
    for offsets, extents, sign in parts:
        if math.prod(extents) == 0:
            continue
        for ends in itertools.product((0, 1), repeat=len(size)):
            corner = tuple(o + e * end for o, e, end in zip(offsets, extents, ends, strict=True))
            jumps[corner] = jumps.get(corner, 0) + (-sign if sum(ends) % 2 else sign)
    return not any(jumps.values())
