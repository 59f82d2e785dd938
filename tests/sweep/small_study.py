"""A study small enough for tests: a base config of 16 steps, written beside the study file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from megascale.config import dump_yaml
from tests.tiny_run import MODEL, tiny_config


def write_study(folder: Path, *, base: dict[str, Any] | None = None, **keys: Any) -> Path:
    """Write `base.yaml`, its token files and `small.yaml`; returns the study's path.

    Args:
        folder: where to.
        base: sections over the base config's.
        keys: of the study, instead of one axis over two learning rates at scale smoke.
    """
    content = {
        "train": {
            "total_tokens": 4096,
            "sequence_length": 32,
            "micro_batch_size": 2,
            "threads": None,
        },
        "batch": {"schedule": "0: 256"},
        "lr": {"peak": 1e-2, "warmup_tokens": 256, "decay_tokens": 0},
    }
    for section, values in (base or {}).items():
        content[section] = content.get(section, {}) | values
    config = tiny_config(
        folder,
        model=dict(MODEL),
        data={"phases": [{"start_tokens": 0, "mixture": {"web": 0.5, "code": 0.5}}]},
        **content,
    )
    (folder / "base.yaml").write_text(dump_yaml(config))
    study: dict[str, Any] = {
        "name": "small",
        "question": "does it work",
        "base": "base.yaml",
        "scales": {"smoke": {"tokens_per_second": 10000}},
    }
    if "arms" not in keys:
        study["axes"] = {"lr": {"key": "lr.peak", "values": [0.01, 0.02]}}
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(study | keys, sort_keys=False))
    return path
