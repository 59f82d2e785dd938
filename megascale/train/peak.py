"""The arithmetic a CPU can do, measured: the yardstick of utilisation where no data sheet fits."""

from __future__ import annotations

import time

import torch

from megascale.kernels.matmul import matmul_nt


def measure_gemm(
    *, size: int = 1024, seconds: float = 0.2, dtype: torch.dtype = torch.float32
) -> float:
    """Best FLOP/s of a square matrix product on the CPU, with the process's thread count.

    Args:
        size: rows and columns of the operands.
        seconds: how long to repeat it.
        dtype: of the operands.

    Returns:
        The fastest repetition's 2 x size^3 / time: a machine shared with others has slow moments,
        not fast ones.
    """
    left, right = torch.randn(size, size, dtype=dtype), torch.randn(size, size, dtype=dtype)
    matmul_nt(left, right)
    fastest = float("inf")
    until = time.perf_counter() + seconds
    while (start := time.perf_counter()) < until:
        matmul_nt(left, right)  # the library that the model's own layers use
        fastest = min(fastest, time.perf_counter() - start)
    return 2.0 * size**3 / fastest
