"""Coordinate checks: sizes of activations over widths and depths, after a few steps.

A parametrization is right when the size of every activation after a few steps does not depend on
the model's size (Yang et al., arXiv 2203.03466, appendix D.1; for depth Dey et al.,
arXiv 2505.01618, section 4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from megascale.config import RunConfig, build_config
from megascale.config.init_section import branch_multiplier, parameter_scalings
from megascale.errors import ConfigError
from megascale.model.config import ModelConfig
from megascale.model.init import initialize
from megascale.model.qwen3 import ModelOutput, Qwen3
from megascale.parallel.mesh import Mesh
from megascale.train.groups import update_rules
from megascale.train.optimizer import ShardedOptimizer

PLACES = ("embedding", "attention", "feed-forward", "residual", "logits")
"""Where activations are read: outputs of the input table, of the attention and feed-forward
branches (over all layers, before the multiplier of CompleteP), of the last layer, and of the model.
"""


@dataclass(frozen=True, slots=True)
class Coordinate:
    """Sizes of the activations of one model.

    Attributes:
        kind: parametrization.
        width: hidden_size.
        depth: decoder layers.
        place: one of `PLACES`.
        rms: root mean square of the elements after the last step.
        change: root mean square of what the steps changed.
    """

    kind: str
    width: int
    depth: int
    place: str
    rms: float
    change: float


@dataclass(frozen=True, slots=True)
class SizeSlope:
    """How the size of an activation goes with the model's: its exponent by least squares.

    Attributes:
        kind: parametrization.
        along: `width` or `depth`.
        place: one of `PLACES`.
        rms: d ln rms / d ln size.
        change: d ln change / d ln size.
    """

    kind: str
    along: str
    place: str
    rms: float
    change: float


def resized(model: ModelConfig, *, width: int | None = None, depth: int | None = None) -> Any:
    """The model's keys at another width or depth: heads and inner widths in proportion.

    Args:
        model: the base.
        width: hidden_size; None takes the base's.
        depth: num_hidden_layers; None takes the base's.

    Raises:
        ConfigError: a size of the base does not scale to a whole number.
    """
    content = model.model_dump()
    if depth is not None:
        content["num_hidden_layers"] = depth
    if width is None:
        return content
    for key in (
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_key_value_heads",
        "moe_intermediate_size",
        "shared_expert_intermediate_size",
    ):
        product = content[key] * width
        if product % model.hidden_size:
            rule = f"model.{key} = {content[key]} at hidden_size {model.hidden_size} does not scale"
            raise ConfigError.of("width", width, f"{rule} to it", model.hidden_size)
        content[key] = product // model.hidden_size
    return content


def sized_config(
    config: RunConfig, kind: str, *, width: int | None = None, depth: int | None = None
) -> RunConfig:
    """The run with a model of another size under a parametrization whose base is the run's model.

    Raises:
        ConfigError: as `resized`, or the run has no rules for the parametrization.
    """
    content = config.model_dump(mode="python")
    content["model"] = resized(config.model, width=width, depth=depth)
    content["init"] = {"kind": kind}
    if kind != "standard":
        content["init"]["base_width"] = config.model.hidden_size
    if kind == "completep":
        content["init"]["base_depth"] = config.model.num_hidden_layers
    return build_config(content, origin=f"{kind} at width {width}, depth {depth}")


def measure_coordinates(
    config: RunConfig, *, steps: int, batch: int = 4, length: int = 32
) -> list[Coordinate]:
    """Train a fresh model on one fixed batch of random tokens, on the CPU, and read activations.

    The rate is `lr.peak` from the first step on, without clipping.

    Args:
        config: of the run; its data are not read.
        steps: updates.
        batch: sequences.
        length: tokens of each.

    Returns:
        One entry for each of `PLACES`.
    """
    mesh = Mesh()
    model = Qwen3(config.model, mesh)
    names = [name for name, _ in model.named_parameters()]
    initialize(model, mesh, seed=config.seed, scalings=parameter_scalings(names, config))
    optimizer = ShardedOptimizer(model, mesh, rules=update_rules(names, config))
    generator = torch.Generator().manual_seed(config.seed)
    tokens = torch.randint(config.model.vocab_size, (batch, length + 1), generator=generator)
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    branch = branch_multiplier(config)
    before = _activations(model, inputs, branch)
    for _ in range(steps):
        optimizer.zero_grad()
        output = model(inputs, targets)
        assert isinstance(output, ModelOutput)
        (output.loss_sum / targets.numel()).backward()
        optimizer.step(
            optimizer.gradients(),
            lr=config.lr.peak,
            weight_decay=config.weight_decay.value,
            grad_norm=0.0,
            clip=None,
            batch_tokens=targets.numel(),
        )
    after = _activations(model, inputs, branch)
    return [
        Coordinate(
            config.init.kind,
            config.model.hidden_size,
            config.model.num_hidden_layers,
            place,
            _rms(after[place]),
            _rms(after[place] - before[place]),
        )
        for place in PLACES
    ]


def size_slopes(coordinates: Sequence[Coordinate], along: str) -> list[SizeSlope]:
    """Exponents of sizes over widths or depths, one for each kind and place with two sizes.

    Args:
        coordinates: of models that differ in `along` alone.
        along: `width` or `depth`.
    """
    groups: dict[tuple[str, str], list[Coordinate]] = {}
    for one in coordinates:
        groups.setdefault((one.kind, one.place), []).append(one)
    found = []
    for (kind, place), own in groups.items():
        sizes = np.log([getattr(one, along) for one in own])
        if len(set(sizes.tolist())) > 1:
            rms = np.polyfit(sizes, np.log([one.rms for one in own]), 1)[0]
            change = np.polyfit(sizes, np.log([max(one.change, 1e-30) for one in own]), 1)[0]
            found.append(SizeSlope(kind, along, place, float(rms), float(change)))
    return found


def _rms(tensor: Tensor) -> float:
    return float(tensor.double().square().mean().sqrt())


@torch.no_grad()
def _activations(model: Qwen3, inputs: Tensor, branch: float) -> dict[str, Tensor]:
    read: dict[str, list[Tensor]] = {place: [] for place in PLACES}
    with _reading(model, read):
        read["logits"].append(model(inputs))
    read["residual"] = read["residual"][-1:]
    whole = {place: torch.stack(found) for place, found in read.items()}
    return whole | {place: whole[place] / branch for place in ("attention", "feed-forward")}


@contextmanager
def _reading(model: Qwen3, read: dict[str, list[Tensor]]) -> Iterator[None]:
    watched: list[tuple[nn.Module, str]] = [(model.model.embed_tokens, "embedding")]
    for block in model.blocks():
        watched += [(block.self_attn, "attention"), (block.mlp, "feed-forward")]
        watched.append((block, "residual"))

    def keep(place: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            whole = output[0] if isinstance(output, tuple) else output
            read[place].append(whole.detach().clone())

        return hook

    handles = [module.register_forward_hook(keep(place)) for module, place in watched]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
