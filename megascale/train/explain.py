"""`megascale train --explain`: what a config means, worked out without starting anything.

No torch, no process group: the same functions the trainer calls, on paper. Data files are looked
at where they are there, for the epochs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from megascale.config import RunConfig
from megascale.config.schedules import (
    DataPhase,
    lr_schedule_from_config,
    phases_from_config,
    weight_decay_from_config,
)
from megascale.data.stream import Stream
from megascale.model.count import ParameterCount, count_parameters, elements, parameter_shapes
from megascale.model.kinds import kind_of
from megascale.model.parametrization import RESIDUAL_BRANCHES
from megascale.parallel.layout import Layout
from megascale.plan.flops import FlopsPerToken, flops_per_token
from megascale.plan.memory import MemoryEstimate, checkpoint_interval, estimate_memory
from megascale.plan.steps import SegmentWork, segment_work
from megascale.schedule.batch import BatchSchedule
from megascale.schedule.lr import LRSchedule
from megascale.schedule.weight_decay import WeightDecaySchedule
from megascale.train.checks import batch_schedule_of, check_sequence_lengths, layout_of
from megascale.train.groups import UpdateRule, parameter_kind, update_rules
from megascale.train.remarks import remarks

SCHEMA = "megascale.explain/1"


@dataclass(frozen=True, slots=True)
class Landmark:
    """What holds at one token count.

    Attributes:
        name: why the count is worth a line.
        tokens: consumed tokens.
        step: the step that contains it; the number of steps at the end.
        lr: learning rate there, with the batch's coupling.
        weight_decay: coefficient there.
        batch_tokens: global batch there.
    """

    name: str
    tokens: int
    step: int
    lr: float
    weight_decay: float
    batch_tokens: int

    @property
    def batch_alone(self) -> bool:
        """Whether nothing but the batch changes there."""
        return all(reason.startswith("batch ") for reason in self.name.split(", "))


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """Parameters that are updated alike.

    Attributes:
        kind: `norm`, `bias`, `embedding`, or `weight` for the rest; under a parametrization of
            `init` one of `megascale.model.kinds.KINDS`, with `, residual` where it writes into the
            residual stream.
        match: pattern of `optimizer.groups` that they come from; None for none.
        decays: whether weight decay applies.
        initial: standard deviation of the initial weights, or the initial gain of norms.
        lr_multiplier: factor on the learning rate, of the group and of the model's size.
        weight_decay: coefficient at token 0, with the factor of the model's size.
        method: `adamw`, `muon`, `sgd` or `sign`.
        beta1, beta2, eps: Adam's constants, beta1 also the momentum of the others; beta2 is None
            where it follows the batch.
        tensors: how many.
        parameters: their elements.
    """

    kind: str
    match: str | None
    decays: bool
    initial: float
    lr_multiplier: float
    weight_decay: float
    method: str
    beta1: float
    beta2: float | None
    eps: float
    tensors: int
    parameters: int


@dataclass(frozen=True, slots=True)
class SourceUse:
    """What a run takes of one source.

    Attributes:
        name: of the source.
        tokens: it holds.
        epochs: times the whole run goes through it.
    """

    name: str
    tokens: int
    epochs: float


@dataclass(frozen=True, slots=True)
class ExplainReport:
    """Everything that follows from a config and a number of ranks."""

    config: RunConfig
    world_size: int
    layout: Layout
    schedule: BatchSchedule
    work: tuple[SegmentWork, ...]
    landmarks: tuple[Landmark, ...]
    phases: tuple[DataPhase, ...]
    parameters: ParameterCount
    groups: tuple[ParameterGroup, ...]
    memory: MemoryEstimate
    flops: FlopsPerToken
    sources: tuple[SourceUse, ...]
    remarks: tuple[str, ...]

    @property
    def total_flops(self) -> int:
        """Model FLOPs of the whole run, or of what is left of it."""
        return sum(part.flops for part in self.work)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON types (`--json`)."""
        return {
            "schema": SCHEMA,
            "config": self.config.model_dump(mode="json"),
            "config_digest": self.config.digest(),
            "stands_at": {
                "tokens": self.schedule.start_tokens,
                "step": self.schedule.start_step,
            },
            "remarks": list(self.remarks),
            "layout": {"world_size": self.world_size, **asdict(self.layout)},
            "batch_schedule": {
                "source": dict(self.schedule.source),
                "total_tokens": self.schedule.total_tokens,
                "total_steps": self.schedule.total_steps,
                "segments": [
                    asdict(segment) | {"tokens": part.tokens, "flops": part.flops}
                    for segment, part in zip(self.schedule.segments, self.work, strict=True)
                ],
            },
            "landmarks": [asdict(landmark) for landmark in self.landmarks],
            "data_phases": [
                {
                    "start_tokens": phase.start_tokens,
                    "end_tokens": phase.end_tokens,
                    "mixture": dict(phase.mixture),
                }
                for phase in self.phases
            ],
            "sources": [asdict(source) for source in self.sources],
            "parameters": self.parameters.to_dict(),
            "parameter_groups": [asdict(group) for group in self.groups],
            "memory_per_rank": self.memory.to_dict(),
            "flops": {
                "per_token": self.flops.total,
                "per_token_weights": self.flops.weights,
                "per_token_attention": self.flops.attention,
                "total": self.total_flops,
            },
        }


