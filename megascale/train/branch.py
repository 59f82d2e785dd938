"""Decay branches: from a stable checkpoint, a run of its own whose learning rate decays at once.

One stable run can have many branches. The stable run's directory is only read, but for a pin that
keeps its retention policy from deleting the checkpoint.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megascale.config import RunConfig, build_config
from megascale.errors import CheckpointError, ConfigError
from megascale.units import format_count


def branch_config(config: RunConfig, checkpoint: Path) -> RunConfig:
    """The config of a decay branch that starts at `checkpoint`.

    `train.total_tokens` becomes the checkpoint's tokens + `lr.decay_tokens`, so the decay starts
    where the branch does and ends at its last token; batch points and data phases beyond that are
    left out. The name gets the suffix `-decay-TOKENS` unless it already differs from the stable
    run's.

    Args:
        config: of the stable run, with the branch's overrides.
        checkpoint: a checkpoint folder of the stable phase.

    Raises:
        ConfigError: no decay is configured, the schedule has no stable phase, or the checkpoint
            lies in the warmup or in a decay.
        CheckpointError: the checkpoint cannot be read.
    """
    from megascale.train.checkpoint import list_checkpoints
    from megascale.train.saved_state import read_training_state

    if not checkpoint.is_dir():
        siblings = [str(saved.path) for saved in list_checkpoints(checkpoint.parent)]
        raise CheckpointError.of(
            "--branch-decay", str(checkpoint), "no such checkpoint", siblings[-1:] or None
        )
    state = read_training_state(checkpoint)
    consumed = int(state["consumed_tokens"])
    if config.lr.kind not in ("wsd", "inverse_sqrt", "power"):
        raise ConfigError.of(
            "lr.kind", config.lr.kind, "a decay branch needs a schedule with a decay tail", "wsd"
        )
    if config.lr.decay_tokens == 0:
        raise ConfigError.of(
            "lr.decay_tokens",
            0,
            "a decay branch decays over lr.decay_tokens, which must be positive",
            format_count(max(1, consumed // 10)),
        )
    if state.get("lr_phase") != "stable":
        raise ConfigError.of(
            "--branch-decay",
            str(checkpoint),
            f"a decay branch starts from the stable phase; this checkpoint lies in the "
            f"{state.get('lr_phase')} phase of its run",
        )
    total = consumed + config.lr.decay_tokens
    content: dict[str, Any] = config.model_dump(mode="python")
    content["train"]["total_tokens"] = total
    content["data"]["phases"] = [
        phase for phase in content["data"]["phases"] if phase["start_tokens"] < total
    ]
    if config.batch.schedule is not None:
        content["batch"]["schedule"] = tuple(
            point for point in config.batch.schedule if point.start_tokens < total
        )
    stable_run = checkpoint.resolve().parent.parent
    if (Path(config.output_dir) / config.name).resolve() == stable_run:
        content["name"] = f"{config.name}-decay-{consumed}"
    return build_config(content, origin=f"decay branch of {checkpoint}")
