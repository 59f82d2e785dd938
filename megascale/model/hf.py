"""Weights in and out of hub folders: sharded safetensors that transformers loads as they are.

Parameters go through one at a time, so neither direction ever holds the whole model. Reading
takes only the slices a rank owns, on any layout; writing gathers one parameter after another and
rank 0 writes it.

The only difference of names: the experts of a layer are stacked here (`experts.gate_up
[E, 2, I, H]`, `experts.down [E, H, I]`), separate on the hub (`experts.3.gate_proj.weight [I, H]`)
and fused in transformers' memory (`experts.gate_up_proj [E, 2I, H]`, `experts.down_proj`). Both of
the latter are read; the hub's is written.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from megascale.errors import CheckpointError
from megascale.model.config import ModelConfig, read_model_config
from megascale.model.count import parameter_shapes
from megascale.model.qwen3 import Qwen3
from megascale.model.safetensors_io import (
    DTYPES,
    PlannedTensor,
    SafetensorsFolder,
    ShardWriter,
    plan_shards,
)
from megascale.parallel.mesh import Mesh
from megascale.parallel.shards import gather_each, model_chunks

if TYPE_CHECKING:
    from megascale.model.qwen3 import Qwen3

GATE_UP, DOWN = ".experts.gate_up", ".experts.down"
NOT_IN_WEIGHTS = frozenset({"max_position_embeddings", "initializer_range", "expert_bias"})
"""Config keys that may differ between a folder and the model its weights are loaded into."""

MAX_SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True, slots=True)
class HubTensor:
    """One tensor of a hub folder and where it lies in the model.

    Attributes:
        name: its name on the hub.
        parameter: name of the model's parameter.
        index: leading indices into the parameter; empty for the whole of it.
        shape: shape on the hub, which is the parameter's shape after `index`.
    """

    name: str
    parameter: str
    index: tuple[int, ...]
    shape: tuple[int, ...]


def hub_tensors(config: ModelConfig) -> Iterator[HubTensor]:
    """Yield the tensors of `config`'s hub folder, in the order of the model's parameters."""
    for parameter, shape in parameter_shapes(config):
        if parameter.endswith(GATE_UP):
            experts = parameter.removesuffix(".gate_up")
            for expert in range(shape[0]):
                for half, projection in enumerate(("gate_proj", "up_proj")):
                    name = f"{experts}.{expert}.{projection}.weight"
                    yield HubTensor(name, parameter, (expert, half), shape[2:])
        elif parameter.endswith(DOWN):
            experts = parameter.removesuffix(".down")
            for expert in range(shape[0]):
                yield HubTensor(
                    f"{experts}.{expert}.down_proj.weight", parameter, (expert,), shape[1:]
                )
        else:
            yield HubTensor(parameter, parameter, (), shape)


def write_hub_folder(
    config: ModelConfig,
    parameters: Iterable[tuple[str, torch.Tensor]],
    folder: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    eos_token_id: int | None = None,
    extra_files: Mapping[str, bytes] | None = None,
) -> None:
    """Write a model as a hub folder; it appears whole or not at all.

    Args:
        config: shape of the model.
        parameters: name and full value of every parameter, in any order; consumed one at a time.
        folder: to be made; its parent must exist.
        dtype: of the written weights.
        max_shard_bytes: largest file; a larger single tensor gets a file of its own.
        eos_token_id: written into `config.json` and `generation_config.json` when known.
        extra_files: name to content of further files, such as `tokenizer.json`.

    Raises:
        ConfigError: the model has parts that transformers lacks.
        CheckpointError: the folder exists, a tensor has another shape, or the disk refuses.
    """
    folder = Path(folder)
    hf_config = config.to_hf() | {"torch_dtype": str(dtype).removeprefix("torch.")}
    generation: dict[str, Any] = {"_from_model_config": True}
    if eos_token_id is not None:
        hf_config["eos_token_id"] = generation["eos_token_id"] = eos_token_id
    if dtype not in DTYPES:
        raise CheckpointError.of("dtype", str(dtype), "is not written", [str(d) for d in DTYPES])
    if folder.exists():
        raise CheckpointError.of("output folder", str(folder), "exists; name one that does not")
    tensors = list(hub_tensors(config))
    places: dict[str, list[HubTensor]] = {}
    for tensor in tensors:
        places.setdefault(tensor.parameter, []).append(tensor)
    shards = plan_shards((PlannedTensor(t.name, t.shape) for t in tensors), dtype, max_shard_bytes)
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        with ShardWriter(partial, shards, dtype) as writer:
            for name, value in parameters:
                for tensor in places[name]:
                    writer.write(tensor.name, value[tensor.index])
        for file, content in (("config.json", hf_config), ("generation_config.json", generation)):
            (partial / file).write_text(json.dumps(content, indent=2) + "\n")
        for file, data in (extra_files or {}).items():
            (partial / file).write_bytes(data)
        partial.rename(folder)
    except OSError as failure:
        raise CheckpointError.of(
            "output folder", str(folder), f"cannot be written: {failure.strerror}"
        ) from failure
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def export_model(
    model: Qwen3,
    mesh: Mesh,
    folder: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    eos_token_id: int | None = None,
) -> None:
    """Write a live model, on any layout, as a hub folder. Collective; rank 0 writes.

    Args:
        model: bare or wrapped by FSDP2.
        mesh: this rank's place.
        folder, dtype, max_shard_bytes, eos_token_id: as for `write_hub_folder`.

    Raises:
        ConfigError: as `write_hub_folder`, on every rank.
        CheckpointError: as `write_hub_folder`, on rank 0, after the other ranks are through.
    """
    model.config.to_hf()
    gathered = gather_each(model, mesh)
    try:
        if mesh.rank == 0:
            write_hub_folder(
                model.config,
                gathered,
                folder,
                dtype=dtype,
                max_shard_bytes=max_shard_bytes,
                eos_token_id=eos_token_id,
            )
    finally:
        for _ in gathered:
            pass


@torch.no_grad()
def import_model(model: Qwen3, mesh: Mesh, folder: str | Path) -> None:
    """Fill a model, on any layout, from a hub folder; each rank reads only what it owns.

    Not collective.

    Raises:
        CheckpointError: the folder is damaged or of another model.
    """
    with HubWeights(folder, model.config) as weights:
        for chunk in model_chunks(model, mesh):
            if chunk.local.numel():
                weights.read_into(chunk.fqn, chunk.offsets, chunk.local)


class HubWeights:
    """The weights of a hub folder, checked against a config, read by parts of our parameters.

    Use as a context manager.

    Raises:
        CheckpointError: a tensor is missing, unexpected or of another shape; the folder's config
            is of another model.
    """

    def __init__(self, folder: str | Path, config: ModelConfig | None = None):
        """Open and check a folder.

        Args:
            folder: with `config.json` and safetensors.
            config: the model to be filled; the folder's own config where None.
        """
        self._files = SafetensorsFolder(folder)
        found = read_model_config(folder)
        self.config = config or found
        self._check_config(found)
        fused = any(name.endswith(".experts.gate_up_proj") for name in self._files.names)
        self._fused = fused and self.config.is_moe
        self._check_tensors()

    def __enter__(self) -> HubWeights:
        return self

    def __exit__(self, *error: Any) -> None:
        self._files.__exit__(*error)

    def read_into(self, parameter: str, offsets: tuple[int, ...], out: torch.Tensor) -> None:
        """Fill `out` with the part of `parameter` that starts at `offsets`.

        Args:
            parameter: the model's name.
            offsets: where `out` begins in the whole parameter, one per dimension.
            out: any dtype and device; converted on the way.
        """
        part = tuple(slice(start, start + size) for start, size in zip(offsets, out.shape))
        if parameter.endswith(GATE_UP):
            self._read_gate_up(parameter.removesuffix(".gate_up"), part, out)
        elif parameter.endswith(DOWN):
            self._read_down(parameter.removesuffix(".down"), part, out)
        else:
            out.copy_(self._files.read(parameter, part))

    def _read_gate_up(self, experts: str, part: tuple[slice, ...], out: torch.Tensor) -> None:
        inner, rest = self.config.moe_intermediate_size, part[2:]
        for half in range(part[1].start, part[1].stop):
            place = half - part[1].start
            if self._fused:
                rows = slice(half * inner + rest[0].start, half * inner + rest[0].stop)
                name = f"{experts}.gate_up_proj"
                out[:, place].copy_(self._files.read(name, (part[0], rows, rest[1])))
                continue
            projection = ("gate_proj", "up_proj")[half]
            for expert in range(part[0].start, part[0].stop):
                name = f"{experts}.{expert}.{projection}.weight"
                out[expert - part[0].start, place].copy_(self._files.read(name, rest))

    def _read_down(self, experts: str, part: tuple[slice, ...], out: torch.Tensor) -> None:
        if self._fused:
            out.copy_(self._files.read(f"{experts}.down_proj", part))
            return
        for expert in range(part[0].start, part[0].stop):
            name = f"{experts}.{expert}.down_proj.weight"
            out[expert - part[0].start].copy_(self._files.read(name, part[1:]))

    def _check_config(self, found: ModelConfig) -> None:
        for key in ModelConfig.model_fields:
            ours, theirs = getattr(self.config, key), getattr(found, key)
            if ours != theirs and key not in NOT_IN_WEIGHTS:
                raise CheckpointError.of(
                    f"config.json {key}", theirs, f"the model to be filled has {ours}"
                )

    def _check_tensors(self) -> None:
        expected = self._expected()
        names = self._files.names
        if self.config.tie_word_embeddings and "lm_head.weight" in names:
            self._check_tied()
            names.discard("lm_head.weight")
        if missing := sorted(set(expected) - names):
            raise CheckpointError.of(
                missing[0],
                "missing",
                f"must be a tensor of shape {expected[missing[0]]} ({_and_more(missing)})",
            )
        if unexpected := sorted(names - set(expected)):
            raise CheckpointError.of(
                unexpected[0],
                f"a tensor of shape {self._files.shape(unexpected[0])}",
                f"is no part of this model ({_and_more(unexpected)})",
            )
        for name, shape in expected.items():
            if self._files.shape(name) != shape:
                raise CheckpointError.of(
                    name, f"shape {self._files.shape(name)}", f"must have shape {shape}"
                )
            if (dtype := self._files.dtype(name)) not in DTYPES.values():
                raise CheckpointError.of(
                    name,
                    f"dtype {dtype}",
                    "quantised weights mean nothing without their scales; write the model out in "
                    "a floating-point type first",
                    sorted(DTYPES.values()),
                )

    def _expected(self) -> dict[str, tuple[int, ...]]:
        if not self._fused:
            return {tensor.name: tensor.shape for tensor in hub_tensors(self.config)}
        expected: dict[str, tuple[int, ...]] = {}
        for name, shape in parameter_shapes(self.config):
            if name.endswith(GATE_UP):
                experts, halves, inner, hidden = shape
                expected[f"{name}_proj"] = (experts, halves * inner, hidden)
            elif name.endswith(DOWN):
                expected[f"{name}_proj"] = shape
            else:
                expected[name] = shape
        return expected

    def _check_tied(self) -> None:
        """A tied model's file may repeat the table as `lm_head.weight`: it must be the same."""
        rows = 16384
        for start in range(0, self.config.vocab_size, rows):
            block = (slice(start, start + rows), slice(None))
            table = self._files.read("model.embed_tokens.weight", block)
            if not torch.equal(self._files.read("lm_head.weight", block), table):
                raise CheckpointError.of(
                    "lm_head.weight",
                    "other values than model.embed_tokens.weight",
                    "tie_word_embeddings = true makes them one table",
                )


def _and_more(names: list[str]) -> str:
    return "1 tensor" if len(names) == 1 else f"1 of {len(names)} tensors, the last {names[-1]}"
