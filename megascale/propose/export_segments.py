"""A batch schedule for trainers that keep one batch a run: a run a segment, each going on.

Every run but the first resumes from the last checkpoint of the one before. Their learning rates
count steps, and steps mean other tokens in every segment: warmup must lie in the first segment and
the decay in the last, where a step has one meaning.
"""

from __future__ import annotations

import json

from megascale.propose.export_megatron import CannotExport
from megascale.schedule.batch import BatchSchedule, Segment
from megascale.schedule.lr import LRSchedule
from megascale.units import format_count

DECAYS = {
    "torchtitan": {"linear": "linear", "1-sqrt": "sqrt", "cosine": "cosine"},
    "transformers": {"linear": "linear", "1-sqrt": "1-sqrt", "cosine": "cosine"},
}
"""Their names of our decay shapes."""


def torchtitan_segments(schedule: BatchSchedule, lr: LRSchedule | None) -> list[str]:
    """Lines of a shell script: torchtitan once a segment, in one dump folder.

    Args:
        schedule: with one sequence length, and a learning rate that does not follow the batch.
        lr: constant or WSD; None leaves its arguments out.

    Raises:
        CannotExport: these runs cannot say the schedule; the message says why.
    """
    common = [
        "--checkpoint.enable",
        "--checkpoint.no-last-save-model-only",
        f"--training.max_context_length={schedule.segments[0].sequence_length}",
    ]
    peak = []
    warmup, decay = _rate_steps(schedule, lr, "torchtitan")
    if lr is not None:
        common += [
            f"--lr_scheduler.warmup_steps={warmup}",
            f"--lr_scheduler.total_steps={schedule.total_steps}",
            f"--lr_scheduler.decay_ratio={decay / schedule.total_steps!r}",
            f"--lr_scheduler.decay_type={DECAYS['torchtitan'][lr.decay_shape]}",
            f"--lr_scheduler.min_lr_factor={_final_ratio(lr)!r}",
        ]
        peak = [f"# The config's optimizer has the peak learning rate: {lr.peak!r}."]
    lines = [
        "#!/usr/bin/env bash",
        *_introduction(schedule, "torchtitan"),
        *peak,
        "# The same data-parallel degree throughout: its loader refuses to resume on another.",
        "# From torchtitan's root, with MODULE, CONFIG and NGPU set; $@ goes to every run.",
        "set -euo pipefail",
        f"common=({' '.join(common)})",
    ]
    for number, part in enumerate(schedule.segments, start=1):
        micro = part.micro_batch_size * part.sequence_length
        lines += [
            _about(number, part),
            './run_train.sh "${common[@]}"'
            f" --training.num_tokens_per_train_step={part.batch_tokens}"
            f" --training.num_tokens_per_microbatch_per_dp_rank={micro}"
            f' --training.steps={part.first_step + part.steps} "$@"',
        ]
    return lines


def hugging_face_segments(schedule: BatchSchedule, lr: LRSchedule | None) -> list[str]:
    """Lines of JSON: the arguments of transformers' Trainer for every segment, with its data.

    A resumed Trainer skips steps times its present accumulation, which is not what was consumed:
    every run is given the rest of the data by `skip_samples` and `ignore_data_skip`.

    Args and errors as `torchtitan_segments`.
    """
    warmup, decay = _rate_steps(schedule, lr, "transformers")
    runs = []
    for number, part in enumerate(schedule.segments):
        last = number == len(schedule.segments) - 1
        arguments: dict[str, object] = {
            "per_device_train_batch_size": part.micro_batch_size,
            "gradient_accumulation_steps": part.micro_batches,
            "max_steps": part.first_step + part.steps,
            "save_strategy": "steps",
            "save_steps": part.first_step + part.steps,
            "ignore_data_skip": True,
        }
        if lr is not None:
            arguments |= {"learning_rate": lr.peak, "warmup_steps": warmup}
            arguments["lr_scheduler_type"] = "constant_with_warmup"
            if last and decay:
                arguments["lr_scheduler_type"] = "warmup_stable_decay"
                arguments["lr_scheduler_kwargs"] = {
                    "num_decay_steps": decay,
                    "decay_type": DECAYS["transformers"][lr.decay_shape],
                    "min_lr_ratio": _final_ratio(lr),
                }
        runs.append(
            {
                "tokens": [part.start_tokens, part.end_tokens],
                "batch_tokens": part.batch_tokens,
                "skip_samples": part.start_tokens // part.sequence_length,
                "resume_from_checkpoint": number > 0,
                "arguments": arguments,
            }
        )
    about = [line.removeprefix("# ") for line in _introduction(schedule, "transformers' Trainer")]
    about.append("The data of a run: dataset.skip(skip_samples), in their own order.")
    return json.dumps({"about": about, "runs": runs}, indent=2).splitlines()


def _introduction(schedule: BatchSchedule, name: str) -> list[str]:
    return [
        f"# {len(schedule.segments)} runs of {name}, one constant batch each: every one goes on",
        "# from the last checkpoint of the one before, so all write to the same folder.",
    ]


def _about(number: int, part: Segment) -> str:
    return (
        f"# {number}: tokens {format_count(part.start_tokens)} to {format_count(part.end_tokens)}, "
        f"{part.steps} steps of {format_count(part.batch_tokens)}"
    )


def _final_ratio(lr: LRSchedule) -> float:
    return lr.final / lr.peak if lr.decay_tokens else 1.0


def _rate_steps(schedule: BatchSchedule, lr: LRSchedule | None, name: str) -> tuple[int, int]:
    """Steps of warmup and of decay."""
    first, last = schedule.segments[0], schedule.segments[-1]
    if len({part.sequence_length for part in schedule.segments}) > 1:
        raise CannotExport(f"cannot export: {name} packs sequences of one length.")
    if len({part.lr_scale for part in schedule.segments}) > 1:
        raise CannotExport(
            f"cannot export: {name} resumes with one peak learning rate, and this one follows the "
            "batch. Nearest legal: --lr-coupling constant."
        )
    if lr is None:
        return 0, 0
    if lr.kind not in ("wsd", "constant"):
        raise CannotExport(
            f"cannot export: the learning rate of kind {lr.kind} counts steps in {name}, whose "
            "tokens change. Nearest legal: wsd."
        )
    if lr.decay_tokens and lr.decay_shape not in DECAYS[name]:
        raise CannotExport(
            f"cannot export: {name} has no decay of shape {lr.decay_shape}. "
            f"Nearest legal: {' or '.join(DECAYS[name])}."
        )
    if lr.warmup_tokens > first.end_tokens - schedule.start_tokens:
        raise CannotExport(
            f"cannot export: the warmup of {format_count(lr.warmup_tokens)} tokens outlasts the "
            f"first batch, and {name} counts steps. Nearest legal: --warmup "
            f"{format_count(first.end_tokens)}."
        )
    if lr.decay_start_tokens < last.start_tokens:
        raise CannotExport(
            f"cannot export: the decay begins before the last batch, and {name} counts steps. "
            f"Nearest legal: --decay {format_count(schedule.total_tokens - last.start_tokens)}."
        )
    return round(lr.warmup_tokens / first.batch_tokens), round(lr.decay_tokens / last.batch_tokens)