def explain(
    config: RunConfig,
    world_size: int,
    *,
    start: tuple[int, int] = (0, 0),
    stream: Stream | None = None,
) -> ExplainReport:
    """Work out what `config` means on `world_size` ranks.

    Args:
        config: of the run.
        world_size: ranks.
        start: consumed tokens and finished steps where the run stands; what lies ahead is shown.
        stream: its data, for the epochs; None leaves them out.

    Raises:
        LayoutError: the degrees do not fit.
        ScheduleError: a segment of the batch schedule or the learning rate is illegal.
    """
    layout = layout_of(config, world_size)
    schedule = batch_schedule_of(config, layout.data, start)
    check_sequence_lengths(config, world_size, schedule)
    used = {} if stream is None else stream.describe(config.train.total_tokens)["sources"]
    largest = max(schedule.segments, key=lambda part: part.micro_batch_size * part.sequence_length)
    return ExplainReport(
        config=config,
        world_size=world_size,
        layout=layout,
        schedule=schedule,
        work=segment_work(config.model, schedule),
        landmarks=_landmarks(
            schedule, lr_schedule_from_config(config), weight_decay_from_config(config)
        ),
        phases=phases_from_config(config),
        parameters=count_parameters(config.model),
        groups=_groups(config),
        memory=estimate_memory(
            config.model,
            layout,
            sequence_length=largest.sequence_length,
            micro_batch_size=largest.micro_batch_size,
            micro_batches=max(segment.micro_batches for segment in schedule.segments),
            precision=config.train.precision,
            checkpoint_every=checkpoint_interval(config.train.activation_checkpointing),
            fsdp_gather=config.parallel.fsdp_gather,
            optimizer=config.optimizer.name,
            mask_documents=config.data.mask_documents,
        ),
        flops=flops_per_token(config.model, config.train.sequence_length),
        sources=tuple(SourceUse(name, of["tokens"], of["epochs"]) for name, of in used.items()),
        remarks=tuple(remarks(config, schedule)),
    )


def _landmarks(
    schedule: BatchSchedule, lr: LRSchedule, weight_decay: WeightDecaySchedule
) -> tuple[Landmark, ...]:
    """Token counts where something begins, ends or is half way; each once, names joined."""
    names: dict[int, list[str]] = {}
    for name, tokens in lr.landmarks():
        names.setdefault(tokens, []).append(name)
    for name, tokens in weight_decay.landmarks():
        if tokens not in (0, schedule.total_tokens):
            names.setdefault(tokens, []).append(f"weight decay {name}")
    for number, segment in enumerate(schedule.segments[1:], start=2):
        names.setdefault(segment.start_tokens, []).append(f"batch {number}")
    found = []
    for tokens, reasons in sorted(names.items()):
        if tokens < schedule.start_tokens:
            continue
        ended = tokens == schedule.total_tokens
        segment = schedule.segments[-1] if ended else schedule.segment_at_tokens(tokens)
        found.append(
            Landmark(
                name=", ".join(reasons),
                tokens=tokens,
                step=schedule.total_steps if ended else schedule.step_containing(tokens),
                lr=lr.at(tokens) * segment.lr_scale,
                weight_decay=weight_decay.at(tokens),
                batch_tokens=segment.batch_tokens,
            )
        )
    return tuple(found)


def _groups(config: RunConfig) -> tuple[ParameterGroup, ...]:
    counts: dict[tuple[str, UpdateRule], tuple[int, int]] = {}
    shapes = dict(parameter_shapes(config.model))
    for name, rule in update_rules(shapes, config).items():
        key = (_shown_kind(name, config), rule)
        tensors, parameters = counts.get(key, (0, 0))
        counts[key] = (tensors + 1, parameters + elements(shapes[name]))
    made = [_group(kind, rule, config, *counts[kind, rule]) for kind, rule in counts]
    return tuple(
        sorted(made, key=lambda g: (g.match is not None, not g.decays, g.kind != "weight", g.kind))
    )


def _shown_kind(name: str, config: RunConfig) -> str:
    """Under a parametrization kinds that scale apart are shown apart."""
    if config.init.kind == "standard":
        return parameter_kind(name) or "weight"
    return kind_of(name) + (", residual" if name.endswith(RESIDUAL_BRANCHES) else "")


def _group(
    kind: str, rule: UpdateRule, config: RunConfig, tensors: int, parameters: int
) -> ParameterGroup:
    coefficient = config.weight_decay.value if rule.decays else 0.0
    if rule.weight_decay is not None:
        coefficient = rule.weight_decay
    first = config.model.initializer_range
    if kind.startswith(("norm", "qk_norm", "bias")):
        first = 0.0 if kind.startswith("bias") else 1.0
    return ParameterGroup(
        kind=kind,
        match=rule.match,
        decays=rule.decays if rule.weight_decay is None else rule.weight_decay > 0,
        initial=first * rule.scaling.initial,
        lr_multiplier=rule.lr_multiplier * rule.scaling.lr,
        weight_decay=coefficient * rule.scaling.weight_decay,
        method=rule.method,
        beta1=rule.beta1,
        beta2=rule.beta2,
        eps=rule.eps,
        tensors=tensors,
        parameters=parameters,
    )
