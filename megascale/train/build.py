"""From a checked config to the parts of a run on this rank: model, optimizer, data, schedules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch._dynamo

from megascale.config import RunConfig
from megascale.config.init_section import parameter_scalings
from megascale.config.schedules import lr_schedule_from_config, weight_decay_from_config
from megascale.data.held_out import HeldOut, open_held_out
from megascale.data.opening import open_stream
from megascale.data.stream import Stream
from megascale.model.init import initialize
from megascale.model.qwen3 import ModelOptions, Qwen3
from megascale.parallel.data import DataParallel
from megascale.parallel.mesh import Mesh
from megascale.parallel.shards import Chunk, model_chunks
from megascale.plan.memory import checkpoint_interval
from megascale.schedule.lr import LRSchedule
from megascale.schedule.weight_decay import WeightDecaySchedule
from megascale.train.balance import ExpertBalance
from megascale.train.checks import balance_window, batch_schedule_of, layout_of
from megascale.train.distributed import Process
from megascale.train.groups import update_rules
from megascale.train.kernels import Kernels
from megascale.train.micro_gradients import MicroGradientNorms
from megascale.train.noise_scale import NoiseScale
from megascale.train.optimizer import ShardedOptimizer
from megascale.train.remarks import sequence_lengths
from megascale.train.step import Objective
from megascale.train.weight_probe import WeightProbe


@dataclass
class Parts:
    """What a rank trains with; the batch schedule comes later, from where the run stands.

    Attributes:
        balance: expert loads and biases; None for a dense model.
        validation: what evaluations read, by name of the held-out source.
        norms: measures the gradient noise of a step; None where it is off.
        noise: the noise scale so far; None where it is off.
        probe: measures weights, updates and attention logits; None where it is off.
        kernels: what was chosen to compute with; None before it was.
    """

    mesh: Mesh
    parallel: DataParallel
    optimizer: ShardedOptimizer
    balance: ExpertBalance | None
    objective: Objective
    stream: Stream
    validation: dict[str, HeldOut]
    lr: LRSchedule
    weight_decay: WeightDecaySchedule
    norms: MicroGradientNorms | None = None
    noise: NoiseScale | None = None
    probe: WeightProbe | None = None
    kernels: Kernels | None = None

    @property
    def model(self) -> Qwen3:
        """The bare model."""
        return self.parallel.model

    def chunks(self, saved: Mapping[str, Any] | None = None) -> list[Chunk]:
        """Every tensor of the training state, as this rank holds it, for checkpoints.

        Args:
            saved: `state.json` of the checkpoint to load; None to save one.
        """
        found = [*model_chunks(self.model, self.mesh), *self.optimizer.chunks().values()]
        if self.balance is not None:
            balance = None if saved is None else saved["balance"]
            found += self.balance.chunks(self.mesh.world_size, balance)
        return found


def _allow_compilations(config: RunConfig, data_parallel: int) -> None:
    """Let torch keep a compiled block for every sequence length; it stops at eight in silence."""
    lengths = len(sequence_lengths(config, batch_schedule_of(config, data_parallel)))
    settings: Any = torch._dynamo.config
    # One of training, one of evaluation, one with document masks, at each length.
    settings.recompile_limit = max(settings.recompile_limit, 3 * lengths + 2)
    settings.accumulated_recompile_limit = max(
        settings.accumulated_recompile_limit, 32 * settings.recompile_limit
    )


def collective_timeout(config: RunConfig) -> timedelta:
    """How long a rank waits for the others in a collective."""
    return timedelta(minutes=config.parallel.timeout_minutes)


def model_options(config: RunConfig) -> ModelOptions:
    """How the model computes, by the config."""
    return ModelOptions(
        sequence_parallel=config.parallel.sequence_parallel,
        checkpoint_every=checkpoint_interval(config.train.activation_checkpointing),
        compile=config.train.compile == "blocks",
        router_fp32=config.train.moe_router_dtype == "fp32",
        balance_window_tokens=balance_window(config) if config.model.is_moe else None,
    )


@dataclass
class Computation:
    """What computes steps on a rank, without data and schedules.

    Attributes:
        balance: expert loads and biases; None for a dense model.
    """

    mesh: Mesh
    parallel: DataParallel
    optimizer: ShardedOptimizer
    balance: ExpertBalance | None
    objective: Objective


def build_computation(
    config: RunConfig,
    process: Process,
    materialise: Callable[[Qwen3, Mesh], None] | None = None,
    replicating: AbstractContextManager[Any] | None = None,
) -> Computation:
    """Build the model, its parallel plan and the optimizer as this rank holds them.

    Args:
        config: of the run.
        process: where this rank stands.
        materialise: gives the meta parameters memory and values; None draws initial weights.
        replicating: entered while DDP makes its buckets; None for nothing.

    Raises:
        LayoutError: the degrees do not fit.
    """
    fill = materialise or _initial_weights(config, process.device)
    mesh = Mesh.from_layout(
        layout_of(config, process.world_size),
        rank=process.rank,
        world_size=process.world_size,
        device=process.device,
        timeout=collective_timeout(config),
    )
    if config.train.compile == "blocks":
        _allow_compilations(config, mesh.dp_size)
    with torch.device("meta"):
        model = Qwen3(config.model, mesh, model_options(config))
    shards = mesh.data_mode != "ddp"
    if not shards:
        fill(model, mesh)
    with nullcontext() if shards or replicating is None else replicating:
        parallel = DataParallel(
            model, mesh, precision=config.train.precision, gather=config.parallel.fsdp_gather
        )
    if shards:
        # Cut first, fill after: no rank ever holds the whole model.
        fill(model, mesh)
    optimizer = ShardedOptimizer(
        model,
        mesh,
        rules=update_rules([name for name, _ in model.named_parameters()], config),
        decay_unit=config.lr.peak if config.weight_decay.relative_to == "schedule" else 1.0,
        beta2_half_life=config.optimizer.beta2_half_life_tokens,
    )
    moe = config.moe_balance
    balance = None
    objective = Objective()
    if config.model.is_moe:
        window = balance_window(config)
        balance = ExpertBalance(
            model,
            window_tokens=window,
            trails=moe.window_loads == "trailing",
            bias_rate=moe.bias_update_per_million_tokens,
            device=process.device,
        )
        objective = Objective(moe.aux_loss_coef, moe.z_loss_coef, window)
    return Computation(mesh, parallel, optimizer, balance, objective)


def _initial_weights(config: RunConfig, device: torch.device) -> Callable[[Qwen3, Mesh], None]:
    def fill(model: Qwen3, mesh: Mesh) -> None:
        model.to_empty(device=device)
        names = [name for name, _ in model.named_parameters()]
        initialize(model, mesh, seed=config.seed, scalings=parameter_scalings(names, config))

    return fill


def build_parts(config: RunConfig, process: Process) -> Parts:
    """Build everything a rank needs, with freshly initialised weights.

    Raises:
        UserError: whatever `check_run` would have found.
    """
    stream = open_stream(config.data, seed=config.seed, vocab_size=config.model.vocab_size)
    validation = open_held_out(config)
    built = build_computation(config, process)
    probed = config.log.weights_interval_steps is not None
    measured = config.log.noise_scale.interval_steps is not None
    return Parts(
        mesh=built.mesh,
        parallel=built.parallel,
        optimizer=built.optimizer,
        balance=built.balance,
        objective=built.objective,
        stream=stream,
        validation=validation,
        lr=lr_schedule_from_config(config),
        weight_decay=weight_decay_from_config(config),
        probe=WeightProbe(built.parallel.model, built.mesh, built.optimizer) if probed else None,
        norms=MicroGradientNorms(built.parallel, built.mesh, built.optimizer) if measured else None,
        noise=NoiseScale(window=config.log.noise_scale.window) if measured else None,
    )
