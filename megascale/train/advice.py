"""Which changes of a config make it fit a card: each is tried on paper before it is named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import reduce
from math import gcd
from typing import Any

from megascale.config import RunConfig
from megascale.config.load import build_config
from megascale.errors import UserError
from megascale.train.explain import ExplainReport, explain
from megascale.train.rundir import saved_form

Change = dict[str, Any]
"""Dotted keys and their new values."""


def changed(config: RunConfig, change: Mapping[str, Any]) -> RunConfig:
    """`config` with other values at dotted keys of its sections.

    Raises:
        ConfigError: the result breaks a rule.
    """
    content = saved_form(config)
    for key, value in change.items():
        section, _, name = key.partition(".")
        content[section][name] = value
    return build_config(content)


def tried(explained: ExplainReport, change: Mapping[str, Any]) -> ExplainReport | None:
    """What `change` means on as many ranks; None where it is illegal or alters a batch."""
    try:
        other = explain(changed(explained.config, change), explained.world_size)
    except UserError:
        return None
    batches = [
        [(segment.start_tokens, segment.batch_tokens) for segment in report.schedule.segments]
        for report in (explained, other)
    ]
    return other if batches[0] == batches[1] else None


def largest_micro_batch(
    explained: ExplainReport, usable: int, change: Mapping[str, Any] | None = None
) -> int:
    """Most sequences a micro-batch may have with every batch as it is, by the memory on paper.

    Args:
        explained: the config on its ranks.
        usable: bytes of a card that may be filled.
        change: what else is to be different.

    Returns:
        Sequences that divide a rank's share of every batch; 0 where not even one fits.
    """
    base = tried(explained, change) if change else explained
    if base is None:
        return 0
    share = reduce(
        gcd, (part.micro_batch_size * part.micro_batches for part in base.schedule.segments)
    )
    for size in range(share, 0, -1):
        if share % size == 0:
            found = tried(explained, {**(change or {}), "train.micro_batch_size": size})
            if found is not None and found.memory.total <= usable:
                return size
    return 0


def nearest_fitting(explained: ExplainReport, usable: int, per_node: int) -> Change | None:
    """The first change, from small to large, with which the config fits; None if none does.

    Args:
        explained: the config on its ranks.
        usable: bytes of a card that may be filled.
        per_node: cards of a node, which tensor parallelism does not leave.
    """
    for change in _changes(explained, per_node):
        found = tried(explained, change)
        if found is not None and found.memory.total <= usable:
            return change
        size = largest_micro_batch(explained, usable, change)
        if size and size < explained.config.train.micro_batch_size:
            return {**change, "train.micro_batch_size": size}
    return None


def _changes(explained: ExplainReport, per_node: int) -> Iterator[Change]:
    config = explained.config
    recompute: Change = {}
    if config.train.activation_checkpointing != "blocks":
        recompute = {"train.activation_checkpointing": "blocks"}
    shard: Change = {"parallel.data_mode": "fsdp"} if config.parallel.data_mode == "ddp" else {}
    block: Change = {**shard, "parallel.fsdp_gather": "block"}
    yield {}
    yield recompute
    yield {**recompute, **shard}
    yield {**recompute, **block}
    for tensor in range(config.parallel.tensor + 1, per_node + 1):
        cut: Change = {"parallel.tensor": tensor, "parallel.data": -1}
        yield {**recompute, **block, **cut, "parallel.sequence_parallel": True}
