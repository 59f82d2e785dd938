"""Initial weights that do not depend on the layout.

Every parameter is drawn in blocks of rows, each block from its own generator seeded by
(seed, parameter name, block), on the CPU in fp32. A rank draws only the blocks that its chunk
touches, and all layouts together hold bitwise the same model.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from megascale.model.config import ModelConfig
from megascale.model.parametrization import Scaling
from megascale.model.qwen3 import Qwen3
from megascale.parallel.mesh import Mesh
from megascale.parallel.shards import Chunk, model_chunks

BLOCK_ROWS = 1024
RESIDUAL_OUTPUTS = ("o_proj.weight", "down_proj.weight", "experts.down")


@torch.no_grad()
def initialize(
    model: Qwen3,
    mesh: Mesh,
    *,
    seed: int,
    depth_scaled: bool = False,
    scalings: Mapping[str, Scaling] | None = None,
) -> None:
    """Fill every parameter and buffer in place. Not collective.

    Norm weights are 1, biases 0, everything else normal with standard deviation
    `initializer_range`.

    Args:
        model: on its final device (after `to_empty` when built on meta); may be sharded by FSDP2.
        mesh: this rank's place.
        seed: of the whole model.
        depth_scaled: divide the standard deviation of the layers' output projections by
            `sqrt(2 * num_hidden_layers)` (Radford et al. 2019).
        scalings: parameter name -> its factors; None leaves gains and deviations as they are.
    """
    for chunk in model_chunks(model, mesh):
        if chunk.local.numel() == 0:
            continue
        factor = 1.0 if scalings is None else scalings[chunk.fqn].initial
        if chunk.fqn.endswith("norm.weight"):
            chunk.local.fill_(factor)
        elif chunk.fqn.endswith(".bias"):
            chunk.local.zero_()
        else:
            std = standard_deviation(chunk.fqn, model.config, depth_scaled=depth_scaled)
            _draw(chunk, std * factor, seed)
    for buffer in model.buffers():
        buffer.zero_()


def standard_deviation(fqn: str, config: ModelConfig, *, depth_scaled: bool) -> float:
    """Standard deviation of a weight's initial values."""
    std = config.initializer_range
    if depth_scaled and fqn.endswith(RESIDUAL_OUTPUTS):
        std /= math.sqrt(2 * config.num_hidden_layers)
    return std


def _draw(chunk: Chunk, std: float, seed: int) -> None:
    stacked = len(chunk.global_shape) > 2
    block = 1 if stacked else BLOCK_ROWS
    start, stop = chunk.box[0].start, chunk.box[0].stop
    for number in range(start // block, (stop - 1) // block + 1):
        first = number * block
        rows = min(block, chunk.global_shape[0] - first)
        values = _block((rows, *chunk.global_shape[1:]), std, f"{seed}/{chunk.fqn}/{number}")
        kept = slice(max(start, first), min(stop, first + rows))
        inside = slice(kept.start - first, kept.stop - first)
        chunk.local[kept.start - start : kept.stop - start].copy_(values[(inside, *chunk.box[1:])])


def _block(shape: tuple[int, ...], std: float, key: str) -> Tensor:
    digest = hashlib.sha256(key.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)
    return torch.empty(shape).normal_(0.0, std, generator=generator)
