"""A run's history: batch and learning rate at every consumed token, and the pieces of it that the
engine's laws of whole histories take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from megascale.errors import FitError
from megascale.fitting.weight_norm import WeightNorm

Array = np.ndarray

RESOLUTION = 96
"""Pieces of constant learning rate for a change as large as the largest rate of the history. The
noise lags by half a piece: by some c x / (2 RESOLUTION) nats, not at all where pieces are steps."""

GROWTH = 1.15
"""Ratio of token counts between cuts, where noise goes with the excess loss or rates are
taken over the weights' size."""


@dataclass(frozen=True, slots=True)
class History:
    """Batch and learning rate of a run by consumed tokens.

    Section i covers tokens[i] to tokens[i + 1] at batch[i] tokens a step, with the learning rate
    linear in tokens from lr_start[i] to lr_end[i].

    Attributes:
        tokens: n + 1 token counts, from 0, increasing.
        batch: n batches in tokens.
        lr_start, lr_end: n learning rates each.
        weight_decay: n weight decays, of the laws that look at it.
        name: of the run.
        n_params: parameters N of its model, for laws over several sizes; None where not known.
    """

    tokens: Array
    batch: Array
    lr_start: Array
    lr_end: Array
    weight_decay: Array
    name: str = ""
    n_params: float | None = None

    @classmethod
    def of_sections(
        cls,
        tokens: Any,
        batch: Any,
        lr_start: Any,
        lr_end: Any | None = None,
        *,
        weight_decay: Any = 0.0,
        name: str = "",
        n_params: float | None = None,
    ) -> History:
        """Check and make a history; see the attributes.

        Raises:
            FitError: counts differ, tokens do not increase from 0, a batch is not positive, a
                learning rate is negative, or anything is not finite.
        """
        edges = np.asarray(tokens, float)
        n = len(edges) - 1
        label = f"history {name}".strip()
        if n < 1 or edges[0] != 0 or not (np.diff(edges) > 0).all():
            raise FitError.of(label, edges[:3], "tokens must increase from 0, at least one section")
        columns = [batch, lr_start, lr_start if lr_end is None else lr_end, weight_decay]
        try:
            batch, start, end, decay = (
                np.broadcast_to(np.asarray(c, float), (n,)).copy() for c in columns
            )
        except ValueError:
            raise FitError.of(label, n, "needs one batch and learning rate a section") from None
        for key, column in (("batch", batch), ("lr", start), ("lr", end), ("weight_decay", decay)):
            low = column <= 0 if key == "batch" else column < 0
            if not np.isfinite(column).all() or low.any():
                bad = column[~np.isfinite(column) | low][0]
                sign = "positive" if key == "batch" else "not negative"
                raise FitError.of(f"{label}: {key}", float(bad), f"must be known and {sign}")
        if not (start + end > 0).any():
            raise FitError.of(f"{label}: lr", 0.0, "must be positive somewhere")
        if n_params is not None and not 0 < n_params < np.inf:
            raise FitError.of(f"{label}: n_params", n_params, "must be positive and finite")
        return cls(edges, batch, start, end, decay, name, n_params)

    @classmethod
    def of_schedule(
        cls,
        batch: Sequence[tuple[float, float]],
        lr: Callable[[float], float] | float,
        total_tokens: float,
        *,
        marks: Sequence[float] = (),
        weight_decay: float = 0.0,
        samples: int = 256,
        name: str = "",
    ) -> History:
        """The history of a plan.

        Args:
            batch: (start_tokens, batch_tokens) of each segment, the first from 0.
            lr: learning rate at a token count, such as `LRSchedule.at`; or a constant.
            total_tokens: the plan's end.
            marks: token counts where the learning rate has a corner (end of warmup, start of
                decay); between cuts it is taken as linear.
            weight_decay: of every step.
            samples: even cuts of the plan for a learning rate that curves.

        Raises:
            FitError: as `of_sections`.
        """
        starts = np.array([s for s, _ in batch], float)
        edges = np.unique(
            np.concatenate([[0.0, total_tokens], starts, np.asarray(marks, float)])
            if not callable(lr)
            else np.concatenate(
                [starts, np.asarray(marks, float), np.linspace(0, total_tokens, samples + 1)]
            )
        )
        edges = edges[(edges >= 0) & (edges <= total_tokens)]
        sizes = np.array([b for _, b in batch], float)
        at = np.searchsorted(starts, edges[:-1], side="right") - 1
        if (at < 0).any():
            raise FitError.of("batch", list(batch)[:2], "the first segment must start at 0")
        rates = (
            np.array([lr(float(t)) for t in edges])
            if callable(lr)
            else np.full(len(edges), float(lr))
        )
        return cls.of_sections(
            edges, sizes[at], rates[:-1], rates[1:], weight_decay=weight_decay, name=name
        )

    @classmethod
    def of_steps(
        cls, lr: Any, batch: Any = 1.0, *, weight_decay: Any = 0.0, name: str = ""
    ) -> History:
        """The history of a learning rate (and batch) a step; equal neighbours are one section.

        Raises:
            FitError: as `of_sections`.
        """
        rates = np.asarray(lr, float)
        sizes = np.broadcast_to(np.asarray(batch, float), rates.shape)
        decays = np.broadcast_to(np.asarray(weight_decay, float), rates.shape)
        same = (np.diff(rates) == 0) & (np.diff(sizes) == 0) & (np.diff(decays) == 0)
        first = np.flatnonzero(np.concatenate([[True], ~same]))
        after = np.concatenate([[0.0], np.cumsum(sizes)])
        edges = np.concatenate([after[first], after[-1:]])
        return cls.of_sections(
            edges, sizes[first], rates[first], weight_decay=decays[first], name=name
        )

    @property
    def total_tokens(self) -> float:
        return float(self.tokens[-1])

    @property
    def steps(self) -> float:
        """Optimiser steps of the whole history."""
        return float(np.sum(np.diff(self.tokens) / self.batch))

    @property
    def peak(self) -> float:
        """The largest learning rate."""
        return float(max(self.lr_start.max(), self.lr_end.max()))


