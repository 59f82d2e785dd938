"""A batch schedule as Megatron-LM arguments, in both of its grammars.

What Megatron does with them, and what therefore is refused or moved here:

- A threshold acts at the first step that starts at or after it, in whole samples: the thresholds
  written are the segments' own starts, so Megatron's steps are this schedule's steps.
- Divisibility is asserted only when an entry is reached, and a shrinking number of micro-batches
  stops the run there: both are refused before the run starts.
- A partial last batch is never run: `--train-samples` and the end of the decay are set to the last
  whole step.
- Warmup, decay and WSD lengths are in samples (`--train-iters` would be converted with a wrong
  batch under a schedule). The learning rate of a step is taken at its first sample.
- The learning rate does not follow the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from megascale.errors import ScheduleError, UserError
from megascale.schedule.batch import BatchSchedule, Segment, build_batch_schedule
from megascale.schedule.lr import LRSchedule
from megascale.schedule.megatron import format_step_schedule, parse_rampup
from megascale.schedule.points import BatchPoint
from megascale.units import format_count

_DECAYS = {"linear": "linear", "cosine": "cosine", "1-sqrt": "minus_sqrt"}


class CannotExport(ScheduleError):
    """The other trainer has no way to say this schedule."""


def step_schedule_arguments(schedule: BatchSchedule, lr: LRSchedule | None = None) -> list[str]:
    """Return the arguments with `--step-batch-size-schedule` (Megatron core 0.18 on), comments
    included.

    Args:
        schedule: realised segments from token 0.
        lr: learning-rate schedule, for its arguments; None leaves them out.

    Raises:
        CannotExport: Megatron would assert later, or has no such schedule.
    """
    segments = _whole_steps(schedule, "--step-batch-size-schedule")
    points = [BatchPoint(s.start_tokens, s.batch_tokens) for s in segments]
    length = segments[0].sequence_length
    text = format_step_schedule(points, sequence_length=length).replace(" ", ",")
    return [
        *_comments(schedule, segments),
        "# --global-batch-size is left out: Megatron takes it from the schedule and refuses both",
        *_shared(segments),
        f"--step-batch-size-schedule {text}",
        *_learning_rate(segments, lr, schedule.total_tokens),
    ]


def rampup_arguments(schedule: BatchSchedule, lr: LRSchedule | None = None) -> list[str]:
    """Return the arguments with `--rampup-batch-size START INCREMENT SAMPLES` (Megatron core up to
    0.17).

    Args and errors as `step_schedule_arguments`; sizes must grow by one increment at a time, at
    even distances.
    """
    flag = "--rampup-batch-size"
    segments = _whole_steps(schedule, flag)
    length = segments[0].sequence_length
    sizes = [segment.batch_tokens // length for segment in segments]
    final = sizes[-1]
    shared = [
        *_comments(schedule, segments),
        "# Megatron-LM ignores --rampup-batch-size in silence from core 0.18 on",
        *_shared(segments),
        f"--global-batch-size {final}",
    ]
    tail = _learning_rate(segments, lr, schedule.total_tokens)
    if len(sizes) == 1:
        return [*shared, *tail]
    increments = {later - earlier for earlier, later in pairwise(sizes)}
    if len(increments) > 1:
        raise _cannot(
            flag,
            ", ".join(map(str, sizes)),
            f"sizes (in samples) must grow by one increment, here {sorted(increments)}",
            "--export megatron (--step-batch-size-schedule takes any sizes)",
        )
    increment, count = increments.pop(), len(sizes) - 1
    # Segment j starts at the first step boundary at or after j * SAMPLES / count.
    low = max(
        (s.start_tokens - before.batch_tokens) / length / j
        for j, (before, s) in enumerate(pairwise(segments), start=1)
    )
    high = min(s.start_tokens / length / j for j, s in enumerate(segments[1:], start=1))
    for samples in _candidates(low * count, high * count):
        ramp = f"{sizes[0]} {increment} {samples}"
        if _replays(parse_rampup(ramp, final, sequence_length=length), segments):
            return [*shared, f"{flag} {ramp}", *tail]
    starts = ", ".join(format_count(s.start_tokens) for s in segments[1:])
    raise _cannot(
        flag,
        starts,
        "the increments must come at even distances in samples",
        "--export megatron (--step-batch-size-schedule takes any thresholds)",
    )


def check_divisible(
    points: Sequence[BatchPoint],
    *,
    sequence_length: int,
    samples: int,
    consumed_tokens: int = 0,
    key: str,
) -> None:
    """Refuse what Megatron would assert on when it gets there, in its own units.

    Args:
        points: batches in tokens.
        sequence_length: tokens of a sample.
        samples: what a batch must be a multiple of: micro-batch size x data-parallel degree.
        consumed_tokens: entries that are over by then may stay as they are.
        key: option, for messages.

    Raises:
        ScheduleError: entries that are not divisible, with the nearest sizes in samples.
    """
    problems = []
    ends = [point.start_tokens for point in points[1:]]
    for index, point in enumerate(points):
        size = point.batch_tokens // sequence_length
        over = index < len(ends) and ends[index] <= consumed_tokens
        if over or size % samples == 0:
            continue
        below = size // samples * samples
        problems.append(
            ScheduleError.of(
                key,
                f"{format_count(point.start_tokens)}:{size}",
                f"Megatron asserts at {format_count(point.start_tokens)} tokens that the batch is "
                f"a multiple of {samples} samples",
                [value for value in (below, below + samples) if value],
            )
        )
    if problems:
        raise ScheduleError.together(problems)


def _whole_steps(schedule: BatchSchedule, flag: str) -> list[Segment]:
    """The segments without a partial last batch, or why Megatron cannot run them."""
    if schedule.start_tokens:
        raise _cannot(
            flag,
            f"from {format_count(schedule.start_tokens)}",
            "Megatron's schedule is written from sample 0; give the run's past with it",
        )
    segments = list(schedule.segments)
    lengths = {segment.sequence_length for segment in segments}
    if len(lengths) > 1:
        raise _cannot(
            flag,
            f"sequence lengths {sorted(lengths)}",
            "Megatron's thresholds are in samples: another sequence length moves them all",
            "growth by micro-batches",
        )
    if any(segment.lr_scale != segments[0].lr_scale for segment in segments):
        raise _cannot(
            flag, "lr_coupling", "Megatron's learning rate does not follow the batch", "constant"
        )
    for before, after in pairwise(segments):
        if after.batch_tokens < before.batch_tokens:
            raise _cannot(
                flag,
                f"{format_count(before.batch_tokens)} -> {format_count(after.batch_tokens)} at "
                f"{format_count(after.start_tokens)} tokens",
                "Megatron asserts there that the number of micro-batches does not decrease",
                f"{format_count(before.batch_tokens)} or more, or stop and start anew there",
            )
    last = segments[-1]
    whole = (last.end_tokens - last.start_tokens) // last.batch_tokens
    segments[-1] = _shortened(last, whole)
    if not whole:
        segments.pop()
    if not segments:
        raise _cannot(
            flag,
            format_count(schedule.total_tokens),
            "the run is shorter than one batch, and Megatron runs whole batches only",
            format_count(last.batch_tokens),
        )
    return segments


def _shortened(segment: Segment, steps: int) -> Segment:
    values = {name: getattr(segment, name) for name in Segment.__slots__}
    end = segment.start_tokens + steps * segment.batch_tokens
    return Segment(**(values | {"steps": steps, "end_tokens": end}))


def _shared(segments: Sequence[Segment]) -> list[str]:
    first, last = segments[0], segments[-1]
    return [
        f"--seq-length {first.sequence_length}",
        f"--micro-batch-size {first.micro_batch_size}",
        f"--train-samples {last.end_tokens // first.sequence_length}",
    ]


def _comments(schedule: BatchSchedule, segments: Sequence[Segment]) -> list[str]:
    first = segments[0]
    ranks = first.batch_tokens // (
        first.micro_batches * first.micro_batch_size * first.sequence_length
    )
    said = [
        f"# {len(segments)} batch sizes, {segments[-1].first_step + segments[-1].steps:,} steps, "
        f"data-parallel degree {ranks}; sizes in samples of {first.sequence_length} tokens",
        "# `xargs -a FILE` needs these comment lines removed: grep -v '^#' FILE",
    ]
    lost = schedule.total_tokens - segments[-1].end_tokens
    if lost:
        said.append(
            f"# Megatron runs whole batches only: {format_count(segments[-1].end_tokens)} of "
            f"{format_count(schedule.total_tokens)} tokens; the last {format_count(lost)} are less "
            "than one"
        )
    if len(segments) > 1:
        said.append("# Megatron saves a checkpoint before each change of batch size")
    sha256 = schedule.source.get("sha256")
    if sha256:
        said.append(f"# law {schedule.source['name']}, SHA-256 {sha256}")
    return said


def _learning_rate(
    segments: Sequence[Segment], lr: LRSchedule | None, total_tokens: int
) -> list[str]:
    if lr is None:
        return ["# learning-rate arguments are left out: give --lr"]
    length, end = segments[0].sequence_length, segments[-1].end_tokens
    samples = end // length
    warmup = round(lr.warmup_tokens / length)
    lines = [
        f"--lr {lr.peak:.12g}",
        f"--lr-warmup-samples {warmup}",
        f"--lr-decay-samples {samples}",
    ]
    if warmup >= samples:
        raise _cannot(
            "--lr-warmup-samples", warmup, "must be below --lr-decay-samples", samples - 1
        )
    if lr.kind == "constant" or (lr.kind == "wsd" and not lr.decay_tokens):
        return [*lines, "--lr-decay-style constant"]
    lines.append(f"--min-lr {lr.final:.12g}")
    if lr.kind == "cosine":
        return [*lines, "--lr-decay-style cosine"]
    if lr.kind != "wsd":
        raise _cannot("lr.kind", lr.kind, "has no exact twin in Megatron", ["wsd", "cosine"])
    if lr.decay_shape not in _DECAYS:
        raise _cannot(
            "--lr-wsd-decay-style",
            lr.decay_shape,
            "Megatron's exponential is 2 x 0.5^p - 1 of the way, another curve",
            list(_DECAYS),
        )
    decay = samples - round((total_tokens - lr.decay_tokens) / length)
    if decay < 1 or warmup + decay > samples:
        raise _cannot(
            "--lr-wsd-decay-samples",
            decay,
            f"warmup and decay must fit into {samples} samples of whole batches",
            samples - warmup,
        )
    return [
        *lines,
        "--lr-decay-style WSD",
        f"--lr-wsd-decay-samples {decay}",
        f"--lr-wsd-decay-style {_DECAYS[lr.decay_shape]}",
    ]


def _candidates(low: float, high: float) -> Iterator[int]:
    """Whole numbers in (low, high], the roundest first."""
    top = int(high)
    for digits in range(len(str(max(top, 1))), -1, -1):
        value = top // 10**digits * 10**digits
        if low < value:
            yield value
    for value in range(top, max(int(low), top - 64), -1):
        yield value


def _replays(points: Sequence[BatchPoint], segments: Sequence[Segment]) -> bool:
    """Whether Megatron's steps under `points` are those of `segments`."""
    first = segments[0]
    try:
        found = build_batch_schedule(
            points,
            total_tokens=segments[-1].end_tokens,
            sequence_length=first.sequence_length,
            micro_batch_size=first.micro_batch_size,
            data_parallel=first.batch_tokens
            // (first.micro_batches * first.micro_batch_size * first.sequence_length),
            rounding="exact",
            skip_passed=True,
        )
    except UserError:
        return False
    return [(s.start_tokens, s.batch_tokens) for s in found.segments] == [
        (s.start_tokens, s.batch_tokens) for s in segments
    ]


def _cannot(key: str, value: object, rule: str, nearest: object = None) -> CannotExport:
    error = CannotExport.of(key, value, rule, nearest)
    return CannotExport(f"cannot export: {error}")
