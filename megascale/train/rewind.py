"""Going back to an older checkpoint of the same run, with another learning rate, budget or data.

Optimizer and data position are the checkpoint's. What came after it stays on disk and in the log,
marked as abandoned: checkpoints move to `set-aside/`, and readers pass over the records.
"""

from __future__ import annotations

from pathlib import Path

from megascale.config import RunConfig
from megascale.errors import CheckpointError, RunError
from megascale.formats.run_log import read_run
from megascale.train.checkpoint.directory import (
    Saved,
    list_checkpoints,
    parse_checkpoint,
    set_aside,
)
from megascale.train.rundir import disk_error, run_began

REWOUND_MAY_CHANGE = (
    "train.total_tokens",
    "lr",
    "weight_decay",
    "optimizer",
    "moe_balance",
)
"""Config keys, beside those that every resumed run may change, that a rewound one may."""


def rewind_target(config: RunConfig, path: Path, checkpoint: Path) -> Saved | None:
    """The checkpoint that a run is to go back to; None where it went back to it before.

    A rewind with the same config from the same checkpoint would do again what was done since, so
    the same command, started again after a signal or by torchrun, resumes.

    Args:
        config: that the run goes on with.
        path: its run directory.
        checkpoint: one of its own checkpoints.

    Raises:
        CheckpointError: it is none.
    """
    folder = path / "checkpoints"
    own = [str(saved.path) for saved in list_checkpoints(folder)]
    if not run_began(path):
        raise CheckpointError.of(
            "--from",
            str(checkpoint),
            f"goes back within a run, and {path} holds none; another run starts from weights with "
            "train.initial_weights, a decay branch with --branch-decay",
        )
    saved = parse_checkpoint(checkpoint)
    inside = checkpoint.resolve().parent == folder.resolve()
    if _rewound_before(config, path, checkpoint):
        return None
    if saved is None or not inside:
        raise CheckpointError.of(
            "--from",
            str(checkpoint),
            f"must be a checkpoint in {folder} (one that was set aside is moved back there first)",
            own[-1] if own else None,
        )
    return saved


def leave_behind(saved: Saved) -> list[Path]:
    """Set aside the checkpoints beyond the one that a run goes back to; returns their new paths.

    Raises:
        RunError: one cannot be moved.
    """
    beside = list_checkpoints(saved.path.parent)
    try:
        return set_aside(one.path for one in reversed(beside) if one.tokens > saved.tokens)
    except OSError as failure:
        raise disk_error("checkpoints", saved.path.parent, failure) from failure


def _rewound_before(config: RunConfig, path: Path, checkpoint: Path) -> bool:
    try:
        events = read_run(path).events
    except RunError:
        return False
    rewinds = [event for event in events if event["kind"] == "rewind"]
    if not rewinds:
        return False
    last = rewinds[-1]
    same = Path(str(last.get("checkpoint"))).name == checkpoint.name
    return same and last.get("config_digest") == config.digest()