@dataclass(frozen=True, slots=True)
class Pieces:
    """Histories as the engine takes them, cut at their points.

    Attributes:
        columns: of `_engine.predict_histories`: steps, lr, batch, decay, offsets, ends.
        order: row of the caller's points for each of the engine's.
    """

    columns: dict[str, Any]
    order: Array


def cut(
    histories: Sequence[History],
    tokens: Sequence[Array],
    lr_ref: float,
    *,
    growing: bool,
    norm: WeightNorm | None = None,
) -> Pieces:
    """Cut histories into pieces of constant batch and learning rate that end at the points.

    Args:
        histories: one a run.
        tokens: consumed tokens of each run's points; within its history.
        lr_ref: what learning rates are counted in.
        growing: also cut at token counts in geometric progression.
        norm: learning rates are those over the weights' size, which it gives.

    Raises:
        FitError: a point lies outside its history.
    """
    parts: dict[str, list[Array]] = {k: [] for k in ("steps", "lr", "batch", "decay", "ends")}
    order: list[Array] = []
    pieces, points = [0], [0]
    for history, wanted in zip(histories, tokens, strict=True):
        at = np.asarray(wanted, float)
        wrong = ~((at > 0) & (at <= history.total_tokens * (1 + 1e-12)))
        if wrong.any():
            raise FitError.of(
                f"tokens of {history.name or 'a run'}",
                float(at[wrong][0]),
                "lies outside the run's history",
                history.total_tokens,
            )
        at = np.minimum(at, history.total_tokens)
        ranks = np.argsort(at, kind="stable")
        edges = np.unique(np.concatenate([_edges(history, growing), at]))
        middle = 0.5 * (edges[1:] + edges[:-1])
        section = np.searchsorted(history.tokens, middle, side="right") - 1
        begin = history.tokens[section]
        share = (middle - begin) / (history.tokens[section + 1] - begin)
        lr = history.lr_start[section] * (1 - share) + history.lr_end[section] * share
        batch = history.batch[section]
        parts["steps"].append(np.diff(edges) / batch)
        rate = lr / lr_ref
        if norm is not None:
            decay = history.weight_decay[section]
            rate = rate / norm.over_reference(lr, decay, np.diff(edges) / batch)
        parts["lr"].append(rate)
        parts["batch"].append(batch)
        parts["decay"].append(lr * history.weight_decay[section])
        parts["ends"].append(np.searchsorted(edges, at[ranks]))
        order.append(ranks + points[-1])
        pieces.append(pieces[-1] + len(middle))
        points.append(points[-1] + len(at))
    columns: dict[str, Any] = {k: np.concatenate(v) if v else np.empty(0) for k, v in parts.items()}
    columns["ends"] = columns["ends"].astype(np.int64)
    columns["piece_offsets"] = np.array(pieces, np.int64)
    columns["point_offsets"] = np.array(points, np.int64)
    return Pieces(columns, np.concatenate(order) if order else np.empty(0, np.int64))


def _edges(history: History, growing: bool) -> Array:
    change = np.abs(history.lr_end - history.lr_start) / history.peak
    steps = np.diff(history.tokens) / history.batch
    many = np.minimum(np.ceil(RESOLUTION * change), np.ceil(steps)).astype(int)
    edges = [history.tokens]
    for i in np.flatnonzero(many > 1):
        edges.append(np.linspace(history.tokens[i], history.tokens[i + 1], many[i] + 1))
    if growing:
        count = int(np.log(max(history.total_tokens / history.batch[0], 1)) / np.log(GROWTH))
        grown = history.total_tokens * GROWTH ** -np.arange(1.0, count + 1)
        section = np.searchsorted(history.tokens, grown, side="right") - 1
        begin, size = history.tokens[section], history.batch[section]
        edges.append(begin + np.floor((grown - begin) / size) * size)  # whole steps
    return np.unique(np.concatenate(edges))
