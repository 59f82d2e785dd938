"""Which parallel degrees fit a model: checked on paper, before any process group exists.

Each degree must divide what it cuts. Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol

from megascale.errors import LayoutError
from megascale.model.config import ModelConfig, nearest_divisors
from megascale.parallel.layout import Layout

DATA_MODES = ("ddp", "fsdp", "hsdp")


class TrainShape(Protocol):
    """What of the training config the layout depends on."""

    @property
    def sequence_length(self) -> int:
        """Tokens of one sequence."""

    @property
    def micro_batch_size(self) -> int:
        """Sequences per rank and micro-batch."""


class ParallelDegrees(Protocol):
    """The degrees as the user wrote them; `data = -1` fills the world."""

    @property
    def tensor(self) -> int: ...
    @property
    def data(self) -> int: ...
    @property
    def expert(self) -> int: ...
    @property
    def data_mode(self) -> str: ...
    @property
    def hsdp_replicate(self) -> int: ...
    @property
    def sequence_parallel(self) -> bool: ...


def validate_layout(
    model: ModelConfig,
    train: TrainShape,
    parallel: ParallelDegrees,
    world_size: int,
    *,
    sequence_lengths: Iterable[int] = (),
) -> Layout:
    """Check every degree against everything it must divide.

    Args:
        model: shape of the model.
        train: sequence length (tokens) and micro-batch size (sequences).
        parallel: the degrees asked for.
        world_size: ranks that will be started.
        sequence_lengths: further sequence lengths the schedule will reach (tokens).

    Returns:
        The layout, with `data = -1` resolved.

    Raises:
        LayoutError: naming the key, its value, the rule and the nearest legal values.
    """
    _at_least_one("parallel.tensor", parallel.tensor)
    _at_least_one("parallel.expert", parallel.expert)
    _check_tensor(model, parallel.tensor, world_size)
    data = _resolve_data(parallel, world_size)
    _check_expert(model, parallel, data)
    _check_data_mode(parallel, data)
    lengths = [train.sequence_length, *sequence_lengths]
    if parallel.sequence_parallel:
        _check_sequence(parallel.tensor, lengths)
    return Layout(
        tensor=parallel.tensor,
        data=data,
        expert=parallel.expert,
        data_mode=parallel.data_mode,
        hsdp_replicate=parallel.hsdp_replicate if parallel.data_mode == "hsdp" else 1,
        sequence_parallel=parallel.sequence_parallel,
    )


def _at_least_one(key: str, value: int) -> None:
    if value < 1:
        raise LayoutError.of(key, value, "a degree is at least 1", 1)


def _check_tensor(model: ModelConfig, tensor: int, world_size: int) -> None:
    cut = {
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_key_value_heads,
        "vocab_size": model.vocab_size,
    }
    if len(model.moe_layers) < model.num_hidden_layers:
        cut["intermediate_size"] = model.intermediate_size
    if model.is_moe:
        cut["moe_intermediate_size"] = model.moe_intermediate_size
    if model.shared_expert_intermediate_size:
        cut["shared_expert_intermediate_size"] = model.shared_expert_intermediate_size
    legal = [
        degree
        for degree in range(1, min(cut.values()) + 1)
        if all(size % degree == 0 for size in cut.values())
    ]
    for name, size in cut.items():
        if size % tensor:
            raise LayoutError.of(
                "parallel.tensor",
                tensor,
                f"must divide model.{name} = {size}",
                _nearest(tensor, [degree for degree in legal if world_size % degree == 0]),
            )
    if world_size % tensor:
        raise LayoutError.of(
            "parallel.tensor",
            tensor,
            f"must divide the number of ranks = {world_size}",
            _nearest(tensor, [degree for degree in legal if world_size % degree == 0]),
        )


def _resolve_data(parallel: ParallelDegrees, world_size: int) -> int:
    fitting = world_size // parallel.tensor
    if parallel.data == -1:
        return fitting
    _at_least_one("parallel.data", parallel.data)
    if parallel.data != fitting:
        raise LayoutError.of(
            "parallel.data",
            parallel.data,
            f"parallel.tensor = {parallel.tensor} times parallel.data must be the number of "
            f"ranks = {world_size}",
            [fitting, -1],
        )
    return fitting


def _check_expert(model: ModelConfig, parallel: ParallelDegrees, data: int) -> None:
    expert = parallel.expert
    if expert == 1:
        return
    if not model.is_moe:
        raise LayoutError.of("parallel.expert", expert, "the model has no experts to spread", 1)
    sharded = data
    if parallel.data_mode == "hsdp" and parallel.hsdp_replicate > 0:
        sharded = max(1, data // parallel.hsdp_replicate)
    legal = [
        degree
        for degree in range(1, model.num_experts + 1)
        if model.num_experts % degree == 0 and sharded % degree == 0
    ]
    if model.num_experts % expert:
        rule = f"must divide model.num_experts = {model.num_experts}"
    elif data % expert:
        rule = f"must divide the data-parallel ranks = {data}"
    elif sharded % expert:
        rule = f"must divide the data-parallel ranks of one HSDP replica = {sharded}"
    else:
        return
    raise LayoutError.of("parallel.expert", expert, rule, _nearest(expert, legal))


def _check_data_mode(parallel: ParallelDegrees, data: int) -> None:
    if parallel.data_mode not in DATA_MODES:
        raise LayoutError.of(
            "parallel.data_mode",
            parallel.data_mode,
            f"must be one of {', '.join(DATA_MODES)}",
            list(DATA_MODES),
        )
    replicate = parallel.hsdp_replicate
    _at_least_one("parallel.hsdp_replicate", replicate)
    if parallel.data_mode != "hsdp":
        if replicate != 1:
            raise LayoutError.of(
                "parallel.hsdp_replicate",
                replicate,
                f"has no meaning with parallel.data_mode = {parallel.data_mode}",
                1,
            )
    elif data % replicate:
        raise LayoutError.of(
            "parallel.hsdp_replicate",
            replicate,
            f"must divide the data-parallel ranks = {data}",
            nearest_divisors(replicate, data),
        )


def _check_sequence(tensor: int, lengths: list[int]) -> None:
    for length in lengths:
        if length % tensor:
            raise LayoutError.of(
                "parallel.sequence_parallel",
                True,
                f"cuts every sequence into parallel.tensor = {tensor} equal pieces, and sequences "
                f"of {length} tokens have none",
                False,
            )


def check_balance_window(
    window: int, micro_batches: Iterable[int], largest_batch: int, *, trails: bool
) -> None:
    """Check the window of the MoE balance loss against every cut that a schedule makes.

    Args:
        window: tokens of a balance window.
        micro_batches: tokens of a rank's micro-batch, in every part of the schedule.
        largest_batch: tokens of the largest global batch.
        trails: whether the loss uses trailing loads.

    Raises:
        LayoutError: naming the nearest windows that suit all of them.
    """
    key = "moe_balance.window_tokens"
    _at_least_one(key, window)
    if trails:
        if window < largest_batch:
            rule = f"trailing loads need windows no smaller than the largest batch, {largest_batch}"
            raise LayoutError.of(key, window, rule, largest_batch)
        return
    common = math.gcd(*micro_batches)
    if common % window:
        raise LayoutError.of(
            key,
            window,
            f"must divide the tokens of every micro-batch, and so their common divisor {common}; "
            "moe_balance.window_loads: trailing admits windows from the largest batch on",
            nearest_divisors(window, common),
        )


def _nearest(value: int, legal: list[int]) -> list[int]:
    below = [degree for degree in legal if degree <= value][-1:]
    above = [degree for degree in legal if degree > value][:1]
    return below + above
