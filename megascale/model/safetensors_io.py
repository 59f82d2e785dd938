"""Safetensors folders read by slices and written one tensor at a time.

The library's own writer wants every tensor of a file in memory; here the header is written from
the plan and tensors follow as they come, so an export needs memory for one tensor only.
Format: u64 little-endian header length, JSON header, raw little-endian data.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import torch
from safetensors import SafetensorError, safe_open

from megascale.errors import CheckpointError
from megascale.formats.json_text import read_json
from megascale.model.count import elements
from megascale.shipped import legal_path

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """A tensor to be written: its name in the file and its shape."""

    name: str
    shape: tuple[int, ...]


def plan_shards(
    tensors: Iterable[PlannedTensor], dtype: torch.dtype, max_shard_bytes: int
) -> list[list[PlannedTensor]]:
    """Cut a sequence of tensors into files of at most `max_shard_bytes`, keeping the order.

    A tensor larger than the limit gets a file of its own.
    """
    shards: list[list[PlannedTensor]] = []
    used = max_shard_bytes
    for tensor in tensors:
        size = elements(tensor.shape) * dtype.itemsize
        if not shards or used + size > max_shard_bytes:
            shards.append([])
            used = 0
        shards[-1].append(tensor)
        used += size
    return shards


class ShardWriter:
    """Files of a plan, laid out whole at the start and filled in any order, one tensor at a time.

    One file is called `model.safetensors` and needs no index, as on the hub; several are numbered.
    Use as a context manager; leaving it without an error checks that nothing is missing.
    """

    def __init__(self, folder: Path, shards: Sequence[Sequence[PlannedTensor]], dtype: torch.dtype):
        """Create the files and, for more than one, the index in `folder`."""
        self._dtype = dtype
        self._stack = ExitStack()
        self._places: dict[str, tuple[BinaryIO, int, tuple[int, ...]]] = {}
        weight_map: dict[str, str] = {}
        total = 0
        for number, shard in enumerate(shards, start=1):
            several = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            name = SINGLE if len(shards) == 1 else several
            file = self._stack.enter_context((folder / name).open("wb"))
            header = _header(shard, dtype)
            file.write(header)
            offset = len(header)
            for tensor in shard:
                self._places[tensor.name] = (file, offset, tensor.shape)
                weight_map[tensor.name] = name
                offset += elements(tensor.shape) * dtype.itemsize
            file.truncate(offset)
            total += offset - len(header)
        self._missing = set(self._places)
        if len(shards) > 1:
            index = {"metadata": {"total_size": total}, "weight_map": weight_map}
            (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        if error is None and self._missing:
            raise CheckpointError.of(min(self._missing), "missing", "the model did not provide it")

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Write one tensor at its place, converted to the files' dtype.

        Raises:
            CheckpointError: the tensor has another shape than planned.
        """
        file, offset, shape = self._places[name]
        if tuple(tensor.shape) != shape:
            raise CheckpointError.of(name, tuple(tensor.shape), f"must have shape {shape}")
        data = tensor.detach().to("cpu", self._dtype).contiguous()
        file.seek(offset)
        file.write(data.reshape(-1).view(torch.uint8).numpy().data)
        self._missing.discard(name)


def _header(shard: Sequence[PlannedTensor], dtype: torch.dtype) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in shard:
        end = offset + elements(tensor.shape) * dtype.itemsize
        header[tensor.name] = {
            "dtype": DTYPES[dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


class SafetensorsFolder:
    """The tensors of a hub folder, read by slices. Use as a context manager.

    Raises:
        CheckpointError: no safetensors in the folder, a single file beside an index, a damaged or
            missing file, an index that points outside the folder.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._stack = ExitStack()
        self._files: dict[str, Any] = {}
        self._file_of = self._locate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        self._files.clear()

    @property
    def names(self) -> set[str]:
        """Names of all tensors."""
        return set(self._file_of)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the tensor called `name`."""
        return tuple(self._slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """dtype of the tensor called `name`, in safetensors' words."""
        return str(self._slice(name).get_dtype())

    def read(self, name: str, index: tuple[slice, ...]) -> torch.Tensor:
        """Read the part `index` of the tensor called `name`; only that part is loaded."""
        tensor: torch.Tensor = self._slice(name)[index]
        return tensor

    def _slice(self, name: str) -> Any:
        file = self._file_of[name]
        try:
            return self._open(file).get_slice(name)
        except SafetensorError as failure:
            raise CheckpointError.of(
                name, str(self.folder / file), f"the index names it, the file lacks it ({failure})"
            ) from failure

    def _open(self, file: str) -> Any:
        if file not in self._files:
            path = self.folder / file
            try:
                self._files[file] = self._stack.enter_context(safe_open(path, framework="pt"))
            except (SafetensorError, OSError) as failure:
                raise CheckpointError.of(
                    "safetensors file", str(path), f"missing or damaged: {failure}"
                ) from failure
        return self._files[file]

    def _locate(self) -> dict[str, str]:
        index, single = self.folder / INDEX, self.folder / SINGLE
        if index.is_file() and single.is_file():
            raise CheckpointError.of(
                "model folder",
                str(self.folder),
                f"has both {SINGLE} and {INDEX}: which of them is the model cannot be known. Move "
                "one of them away",
            )
        if index.is_file():
            content = read_json(index, "safetensors index", error=CheckpointError)
            weight_map = content.get("weight_map") if isinstance(content, dict) else None
            if not isinstance(weight_map, dict):
                raise CheckpointError.of(
                    "safetensors index", str(index), "must hold a weight_map: name -> file"
                )
            for name, file in weight_map.items():
                if not isinstance(file, str):
                    rule = "must be the name of a file"
                    raise CheckpointError.of(f"safetensors index {name}", file, rule)
                legal_path(file, f"safetensors index {name}", error=CheckpointError)
                if Path(file).name != file or not (self.folder / file).is_file():
                    raise CheckpointError.of(
                        f"safetensors index {name}", file, f"is not a file in {self.folder}"
                    )
            return dict(weight_map)
        if single.is_file():
            return dict.fromkeys(self._open(SINGLE).keys(), SINGLE)
        raise CheckpointError.of(
            "model folder",
            str(self.folder),
            f"has neither {SINGLE} nor {INDEX} (pickled weights are never read)",
        )
