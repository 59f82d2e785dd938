"""Hand-made training states and damage for the checkpoint tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from megascale.parallel.shards import Chunk


def whole(fqn: str, tensor: torch.Tensor) -> Chunk:
    """A tensor that one rank holds alone."""
    return Chunk(fqn, tuple(tensor.shape), (0,) * tensor.dim(), tensor, 1)


def sample_chunks(seed: int = 0, rows: int = 8) -> list[Chunk]:
    """A small state in several dtypes, with a scalar and an odd shape."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(rows, 5, generator=generator)
    return [
        whole("model.weight", draw),
        whole("model.norm", draw[0].bfloat16()),
        whole("optimizer.exp_avg.model.weight", draw.double() * 3),
        whole("optimizer.step.model.weight", torch.tensor(float(seed))),
        whole("model.expert_count", torch.arange(7) + seed),
    ]


def empty_like(chunks: list[Chunk]) -> list[Chunk]:
    """The same chunks with other contents, to load into."""
    return [
        Chunk(c.fqn, c.global_shape, c.offsets, torch.full_like(c.local, 77), c.replicas)
        for c in chunks
    ]


def equal(left: list[Chunk], right: list[Chunk]) -> bool:
    return len(left) == len(right) and all(
        a.fqn == b.fqn and a.local.dtype == b.local.dtype and torch.equal(a.local, b.local)
        for a, b in zip(left, right, strict=True)
    )


def files_below(directory: Path) -> dict[str, bytes]:
    """Every file below a folder with its content."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def run_in_mount(setup: str, target: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a mount namespace of its own; skip where that is not permitted.

    Args:
        setup: shell commands that mount something on "$1".
        target: the folder "$1"; the code finds it in `sys.argv[1]`.
    """
    probe = subprocess.run(
        ["unshare", "--mount", "sh", "-c", setup, "sh", str(target)],
        check=False,
        capture_output=True,
    )
    if probe.returncode:
        pytest.skip("needs the right to mount")
    return subprocess.run(
        [
            *("unshare", "--mount", "sh", "-c", f'{setup} && exec "$2" -c "$3" "$1"', "sh"),
            *(str(target), sys.executable, code),
        ],
        check=False,
        capture_output=True,
        text=True,
    )
