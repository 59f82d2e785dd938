"""Checkpoints: sharded, atomic, verified by hashes, loadable on any layout, never unpickled."""

import warnings

from megascale.train.checkpoint.directory import (
    Retention,
    Saved,
    list_checkpoints,
    pin,
    set_aside,
)
from megascale.train.checkpoint.loading import (
    LONGER_CONTEXT,
    Found,
    check_same_model,
    latest_checkpoint,
    load_checkpoint,
    read_once,
    read_rank_state,
    read_state,
    verify_checkpoint,
)
from megascale.train.checkpoint.rng import rng_state, set_rng_state
from megascale.train.checkpoint.saving import Checkpointer, SaveResult

# A run of one process uses the same library calls as one of many; no need to be told every time.
warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable")

__all__ = [
    "LONGER_CONTEXT",
    "Checkpointer",
    "Found",
    "Retention",
    "SaveResult",
    "Saved",
    "check_same_model",
    "latest_checkpoint",
    "list_checkpoints",
    "load_checkpoint",
    "pin",
    "read_once",
    "read_rank_state",
    "read_state",
    "rng_state",
    "set_aside",
    "set_rng_state",
    "verify_checkpoint",
]
