"""The degrees of a run's parallel dimensions.

The ranks of a run form a box `tensor x data`; `expert` ranks are taken out of the data ranks
(they hold different experts and the same everything else). Nothing here imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Layout:
    """Degrees that fit the model and the world.

    Attributes:
        tensor: ranks that share every matrix multiplication.
        data: ranks that read different sequences.
        expert: ranks among the data ranks that hold different experts.
        data_mode: `ddp`, `fsdp` or `hsdp`.
        hsdp_replicate: HSDP only: replicas of the sharded model; 1 otherwise.
        sequence_parallel: whether activations between tensor-parallel regions are cut by token.
    """

    tensor: int = 1
    data: int = 1
    expert: int = 1
    data_mode: str = "ddp"
    hsdp_replicate: int = 1
    sequence_parallel: bool = False

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.tensor * self.data
