"""From what a user holds (arrays, lists, a frame with a group column) to ragged flat arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from megascale.errors import FitError

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Points:
    """Ragged problems as flat columns; problem p owns points offsets[p] to offsets[p + 1]."""

    x: Array  # inputs x points, float64
    y: Array  # points
    offsets: Array  # problems + 1, int64
    labels: list[Any] | None  # one per problem, when the user grouped them
    order: Array | None  # point i of the flat columns came from row order[i] of the input
    single: bool  # one problem, given without any grouping

    @property
    def problems(self) -> int:
        return len(self.offsets) - 1

    def rearrange(self, values: Any, name: str) -> Array:
        """A per-point column of the user's, brought into the flat order."""
        if isinstance(values, (list, tuple)) and values and np.ndim(values[0]) == 1:
            for part in values:
                _refuse_mask(part, name)
            values = np.concatenate([np.asarray(v) for v in values])
        _refuse_mask(values, name)
        column = np.asarray(values).reshape(-1)
        if len(column) != len(self.y):
            raise FitError.of(
                name, f"{len(column)} values", f"must have {len(self.y)}, one a point"
            )
        return column if self.order is None else column[self.order]


def _refuse_mask(values: Any, name: str) -> None:
    """A masked value has a number under its mask, which an array without it would fit."""
    if isinstance(values, np.ma.MaskedArray) and np.ma.getmaskarray(values).any():
        count = int(np.ma.getmaskarray(values).sum())
        raise FitError.of(name, f"{count} masked values", "leave the masked points out")


def float_column(values: Any, name: str) -> Array:
    """The values as float64.

    Raises:
        FitError: not real numbers, or some are masked.
    """
    _refuse_mask(values, name)
    try:
        given = np.asarray(values)
        if np.iscomplexobj(given):
            raise FitError.of(name, given.dtype, "must be real numbers", "the real part, stated")
        return np.ascontiguousarray(np.asarray(given, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise FitError.of(name, type(values).__name__, f"must be numbers ({error})") from None


def _is_ragged(values: Any) -> bool:
    return isinstance(values, (list, tuple)) and len(values) > 0 and np.ndim(values[0]) == 1


def _columns(x: Any, points: int) -> Array:
    """Inputs as an (inputs, points) array. A 2-D array may come either way round."""
    if isinstance(x, (list, tuple)) and len(x) and np.ndim(x[0]) == 1:
        return np.ascontiguousarray(np.stack([float_column(c, "x") for c in x]))
    columns = float_column(x, "x")
    if columns.ndim == 1:
        return columns.reshape(1, -1)
    if columns.ndim != 2:
        raise FitError.of("x", f"{columns.ndim} dimensions", "must have one or two")
    if columns.shape[1] == points:
        return columns
    if columns.shape[0] == points:
        return np.ascontiguousarray(columns.T)
    raise FitError.of("x", columns.shape, f"must hold {points} points, as many as y")


def collect(x: Any, y: Any, offsets: Any = None, groups: Any = None) -> Points:
    """Brings points into the engine's layout.

    Args:
        x: one array of inputs; (inputs, points) or (points, inputs) for several; or, with `y` a
            list of arrays, a list with one entry a problem.
        y: targets: flat, or a list of arrays, one a problem, or (problems, points).
        offsets: first point of every problem and the end: problems + 1 rising integers.
        groups: a label a point; each distinct label is a problem, in order of appearance.

    Raises:
        FitError: lengths differ, offsets are not rising, or values are not numbers.
    """
    if offsets is not None and groups is not None:
        raise FitError.of("offsets", "given with groups", "give one of the two")
    if _is_ragged(y):
        return _from_lists(x, y)
    target = float_column(y, "y")
    if target.ndim == 2:
        if offsets is not None or groups is not None:
            raise FitError.of("y", "2-D", "must be flat when offsets or groups are given")
        return _from_matrix(x, target)
    if target.ndim != 1:
        raise FitError.of("y", f"{target.ndim} dimensions", "must have one or two")
    columns = _columns(x, len(target))
    if columns.shape[1] != len(target):
        raise FitError.of(
            "x", f"{columns.shape[1]} points", f"must have as many points as y, {len(target)}"
        )
    if groups is not None:
        return _from_groups(columns, target, groups)
    if offsets is None:
        return Points(columns, target, np.array([0, len(target)], np.int64), None, None, True)
    given = np.asarray(offsets if not isinstance(offsets, (str, bytes)) else ["text"])
    if given.ndim != 1 or given.dtype.kind not in "iu" or isinstance(offsets, np.ma.MaskedArray):
        raise FitError.of("offsets", offsets, "must be whole numbers in one row")
    bounds = np.ascontiguousarray(given.astype(np.int64))
    if (
        len(bounds) < 1
        or bounds[0] != 0
        or bounds[-1] != len(target)
        or (np.diff(bounds) < 0).any()
    ):
        raise FitError.of(
            "offsets",
            f"{bounds[:3].tolist()}...{bounds[-1:].tolist()}",
            f"must rise from 0 to the number of points, {len(target)}",
        )
    return Points(columns, target, bounds, None, None, False)


def _from_lists(x: Any, y: Any) -> Points:
    targets = [float_column(v, f"y[{i}]") for i, v in enumerate(y)]
    if not isinstance(x, (list, tuple)) or len(x) != len(targets):
        raise FitError.of("x", type(x).__name__, f"must be a list of {len(targets)} like y")
    inputs = [_columns(v, len(t)) for v, t in zip(x, targets, strict=True)]
    for i, (columns, target) in enumerate(zip(inputs, targets, strict=True)):
        if columns.shape != (inputs[0].shape[0], len(target)):
            raise FitError.of(
                f"x[{i}]", columns.shape, f"must hold {len(target)} points, as y[{i}]"
            )
    offsets = np.concatenate([[0], np.cumsum([len(t) for t in targets])]).astype(np.int64)
    flat = np.ascontiguousarray(np.concatenate(inputs, axis=1))
    return Points(flat, np.concatenate(targets), offsets, None, None, False)


def _from_matrix(x: Any, target: Array) -> Points:
    problems, points = target.shape
    columns = float_column(x, "x")
    if columns.shape == (points,):
        columns = np.broadcast_to(columns, target.shape)
    if columns.shape == target.shape:
        columns = columns.reshape(1, -1)
    elif columns.ndim == 3 and columns.shape[1:] == target.shape:
        columns = columns.reshape(columns.shape[0], -1)
    else:
        raise FitError.of("x", columns.shape, f"must be {target.shape}, as y")
    offsets = np.arange(problems + 1, dtype=np.int64) * points
    return Points(np.ascontiguousarray(columns), target.reshape(-1), offsets, None, None, False)


def _from_groups(columns: Array, target: Array, groups: Any) -> Points:
    labels = groups if isinstance(groups, list) else list(np.asarray(groups).tolist())
    if len(labels) != len(target):
        raise FitError.of(
            "groups", f"{len(labels)} labels", f"must have {len(target)}, one a point"
        )
    number: dict[Any, int] = {}
    member = np.array([number.setdefault(_hashable(v), len(number)) for v in labels], np.int64)
    order = np.argsort(member, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(member, minlength=len(number)))])
    return Points(
        np.ascontiguousarray(columns[:, order]),
        target[order],
        offsets.astype(np.int64),
        [_python(label) for label in number],
        order,
        False,
    )


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _python(value: Any) -> Any:
    """A label without numpy's own scalars, as it is shown."""
    if isinstance(value, tuple):
        return tuple(_python(part) for part in value)
    return value.item() if isinstance(value, np.generic) else value


