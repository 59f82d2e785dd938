"""Which kernels a run computes with: fixed by its config, kept from its checkpoint, or measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from megascale.config import RunConfig
from megascale.errors import ConfigError
from megascale.kernels.choice import Measured
from megascale.kernels.matmul import LIBRARIES, measure_library, use_library
from megascale.machine import cpu_name
from megascale.model.experts import can_group, measure_experts
from megascale.model.qwen3 import Qwen3
from megascale.parallel.mesh import Mesh

MOST_SIDE = 2048
"""Rows and columns that products are measured at, where the model's are more."""


@dataclass(frozen=True)
class Kernels:
    """The kernels of a run.

    Attributes:
        cpu: where they were chosen.
        matmul_library: `torch` or `onednn`.
        expert_kernel: `loop`, `grouped` or `auto` (by device and dtype, on a GPU); `loop` for a
            dense model.
        how: for each of the two where the choice comes from: `config`, `checkpoint`, `measured`,
            `remembered` (measured by an earlier process) or `only` (nothing to choose from).
        seconds: for each of the two the measured times, by name.
    """

    cpu: str
    matmul_library: str
    expert_kernel: str
    how: Mapping[str, str]
    seconds: Mapping[str, Mapping[str, float]]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, for the log and the checkpoint."""
        return asdict(self)

    def line(self, *, moe: bool) -> str:
        """One line for the console."""
        said = f"matrix products by {self.matmul_library}{self._why('matmul_library')}"
        if moe:
            said += f"; experts by {self.expert_kernel}{self._why('expert_kernel')}"
        return said

    def _why(self, key: str) -> str:
        how, seconds = self.how[key], self.seconds[key]
        if how == "only":
            return ""
        times = ", ".join(f"{name} {1e3 * value:.2f} ms" for name, value in seconds.items())
        return f" ({how}: {times})" if times else f" ({how})"


def choose_kernels(config: RunConfig, mesh: Mesh, saved: Mapping[str, Any] | None) -> Kernels:
    """Choose for this CPU, and use the chosen library from now on.

    Args:
        config: of the run.
        mesh: this rank's place.
        saved: what `Kernels.to_dict` gave for the checkpoint that the run goes on from.

    Raises:
        ConfigError: the config names a kernel that cannot compute this model.
    """
    if saved is not None and saved["cpu"] != cpu_name():
        saved = None  # another CPU gives other bits anyway
    how: dict[str, str] = {}
    seconds: dict[str, Mapping[str, float]] = {}
    chosen: dict[str, str] = {}
    for key, legal, measure in (
        ("matmul_library", LIBRARIES, _measure_library),
        ("expert_kernel", ("loop", "grouped", "auto"), _measure_experts),
    ):
        stated = getattr(config.train, key)
        times: Mapping[str, float] = {}
        if stated != "auto":
            chosen[key], how[key] = stated, "config"
        elif saved is not None and saved[key] in legal:
            chosen[key], how[key] = saved[key], "checkpoint"
        else:
            measured = measure(config, mesh)
            chosen[key], times = measured.choice, measured.seconds
            how[key] = "remembered" if measured.remembered else "measured" if times else "only"
        seconds[key] = times
        if key == "matmul_library":
            use_library(chosen[key])  # experts are measured with it
    _check(config, mesh, chosen)
    return Kernels(cpu_name(), **chosen, how=how, seconds=seconds)


def use_expert_kernel(model: Qwen3, name: str) -> None:
    """Compute the routed experts of a model by `name` from now on."""
    for layer in model.moe_modules():
        layer.experts.backend = name


def _dtype(config: RunConfig) -> torch.dtype:
    return torch.bfloat16 if config.train.precision == "bf16" else torch.float32


def _tokens(config: RunConfig) -> int:
    return config.train.largest_micro_batch * config.train.sequence_length


def _measure_library(config: RunConfig, mesh: Mesh) -> Measured:
    if mesh.device.type != "cpu" or config.train.precision != "fp32":
        return Measured("torch", {})
    model = config.model
    width = model.moe_intermediate_size if model.is_moe else model.intermediate_size
    widest = max(width, model.vocab_size) // mesh.tp_size
    return measure_library(
        *(min(size, MOST_SIDE) for size in (_tokens(config), model.hidden_size, widest))
    )


def _measure_experts(config: RunConfig, mesh: Mesh) -> Measured:
    model = config.model
    if not model.is_moe:
        return Measured("loop", {})
    if mesh.device.type != "cpu":
        return Measured("auto", {})
    return measure_experts(
        model.num_experts // mesh.ep_size,
        model.hidden_size,
        model.moe_intermediate_size // mesh.tp_size,
        _tokens(config) * model.num_experts_per_tok,
        _dtype(config),
    )


def _check(config: RunConfig, mesh: Mesh, chosen: Mapping[str, str]) -> None:
    model, kernel = config.model, chosen["expert_kernel"]
    if chosen["matmul_library"] == "onednn" and not torch.backends.mkldnn.is_available():
        rule = "this build of torch has no oneDNN"
        raise ConfigError.of("train.matmul_library", "onednn", rule, "torch")
    inner = model.moe_intermediate_size // mesh.tp_size
    if kernel == "grouped" and not can_group(_dtype(config), model.hidden_size, 2 * inner, inner):
        raise ConfigError.of(
            "train.expert_kernel",
            kernel,
            "grouped products need rows of whole 16 bytes; model.hidden_size and a rank's part of "
            f"model.moe_intermediate_size are {model.hidden_size} and {inner} numbers wide",
            "loop",
        )
