"""Megatron's two batch-size grammars, read and written.

`--rampup-batch-size START INCREMENT SAMPLES` (removed from Megatron-LM after core 0.17) counts in
samples: with `n = (global - START) / INCREMENT`, the batch at `c` consumed samples is
`START + int(c / (SAMPLES / n)) * INCREMENT` up to SAMPLES, and the global batch after.
`--step-batch-size-schedule "0:768 250B:1536"` has thresholds in tokens, cut down to whole samples,
and sizes in samples. Megatron reads `1.13M` as `int(1.13 * 1e6)` = 1129999 in floats; so does this
reader, and the writer avoids suffixes that lose a token so.
"""

from __future__ import annotations

from collections.abc import Iterable

from megascale.errors import ScheduleError
from megascale.schedule.points import BatchPoint, format_table
from megascale.units import CountError, format_count, read_count

_MEGATRON_SUFFIXES = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


def rampup_points(
    start_samples: int,
    increment_samples: int,
    ramp_samples: int,
    global_batch_samples: int,
    *,
    sequence_length: int,
    key: str = "batch.megatron_rampup",
) -> tuple[BatchPoint, ...]:
    """Batch points of Megatron's linear ramp.

    Args:
        start_samples, increment_samples, ramp_samples: the three numbers of the flag, in samples.
        global_batch_samples: `--global-batch-size`, in samples.
        sequence_length: tokens per sample.
        key: config key, for messages.

    Raises:
        ScheduleError: a number is not positive, the ramp would fall, or the increments do not
            reach the global batch.
    """
    named = {
        "start_samples": start_samples,
        "increment_samples": increment_samples,
        "ramp_samples": ramp_samples,
        "global_batch_samples": global_batch_samples,
    }
    for name, value in named.items():
        if value < 1:
            raise ScheduleError.of(f"{key}.{name}", value, "must be at least 1", 1)
    climb = global_batch_samples - start_samples
    if climb < 0:
        raise ScheduleError.of(
            f"{key}.start_samples",
            start_samples,
            f"must not exceed global_batch_samples = {global_batch_samples}",
            global_batch_samples,
        )
    if climb % increment_samples:
        divisors = [d for d in range(1, climb + 1) if climb % d == 0]
        below = [d for d in divisors if d < increment_samples][-1:]
        above = [d for d in divisors if d > increment_samples][:1]
        raise ScheduleError.of(
            f"{key}.increment_samples",
            increment_samples,
            f"must divide global_batch_samples - start_samples = {climb}",
            below + above,
        )
    increments = climb // increment_samples
    points = [BatchPoint(0, start_samples * sequence_length)]
    for level in range(1, increments + 1):
        threshold = _rampup_threshold(level, increments, ramp_samples)
        batch = start_samples + level * increment_samples
        point = BatchPoint(threshold * sequence_length, batch * sequence_length)
        if point.start_tokens == points[-1].start_tokens:
            points[-1] = point
        else:
            points.append(point)
    return tuple(points)


def parse_rampup(
    text: str,
    global_batch_samples: int,
    *,
    sequence_length: int,
    key: str = "--rampup-batch-size",
) -> tuple[BatchPoint, ...]:
    """`rampup_points` from the flag's text, `"START INCREMENT SAMPLES"`.

    Raises:
        ScheduleError: not three counts, or as `rampup_points`.
    """
    parts = text.replace(",", " ").split()
    if len(parts) != 3:
        raise ScheduleError.of(key, text, "must be START INCREMENT SAMPLES", "32 32 1000000")
    try:
        start, increment, samples = (read_count(part) for part in parts)
    except CountError as error:
        raise ScheduleError.of(key, text, error.rule, error.nearest) from None
    return rampup_points(
        start, increment, samples, global_batch_samples, sequence_length=sequence_length, key=key
    )


def parse_step_schedule(
    text: str, *, sequence_length: int, key: str = "batch.megatron_steps"
) -> tuple[BatchPoint, ...]:
    """Batch points of `--step-batch-size-schedule`.

    Args:
        text: `THRESHOLD:SIZE` entries separated by spaces or commas; thresholds in tokens, sizes
            in samples. A suffix on a size is refused: Megatron would take `2M` for two million
            samples where two million tokens are almost surely meant.
        sequence_length: tokens per sample.
        key: config key, for messages.

    Raises:
        ScheduleError: not this grammar.
    """
    points = []
    for entry in text.replace(",", " ").split():
        threshold_text, colon, size_text = entry.partition(":")
        if not colon:
            raise ScheduleError.of(
                key, entry, "must be THRESHOLD:SIZE (tokens:samples)", f"0:{entry}"
            )
        try:
            threshold, size = read_count(threshold_text), read_count(size_text)
        except CountError as error:
            raise ScheduleError.of(key, entry, error.rule, error.nearest) from None
        if size_text[-1].isalpha():
            raise ScheduleError.of(
                key,
                entry,
                "sizes are in samples and take no suffix here; batch.schedule takes tokens",
                f"{threshold_text}:{max(1, round(size / sequence_length))} if {size_text} tokens "
                "are meant",
            )
        if size == 0:
            raise ScheduleError.of(key, entry, "a batch has at least one sample", 1)
        threshold = _float_threshold(threshold_text, threshold)
        whole = threshold // sequence_length * sequence_length
        points.append(BatchPoint(whole, size * sequence_length))
    if not points:
        raise ScheduleError.of(key, text, "must be THRESHOLD:SIZE entries", "0:768 250B:1536")
    return tuple(points)


def format_step_schedule(points: Iterable[BatchPoint], *, sequence_length: int) -> str:
    """Write batch points as `--step-batch-size-schedule`; `parse_step_schedule` reads them back.

    Args:
        points: requested batches in tokens.
        sequence_length: tokens per sample.

    Raises:
        ScheduleError: a batch or threshold is not a whole number of samples, or a point has a
            sequence length of its own.
    """
    entries = []
    for point in points:
        key = f"batch {format_table([point])}"
        if point.sequence_length not in (None, sequence_length):
            raise ScheduleError.of(
                key, point.sequence_length, "Megatron keeps one sequence length", sequence_length
            )
        for what, tokens in (("threshold", point.start_tokens), ("batch", point.batch_tokens)):
            if tokens % sequence_length:
                below = tokens // sequence_length * sequence_length
                raise ScheduleError.of(
                    f"{key} ({what})",
                    tokens,
                    f"must be whole samples of {sequence_length} tokens",
                    [size for size in (below, below + sequence_length) if size],
                )
        start = format_count(point.start_tokens).replace("_", "")
        if _float_threshold(start, point.start_tokens) != point.start_tokens:
            start = str(point.start_tokens)
        entries.append(f"{start}:{point.batch_tokens // sequence_length}")
    return " ".join(entries)


def _float_threshold(text: str, exact: int) -> int:
    """A threshold as Megatron's floats read its text; `exact` under a suffix it does not know."""
    text = text.strip().replace("_", "")
    scale = _MEGATRON_SUFFIXES.get(text[-1:].upper())
    if scale is not None:
        return int(float(text[:-1]) * scale)
    return exact if text[-1:].isalpha() else int(float(text))


def _rampup_threshold(level: int, increments: int, ramp_samples: int) -> int:
    """Smallest consumed samples at which Megatron's float arithmetic reaches `level`."""
    per_increment = ramp_samples / increments
    threshold = -(-level * ramp_samples // increments)
    while threshold <= ramp_samples and int(threshold / per_increment) < level:
        threshold += 1
    while threshold > 1 and int((threshold - 1) / per_increment) >= level:
        threshold -= 1
    return threshold