def from_frame(
    frame: Any, x: str | list[str], y: str, group: str | list[str] | None = None
) -> tuple[Points, list[str]]:
    """Points from the columns of a polars (or pandas-like) frame.

    Args:
        frame: anything with `.columns` and `frame[name]`.
        x: input column or columns, in the law's order.
        y: target column.
        group: column or columns whose distinct values make the problems; None for one problem.

    Returns:
        The points and the names of the group columns.

    Raises:
        FitError: a column is missing or not numeric.
    """
    names = [x] if isinstance(x, str) else list(x)
    keys = [] if group is None else [group] if isinstance(group, str) else list(group)
    present = list(frame.columns)
    for name in [*names, y, *keys]:
        if name not in present:
            raise FitError.of("column", name, "is not in the table", present)
    columns = [float_column(frame[name], name) for name in names]
    target = float_column(frame[y], y)
    labels = None
    if keys:
        labels = list(zip(*(list(frame[key]) for key in keys), strict=True))
        if len(keys) == 1:
            labels = [label[0] for label in labels]
    return collect(np.stack(columns), target, groups=labels), keys


def check_parameters(
    names: Sequence[str],
    bounds: Mapping[str, Any] | None,
    fixed: Mapping[str, Any] | None,
    initial: Mapping[str, Any] | None,
) -> None:
    """Refuse what is said of a parameter that is no number (or no number a problem).

    Args:
        names: of the law's parameters; other names are reported where the boxes are made.
        bounds: parameter -> (lower, upper), either None for none.
        fixed, initial: parameter -> value, or one a problem.

    Raises:
        FitError: naming the argument and the parameter.
    """
    for key, table in (("fixed", fixed), ("initial", initial)):
        for name, value in (table or {}).items():
            if name in names:
                float_column(value, f"{key}[{name}]")
    for name, pair in (bounds or {}).items():
        if name not in names:
            continue
        try:
            low, high = pair
        except (TypeError, ValueError):
            raise FitError.of(f"bounds[{name}]", pair, "must be a pair (lower, upper)") from None
        for side in (low, high):
            if side is not None:
                float_column(side, f"bounds[{name}]")
