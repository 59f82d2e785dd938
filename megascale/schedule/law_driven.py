"""Batch points that follow a law: look every interval, move part of the way (arXiv 2601.05034)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from megascale.errors import ConfigError, ScheduleError
from megascale.formats.law_file import LawFile
from megascale.schedule.points import BatchPoint


def law_driven_points(
    batch_at: Callable[[int], float],
    *,
    interval_tokens: int,
    momentum: float,
    initial_tokens: int,
    total_tokens: int,
    min_tokens: int | None = None,
    max_tokens: int | None = None,
    key: str = "batch.law",
) -> tuple[BatchPoint, ...]:
    """Requested batches `b_0 = initial`, `b_k = b_(k-1) + momentum * (f(k * interval) - b_(k-1))`.

    The bounds apply to the law's value and to the initial batch, hence to every `b_k`. The
    recursion runs on unrounded numbers, so a small momentum is not lost to the layout's rounding;
    only the points are whole tokens.

    Args:
        batch_at: the law's batch (tokens) at consumed tokens.
        interval_tokens: tokens between two looks.
        momentum: fraction of the difference moved at each look, 0 < momentum <= 1.
        initial_tokens: batch (tokens) before the first look.
        total_tokens: the run's budget; looks happen before it.
        min_tokens, max_tokens: bounds on the batch, or None.
        key: config key, for messages.

    Raises:
        ScheduleError: the momentum is outside (0, 1], or the bounds or the initial batch conflict.
    """
    if not 0 < momentum <= 1:
        raise ScheduleError.of(f"{key}.momentum", momentum, "must be above 0 and at most 1", 1.0)
    low = 1 if min_tokens is None else min_tokens
    high = max_tokens
    if high is not None and low > high:
        raise ScheduleError.of(f"{key}.min_tokens", low, f"exceeds max_tokens = {high}", high)
    if initial_tokens < low or (high is not None and initial_tokens > high):
        raise ScheduleError.of(
            f"{key}.initial_tokens",
            initial_tokens,
            "lies outside min_tokens and max_tokens",
            low if initial_tokens < low else high,
        )
    batch = float(initial_tokens)
    points = [BatchPoint(0, initial_tokens)]
    for start in range(interval_tokens, total_tokens, interval_tokens):
        target = max(batch_at(start), low)
        if high is not None:
            target = min(target, high)
        batch += momentum * (target - batch)
        points.append(BatchPoint(start, round(batch)))
    return tuple(points)


def points_from_law(
    law: LawFile,
    n_params: float,
    *,
    file: str,
    key: str,
    interval_tokens: int,
    total_tokens: int,
    **rest: Any,
) -> tuple[tuple[BatchPoint, ...], dict[str, Any]]:
    """The batches a law file asks for, and where they come from.

    Args:
        law: the law.
        n_params: N, as the law's `n_kind` counts it.
        file: the law file's path, for logs.
        key: config key or option that names it, for messages.
        interval_tokens, total_tokens, rest: as `law_driven_points`.

    Raises:
        ConfigError: the law gives something else than a batch.
        ScheduleError: as `law_driven_points`.
    """
    if law.output != "batch_tokens":
        raise ConfigError.of(
            key,
            file,
            f"law {law.name} gives {law.output}, not a batch",
            "a law file with output batch_tokens",
        )
    points = law_driven_points(
        lambda tokens: law.evaluate(n_params, tokens),
        interval_tokens=interval_tokens,
        total_tokens=total_tokens,
        **rest,
    )
    beyond = [
        said
        for tokens in (interval_tokens, total_tokens)
        for said in law.outside_range(n_params if law.looks_at_n else None, tokens)
    ]
    source = {
        "kind": "law",
        "file": file,
        "sha256": law.sha256,
        "name": law.name,
        "version": law.version,
        "n_kind": law.n_kind,
        "n_params": n_params,
        "outside_fitted_range": list(dict.fromkeys(beyond)),
    }
    return points, source
