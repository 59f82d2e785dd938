"""A run's checkpoint, of any layout, to a hub folder, in one process and one tensor at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from pydantic import ValidationError

from megascale.data.tokenizer_folder import tokenizer_files
from megascale.errors import CheckpointError
from megascale.model.config import ModelConfig
from megascale.model.count import parameter_shapes
from megascale.model.hf import MAX_SHARD_BYTES, write_hub_folder
from megascale.parallel.shards import Chunk
from megascale.train.checkpoint import load_checkpoint, read_state, verify_checkpoint

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def export_checkpoint(
    checkpoint: str | Path,
    folder: str | Path,
    *,
    dtype: str = "fp32",
    max_shard_bytes: int = MAX_SHARD_BYTES,
    tokenizer: str | Path | None = None,
    eos_token_id: int | None = None,
) -> None:
    """Write the model of a checkpoint as a hub folder.

    Args:
        checkpoint: a checkpoint folder of a run; its hashes are checked first.
        folder: to be made.
        dtype: `fp32`, `bf16` or `fp16`.
        max_shard_bytes: largest file.
        tokenizer: `tokenizer.json` to copy beside the weights, with a `tokenizer_config.json`
            under which transformers gives the same ids.
        eos_token_id: token that ends a document, written into the folder's configs; None takes
            the tokenizer's usual one.

    Raises:
        CheckpointError: the checkpoint is damaged or holds no model; the folder exists.
        DataError: the tokenizer cannot be read, or has no such token.
        ConfigError: the model has parts that transformers lacks.
    """
    checkpoint = Path(checkpoint)
    verify_checkpoint(checkpoint)
    state = read_state(checkpoint)
    if "model" not in state:
        raise CheckpointError.of("checkpoint", str(checkpoint), "does not say which model it is of")
    try:
        config = ModelConfig.model_validate(state["model"])
    except ValidationError as error:
        rule = f"its model config cannot be read ({error.error_count()} problems)"
        raise CheckpointError.of("checkpoint", str(checkpoint), rule) from None
    extra: dict[str, bytes] = {}
    if tokenizer is not None:
        extra, eos_token_id = tokenizer_files(tokenizer, eos_token_id)
    write_hub_folder(
        config,
        saved_parameters(checkpoint, config),
        folder,
        dtype=DTYPES[dtype],
        max_shard_bytes=max_shard_bytes,
        eos_token_id=eos_token_id,
        extra_files=extra,
    )


def saved_parameters(checkpoint: Path, config: ModelConfig) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield name and whole value of every parameter of a checkpoint, one at a time.

    Raises:
        CheckpointError: a parameter is missing or of another shape.
    """
    for name, shape in parameter_shapes(config):
        value = torch.empty(shape)
        load_checkpoint(checkpoint, [Chunk(name, shape, (0,) * len(shape), value, 1)], partial=True)
        yield name, value
