"""A batch schedule written for a trainer: this one's YAML, Megatron-LM, and what others can say."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Literal

import yaml

from megascale.propose.export_megatron import (
    CannotExport,
    rampup_arguments,
    step_schedule_arguments,
)
from megascale.propose.export_segments import hugging_face_segments, torchtitan_segments
from megascale.schedule.batch import BatchSchedule, Coupling
from megascale.schedule.lr import LRSchedule
from megascale.schedule.points import BatchPoint, format_table
from megascale.units import format_count

Format = Literal[
    "yaml",
    "megatron",
    "megatron-rampup",
    "torchtitan",
    "torchtitan-segments",
    "olmo-core",
    "hf",
    "hf-segments",
]


def export(
    schedule: BatchSchedule,
    to: Format,
    *,
    lr: LRSchedule | None = None,
    lr_coupling: Coupling = "constant",
    past: tuple[BatchPoint, ...] = (),
) -> str:
    """Return the schedule as text for another program.

    Args:
        schedule: realised segments.
        to: `yaml` is this trainer's; the others are named after theirs.
        lr: learning-rate schedule, for its keys; None leaves them out.
        lr_coupling: how the learning rate follows the batch.
        past: realised batches of a run before `schedule` begins.

    Raises:
        CannotExport: the other program has no way to say this; the message says why.
    """
    if to == "yaml":
        return _yaml(schedule, lr, lr_coupling, past)
    if to == "megatron":
        return _lines(step_schedule_arguments(schedule, lr))
    if to == "megatron-rampup":
        return _lines(rampup_arguments(schedule, lr))
    if to == "torchtitan-segments":
        return _lines(torchtitan_segments(schedule, lr))
    if to == "hf-segments":
        return _lines(hugging_face_segments(schedule, lr))
    if to == "olmo-core":
        return _olmo_core(schedule, lr_coupling)
    return _torchtitan(schedule, lr) if to == "torchtitan" else _hf(schedule, lr)


def table_points(
    schedule: BatchSchedule, past: tuple[BatchPoint, ...] = ()
) -> tuple[BatchPoint, ...]:
    """Return the batch points of realised sizes that lay out the same segments, exactly."""
    points = [point for point in past if point.start_tokens < max(schedule.start_tokens, 1)]
    usual = schedule.segments[0].sequence_length if schedule.segments else 0
    for segment in schedule.segments:
        length = None if segment.sequence_length == usual else segment.sequence_length
        goes_on = points and segment.start_tokens == schedule.start_tokens
        if goes_on and points[-1].batch_tokens == segment.batch_tokens:
            continue
        start = segment.requested_start_tokens
        if points and start <= points[-1].start_tokens:
            start = segment.start_tokens
        points.append(BatchPoint(start, segment.batch_tokens, length))
    return tuple(points)


def _lines(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"


def _yaml(
    schedule: BatchSchedule,
    lr: LRSchedule | None,
    lr_coupling: Coupling,
    past: tuple[BatchPoint, ...],
) -> str:
    first = schedule.segments[0]
    batch: dict[str, object] = {
        "schedule": format_table(table_points(schedule, past)),
        "rounding": "exact",
    }
    if lr_coupling != "constant":
        scale = first.lr_scale if lr_coupling == "linear" else first.lr_scale**2
        batch["lr_coupling"] = lr_coupling
        batch["reference_tokens"] = round(first.batch_tokens / scale)
    content: dict[str, object] = {
        "train": {
            "total_tokens": _count(schedule.total_tokens),
            "sequence_length": first.sequence_length,
            "micro_batch_size": first.micro_batch_size,
        },
        "batch": batch,
    }
    if lr is not None:
        section: dict[str, object] = {
            "kind": lr.kind,
            "peak": lr.peak,
            "warmup_tokens": _count(lr.warmup_tokens),
        }
        if lr.kind == "wsd" and lr.decay_tokens:
            section["decay_tokens"] = _count(lr.decay_tokens)
            section["decay_shape"] = lr.decay_shape
        if lr.decay_tokens:
            section["final_lr"] = float(f"{lr.final:.12g}")
        content["lr"] = section
    said = [
        "# Batch schedule of realised sizes; put a model and data beside it, or use as `base:`."
    ]
    source = schedule.source
    if source.get("sha256"):
        said.append(f"# From law {source['name']} version {source['version']}, SHA-256")
        said.append(f"# {source['sha256']}, N = {source['n_params']:.6g} ({source['n_kind']})")
    return "\n".join(said) + "\n" + _dumped(content)


def _dumped(content: dict[str, object]) -> str:
    """YAML text; libyaml, where PyYAML has it, writes tables of 1e5 batches at once."""
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return yaml.dump(content, Dumper=dumper, sort_keys=False, width=100)


def _olmo_core(schedule: BatchSchedule, lr_coupling: Coupling) -> str:
    """`BatchSizeSchedulerCallback`: integer ratios, learning rate times the root of the ratio."""
    name = "OLMo-core's BatchSizeSchedulerCallback"
    for before, after in pairwise(schedule.segments):
        low, high = sorted((before.batch_tokens, after.batch_tokens))
        if high % low:
            raise CannotExport(
                f"cannot export: {name} takes integer ratios only, not "
                f"{format_count(before.batch_tokens)} -> {format_count(after.batch_tokens)} at "
                f"{format_count(after.start_tokens)} tokens. Nearest legal: "
                f"{format_count(high // low * low)} or {format_count((high // low + 1) * low)} "
                f"beside {format_count(low)}."
            )
    if len(schedule.segments) > 1 and lr_coupling != "sqrt":
        raise CannotExport(
            f"cannot export: {name} always multiplies the learning rate by the root of the ratio, "
            f"and this schedule couples it {lr_coupling}. Nearest legal: --lr-coupling sqrt."
        )
    if len({segment.sequence_length for segment in schedule.segments}) > 1:
        raise CannotExport(f"cannot export: {name} keeps one sequence length.")
    sizes = [segment.batch_tokens for segment in schedule.segments]
    starts = [segment.start_tokens for segment in schedule.segments]
    durations = ", ".join(f"Duration.tokens({start})" for start in starts)
    first = schedule.segments[0]
    return _lines(
        [
            "# OLMo-core checks its divisibility by micro-batch x ranks at the first size only;",
            "# these sizes were checked whole. An increase waits for a multiple of the ratio.",
            f"global_batch_size={sizes[0]},  # tokens",
            f"rank_microbatch_size={first.micro_batch_size * first.sequence_length},  # tokens",
            f"max_duration=Duration.tokens({schedule.total_tokens}),",
            f"BatchSizeSchedulerCallback(batch_sizes={sizes}, schedule=[{durations}]),",
        ]
    )


def _one_batch(schedule: BatchSchedule, to: Format, name: str, why: str) -> None:
    if len(schedule.segments) > 1:
        sizes = ", ".join(format_count(segment.batch_tokens) for segment in schedule.segments)
        raise CannotExport(
            f"cannot export: {name} has no batch schedule ({sizes}): {why}. "
            f"Nearest legal: --export {to}-segments, a run a batch, or a table with one batch."
        )


def _torchtitan(schedule: BatchSchedule, lr: LRSchedule | None) -> str:
    _one_batch(
        schedule,
        "torchtitan",
        "torchtitan",
        "gradient accumulation is fixed at its start, and its learning rate counts steps",
    )
    only = schedule.segments[0]
    lines = [
        "# torchtitan TrainingConfig",
        f"training.num_tokens_per_train_step = {only.batch_tokens}",
        "training.num_tokens_per_microbatch_per_dp_rank = "
        f"{only.micro_batch_size * only.sequence_length}",
        f"training.max_context_length = {only.sequence_length}",
        f"training.steps = {schedule.total_steps}",
    ]
    if lr is not None:
        _wsd_only(lr, "torchtitan")
        lines += [
            f"optimizer.lr = {lr.peak!r}",
            f"lr_scheduler.warmup_steps = {round(lr.warmup_tokens / only.batch_tokens)}",
            f"lr_scheduler.decay_ratio = {lr.decay_tokens / schedule.total_tokens!r}",
            f'lr_scheduler.decay_type = "{_titan_decay(lr)}"',
            f"lr_scheduler.min_lr_factor = {lr.final / lr.peak!r}",
        ]
    return _lines(lines)


def _titan_decay(lr: LRSchedule) -> str:
    known = {"linear": "linear", "1-sqrt": "sqrt", "cosine": "cosine"}
    if lr.decay_shape not in known:
        raise CannotExport(
            f"cannot export: torchtitan has no decay of shape {lr.decay_shape}. "
            f"Nearest legal: {' or '.join(known)}."
        )
    return known[lr.decay_shape]


def _hf(schedule: BatchSchedule, lr: LRSchedule | None) -> str:
    _one_batch(
        schedule,
        "hf",
        "the Hugging Face Trainer",
        "gradient_accumulation_steps is one number for the run",
    )
    only = schedule.segments[0]
    arguments: dict[str, object] = {
        "per_device_train_batch_size": only.micro_batch_size,
        "gradient_accumulation_steps": only.micro_batches,
        "max_steps": schedule.total_steps,
    }
    if lr is not None:
        _wsd_only(lr, "the Hugging Face Trainer")
        if lr.decay_tokens and lr.decay_shape not in ("linear", "cosine", "1-sqrt"):
            raise CannotExport(
                "cannot export: the Hugging Face Trainer has no decay of shape "
                f"{lr.decay_shape}. Nearest legal: linear or cosine or 1-sqrt."
            )
        arguments |= {
            "learning_rate": lr.peak,
            "lr_scheduler_type": "warmup_stable_decay",
            "warmup_steps": round(lr.warmup_tokens / only.batch_tokens),
            "lr_scheduler_kwargs": {
                "num_decay_steps": round(lr.decay_tokens / only.batch_tokens),
                "decay_type": lr.decay_shape,
                "min_lr_ratio": lr.final / lr.peak,
            },
        }
    return json.dumps(arguments, indent=2) + "\n"


def _wsd_only(lr: LRSchedule, name: str) -> None:
    if lr.kind not in ("wsd", "constant"):
        raise CannotExport(
            f"cannot export: the learning rate of kind {lr.kind} is not written for {name} here. "
            "Nearest legal: wsd."
        )


def _count(tokens: int) -> int | str:
    text = format_count(tokens)
    return text if text[-1].isalpha() else tokens
