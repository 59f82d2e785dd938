"""States of the random number generators as JSON, and back."""

from __future__ import annotations

import base64
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from megascale.errors import CheckpointError


def rng_state(device: torch.device | None = None) -> dict[str, Any]:
    """The states of Python's, numpy's and torch's global generators in this process.

    Args:
        device: a CUDA device whose generator is included.
    """
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    state = {
        "python": [version, list(words), gauss],
        "numpy": [name, _encoded(np.asarray(keys)), int(position), int(has_gauss), float(cached)],
        "torch": _encoded(torch.get_rng_state().numpy()),
    }
    if device is not None and device.type == "cuda":
        state["cuda"] = _encoded(torch.cuda.get_rng_state(device).numpy())
    return state


def set_rng_state(state: Mapping[str, Any], device: torch.device | None = None) -> None:
    """Put the generators of this process where `rng_state` found them.

    Raises:
        CheckpointError: the state is malformed.
    """
    try:
        version, words, gauss = state["python"]
        random.setstate((version, tuple(words), gauss))
        name, keys, position, has_gauss, cached = state["numpy"]
        words32 = np.frombuffer(base64.b64decode(keys), dtype=np.uint32)
        np.random.set_state((name, words32, position, has_gauss, cached))  # noqa: NPY002
        torch.set_rng_state(_tensor(state["torch"]))
        if device is not None and device.type == "cuda" and "cuda" in state:
            torch.cuda.set_rng_state(_tensor(state["cuda"]), device)
    except (LookupError, TypeError, ValueError, RuntimeError, OverflowError) as failure:
        raise CheckpointError(f"malformed RNG state in the checkpoint: {failure}") from failure


def _encoded(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")


def _tensor(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
