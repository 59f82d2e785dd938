"""Where a run stands, as it goes into a checkpoint and comes out again on any layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from megascale.config import RunConfig
from megascale.train.build import Parts
from megascale.train.checkpoint import (
    LONGER_CONTEXT,
    check_same_model,
    load_checkpoint,
    read_rank_state,
    set_rng_state,
)
from megascale.train.checks import check_same_past
from megascale.train.guard import Guard
from megascale.train.telemetry.interval import IntervalAccumulator


@dataclass
class RunCounters:
    """The counters of a run.

    Attributes:
        step: finished steps.
        tokens: consumed tokens: the clock, and the whole state of the data.
        samples: consumed sequences.
        token_hash: `position_hash` of all consumed tokens.
    """

    step: int = 0
    tokens: int = 0
    samples: int = 0
    token_hash: int = 0


def pack_state(
    config: RunConfig,
    parts: Parts,
    progress: RunCounters,
    guard: Guard,
    interval: IntervalAccumulator,
    *,
    schedule_source: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything of the training state that is not a tensor, as JSON."""
    return {
        "samples": progress.samples,
        "token_hash": f"{progress.token_hash:016x}",
        "updates": parts.optimizer.updates,
        "lr_phase": parts.lr.phase(progress.tokens),
        "model": config.model.model_dump(mode="json"),
        "config_digest": config.digest(),
        "stream": parts.stream.fingerprint(before=progress.tokens),
        "skip_tokens": [list(window) for window in parts.stream.spec.skips],
        "tokenizer_sha256": parts.stream.spec.tokenizer_sha256,
        "schedule_source": dict(schedule_source),
        "layout": {
            "tensor": parts.mesh.tp_size,
            "data": parts.mesh.dp_size,
            "expert": parts.mesh.ep_size,
            "data_mode": parts.mesh.data_mode,
        },
        "threads": torch.get_num_threads(),
        "guard": guard.state_dict(),
        "interval": interval.state_dict(),
        "balance": None if parts.balance is None else parts.balance.state_dict(),
        "kernels": None if parts.kernels is None else parts.kernels.to_dict(),
        "noise_scale": None if parts.noise is None else parts.noise.state_dict(),
    }


def restore(
    path: Path,
    state: Mapping[str, Any],
    config: RunConfig,
    parts: Parts,
    guard: Guard,
    interval: IntervalAccumulator,
    *,
    allow_changed: tuple[str, ...] = (),
    branching: bool = False,
) -> tuple[RunCounters, list[str]]:
    """Load a verified checkpoint into this rank's parts; collective.

    Args:
        path: the checkpoint folder.
        state: its `state.json`, from `read_state`.
        allow_changed: as `check_same_past` takes it.
        branching: whether it is another run's, from which this one begins.

    Returns:
        Where the run stands, and what could not be bitwise the same (one line each).

    Raises:
        CheckpointError: of another model, or of other tokens; tensors do not fit.
    """
    tokens = int(state["consumed_tokens"])
    notes = check_same_model(
        path,
        state["model"],
        config.model.model_dump(mode="json"),
        LONGER_CONTEXT if branching else (),
    )
    notes += check_same_past(path, state, parts.stream, allow_changed)
    load_checkpoint(path, parts.chunks(state), state=dict(state))
    parts.optimizer.updates = int(state["updates"])
    guard.load_state_dict(state["guard"])
    interval.load_state_dict(state["interval"])
    if parts.balance is not None:
        note = parts.balance.load_state_dict(state["balance"])
        notes += [note] if note is not None else []
    # older checkpoints, and those of runs that did not measure it, hold none
    if parts.noise is not None and state.get("noise_scale") is not None:
        parts.noise.load_state_dict(state["noise_scale"])
    ranks = state["world_size"]
    own = None
    if ranks == parts.mesh.world_size:
        own = read_rank_state(path, parts.mesh.rank, state)
    if own is not None:
        set_rng_state(own, parts.mesh.device)
    else:
        notes.append(
            f"random generators start afresh: {ranks} ranks saved the checkpoint, "
            f"{parts.mesh.world_size} load it"
        )
    if state["threads"] != torch.get_num_threads():
        notes.append(
            f"{torch.get_num_threads()} CPU threads now, {state['threads']} when the checkpoint "
            "was saved: losses agree to rounding, not bitwise"
        )
    return (
        RunCounters(
            step=int(state["step"]),
            tokens=tokens,
            samples=int(state["samples"]),
            token_hash=int(state["token_hash"], 16),
        ),
        notes,
    )
