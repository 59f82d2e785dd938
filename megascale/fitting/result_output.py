"""How a `FitResult` is shown: plain values for JSON, columns of a table, text to read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from megascale.fitting.status import FLAG_TEXT, Flag, flag_words, status_words, weak_parameters
from megascale.formats.plain_table import plain_lines

Array = np.ndarray


def plain_problems(result: Any, begin: int, end: int) -> Iterator[dict[str, Any]]:
    """Problems [begin, end) as plain values; columns are turned into Python values at once."""
    some = slice(begin, end)
    values = []
    for name in (*result.names, *result.derived):
        low, high = result.limits(name)
        columns = [_finite(c[some]) for c in (result[name], result.errors[name], low, high)]
        kinds = np.where(result.profiled(name)[some], "profile", result.interval_kind).tolist()
        cells = [
            {"value": value, "error": error, "low": lower, "high": upper, "kind": kind}
            for value, error, lower, upper, kind in zip(*columns, kinds, strict=True)
        ]
        values.append((name, cells))
    measures = ("objective", "rms", "r_squared", "aicc")
    counts = ("points", "free_params", "iterations", "starts", "agreeing")
    measured = [_finite(getattr(result, name)[some]) for name in measures]
    counted = [getattr(result, name)[some].tolist() for name in counts]
    words = {code: status_words(code) for code in np.unique(result.status[some]).tolist()}
    flags = {
        code: (weak_parameters(code, result.names), flag_words(code))
        for code in np.unique(result.flags[some]).tolist()
    }
    statuses, codes = result.status[some].tolist(), result.flags[some].tolist()
    for i in range(len(statuses)):
        row: dict[str, Any] = {}
        if result.labels is not None:
            row["group"] = _plain(result.labels[begin + i])
        row["status"] = words[statuses[i]]
        row["params"] = {name: column[i] for name, column in values}
        for name, column in zip((*measures, *counts), (*measured, *counted), strict=True):
            row[name] = column[i]
        weak, said = flags[codes[i]]
        row["weak"], row["flags"] = list(weak), list(said)
        yield row


def plain_result(result: Any) -> dict[str, Any]:
    """`FitResult.to_dict`."""
    return {
        "law": result.law,
        "residual": result.residual,
        "confidence": result.confidence,
        "interval_kind": result.interval_kind,
        "bootstrap_replicates": 0 if result.bootstrap is None else result.bootstrap.shape[1],
        "resample": result.resample,
        "shared": list(result.shared),
        "withheld": {
            name: reason
            for name in (*result.names, *result.derived)
            if (reason := result.withheld(name))
        },
        **({} if result.restrictions is None else result.restrictions.plain(result.names)),
        **{k: v for k, v in result.settings.items() if v is not None},
        "group_names": result.label_names,
        "problems": list(plain_problems(result, 0, len(result))),
    }


def result_columns(result: Any) -> dict[str, Any]:
    """Columns of `FitResult.to_polars`."""
    columns: dict[str, Any] = {}
    if result.labels is not None:
        names = result.label_names or ["group"]
        for i, name in enumerate(names):
            columns[name] = [v[i] if isinstance(v, tuple) else v for v in result.labels]
    for name in (*result.names, *result.derived):
        low, high = result.limits(name)
        columns[name] = result[name]
        columns[f"{name}_error"] = result.errors[name]
        columns[f"{name}_low"], columns[f"{name}_high"] = low, high
    for name in ("objective", "rms", "r_squared", "aicc", "points", "iterations", "starts"):
        columns[name] = getattr(result, name)
    columns["status"] = [status_words(s) for s in result.status]
    columns["weak"] = [", ".join(result.weak(i)) for i in range(len(result))]
    profiled = {name: result.profiled(name) for name in result.names}
    columns["profiled"] = [
        ", ".join(name for name in result.names if profiled[name][i]) for i in range(len(result))
    ]
    columns["flags"] = [", ".join(flag_words(f)) for f in result.flags]
    return columns


def many_problems(result: Any, limit: int) -> str:
    """One line a problem, the first `limit` of them."""
    lines = [f"{result.law}: {len(result)} problems, {int(result.converged.sum())} converged"]
    if result.shared:
        percent = f"{100 * result.confidence:g} %"
        lines.append(f"common to all, {int(result.freedom[0])} degrees of freedom together:")
        common = []
        for name in result.shared:
            low, high = result.limits(name)
            numbers = (result[name][0], result.errors[name][0], low[0], high[0])
            common.append([name, *(f"{v:.5g}" for v in numbers)])
        lines += plain_lines(["", "value", "error", f"{percent} low", "high"], common)
    lines += _restricted(result)
    shown = (*result.names, *result.derived)
    head = ["problem", *shown, "rms", "status"]
    rows = []
    for i in range(min(limit, len(result))):
        label = str(result.labels[i]) if result.labels is not None else str(i)
        cells = [label, *(_with_error(result[name][i], result.errors[name][i]) for name in shown)]
        mark = "*" if result.weak(i) else ""
        rows.append([*cells, f"{result.rms[i]:.3g}", status_words(result.status[i]) + mark])
    lines.append("value ±standard error; limits are in to_polars() and in -o FILE.csv")
    lines += plain_lines(head, rows)
    lines += _withheld(result)
    if len(result) > limit:
        lines.append(f"... {len(result) - limit} more")
    if any(row[-1].endswith("*") for row in rows):
        lines.append("* some parameters are weakly determined, see .weak(problem)")
    for flag in (Flag.NEVER_REACHED, Flag.ABOVE_NOISE, Flag.OUTSIDE):
        hit = np.flatnonzero(result.flags & int(flag))
        if len(hit):
            which = ", ".join(str(result.labels[i] if result.labels else i) for i in hit[:5])
            more = f" and {len(hit) - 5} more" if len(hit) > 5 else ""
            lines.append(f"unsupported: {FLAG_TEXT[flag]}: {which}{more}")
    return "\n".join(lines)


def one_problem(result: Any) -> str:
    """The only problem of a result in full."""
    n, k = int(result.points[0]), int(result.free_params[0])
    lines = [
        f"{result.law}: {status_words(result.status[0])}, {n} points, {k} free parameters, "
        f"rms {result.rms[0]:.4g} ({result.residual}), R^2 {result.r_squared[0]:.5f}, "
        f"AICc {result.aicc[0]:.2f}"
    ]
    weak = result.weak(0)
    rows = []
    for name in (*result.names, *result.derived):
        low, high = result.limits(name)
        notes = ["weak"] if name in weak else []
        notes += ["profile limits"] if result.profiled(name)[0] else []
        cells = (result[name][0], result.errors[name][0], low[0], high[0])
        rows.append([name, *(f"{v:.5g}" for v in cells), ", ".join(notes)])
    percent = f"{100 * result.confidence:g} %"
    if result.known_noise:
        lines[0] += f", chi^2 {result.chi_squared[0]:.4g} (p = {result.p_value[0]:.2g})"
    lines += _restricted(result)
    lines.append(f"{percent} limits: {result.interval_kind}")
    lines += plain_lines(["", "value", "error", f"{percent} low", "high", ""], rows)
    lines += _withheld(result)
    lines += [f"note: {text}" for flag, text in FLAG_TEXT.items() if Flag(flag) & result.flags[0]]
    return "\n".join(lines)


def _with_error(value: float, error: float) -> str:
    return f"{value:.4g} ±{error:.2g}" if math.isfinite(error) else f"{value:.4g} ±?"


def _restricted(result: Any) -> list[str]:
    """Priors and constraints, in words."""
    if result.restrictions is None:
        return []
    said = result.restrictions.plain(result.names)
    lines = []
    for name, prior in said.get("priors", {}).items():
        mean, deviation = (
            f"{v:g}" if isinstance(v, float) else "one a problem"
            for v in (prior["mean"], prior["deviation"])
        )
        lines.append(f"prior: {'log ' if prior['of_log'] else ''}{name} ~ {mean} ({deviation})")
    return [*lines, *(f"constraint: {text}" for text in said.get("constraints", []))]


def _withheld(result: Any) -> list[str]:
    """Whose limits are withheld and why, a line a reason."""
    reasons = {name: result.withheld(name) for name in (*result.names, *result.derived)}
    lines = []
    for reason in dict.fromkeys(filter(None, reasons.values())):
        which = ", ".join(name for name, said in reasons.items() if said == reason)
        lines.append(f"limits of {which} withheld: {reason}")
    return lines


def _finite(column: Array) -> list[float | None]:
    """A column as Python numbers, None where it is not finite."""
    values: list[float | None] = column.tolist()
    for i in np.flatnonzero(~np.isfinite(column)):
        values[i] = None
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.generic):
        return value.item()
    return value
