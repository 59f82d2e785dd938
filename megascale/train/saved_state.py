"""The training state in a checkpoint, typed and bounded before anything is built on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from megascale.errors import CheckpointError
from megascale.train.checkpoint import read_state

_Count = Annotated[int, Field(ge=0, lt=2**63)]
_Number = Annotated[float, Field(allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Guard(_Part):
    window: list[Annotated[list[_Number], Field(min_length=4, max_length=4)]]
    skips: list[Annotated[list[int | str], Field(min_length=2, max_length=2)]]
    last_applied: int


class _Interval(_Part):
    steps: _Count
    skipped: _Count
    tokens: _Count
    loss_sum: _Number
    loss_tokens: _Count
    grad_norm_sum: _Number
    grad_norm_max: _Number
    grad_norms: _Count
    seconds: _Number
    flops: _Number
    expert_counts: list[list[_Count]] | None
    router_entropy_sum: list[_Number] | None
    routed_tokens: _Count
    extra_sums: dict[str, _Number]


class _Balance(_Part):
    trailing_window_tokens: _Count | None = None


class _Kernels(_Part):
    cpu: str
    matmul_library: str
    expert_kernel: str


class _State(_Part):
    samples: _Count
    token_hash: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    updates: _Count
    model: dict[str, Any]
    stream: str
    threads: Annotated[int, Field(ge=1)]
    guard: _Guard
    interval: _Interval
    balance: _Balance | None = None
    kernels: _Kernels | None = None


def read_training_state(path: str | Path) -> dict[str, Any]:
    """`read_state` of a checkpoint that a run wrote, with every key of the run's checked.

    Raises:
        CheckpointError: as `read_state`; a key is missing, of another type or out of bounds.
    """
    state = read_state(path)
    try:
        _State.model_validate(state)
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
            for item in error.errors(include_url=False)[:3]
        ]
        raise CheckpointError.of(
            "checkpoint", str(path), f"its state.json is not a run's ({'; '.join(problems)})"
        ) from None
    return state
