from collections.abc import Callable
from typing import Any

import numpy as np

built_with_cuda: bool

def fit(
    *,
    law: int,
    residual: int,
    loss: int,
    delta: float,
    offsets: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray | None,
    lower: np.ndarray | None,
    upper: np.ndarray | None,
    fixed: np.ndarray | None,
    initial: np.ndarray | None,
    starts: int,
    compatibility_grid: bool,
    tolerance: float,
    max_iterations: int,
    threads: int,
    bootstrap: int,
    replicates: int,
    seed: int,
    groups: np.ndarray | None,
    known_noise: bool = ...,
    studentise: bool = ...,
    device: str,
    progress: Callable[[int, int], Any] | None,
) -> dict[str, Any]: ...
def laws() -> list[dict[str, Any]]: ...
def derive(law: int, params: np.ndarray) -> np.ndarray: ...
def instruction_set() -> str: ...
def force_instruction_set(name: str) -> bool: ...
def cuda_devices() -> int: ...

history_params: tuple[str, ...]
history_log: tuple[bool, ...]
history_max_free: int

def predict_histories(
    job: dict[str, Any], params: np.ndarray, gradients: bool
) -> tuple[np.ndarray, np.ndarray]: ...
def fit_histories(
    job: dict[str, Any],
    options: dict[str, Any],
    progress: Callable[[int, int], Any] | None,
) -> dict[str, Any]: ...
