"""A small complete config as a mapping, for tests to change."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

_SMALL: dict[str, Any] = {
    "model": {
        "vocab_size": 4096,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
    },
    "data": {"sources": {"text": {"path": "corpus/text"}}},
    "train": {"total_tokens": "10M", "sequence_length": 128},
    "batch": {"schedule": "0: 64K, 5M: 128Ki"},
    "lr": {"peak": 1e-3, "warmup_tokens": "1M", "decay_tokens": "2M"},
}


def small() -> dict[str, Any]:
    """A fresh copy of the mapping."""
    return copy.deepcopy(_SMALL)


def write(path: Path, content: Any) -> Path:
    """Write a mapping (as YAML) or a text, and give the path back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
    path.write_text(text, encoding="utf-8")
    return path
