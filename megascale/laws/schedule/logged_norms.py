"""The size of weights that our own logs have, and the recursion that it follows.

A run with `log.weights_interval_steps` logs the root mean square of its matrices
(`weight_rms_matrices`) among its metrics; weights of other kinds have scales of their own and are
no part of it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from megascale.arrays import Array
from megascale.errors import FitError
from megascale.fitting.history import History
from megascale.fitting.history_result import HistoryRun
from megascale.fitting.weight_norm import LoggedNorm, WeightNorm, fit_weight_norm
from megascale.runs.table import RunTable

SIZE = "weight_rms_matrices"
POOR_FIT = 0.1
"""Relative error from which the recursion does not hold what was logged."""


def sizes_of_log(path: Path) -> tuple[Array, Array]:
    """Token counts and root mean squares of the matrices in one of our logs; empty where it has
    none."""
    found: dict[int, float] = {}
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if f'"{SIZE}"' not in line:
                continue
            try:
                record = json.loads(line)
                found[int(record["tokens"])] = float(record[SIZE])
            except (ValueError, KeyError, TypeError):
                continue
    at = sorted(found)
    return np.array(at, float), np.array([found[tokens] for tokens in at], float)


def norm_of_history(history: History, tokens: Array, rms: Array) -> LoggedNorm:
    """Logged sizes along a history, as the recursion is fitted to them.

    Args:
        history: of the run.
        tokens: where sizes were logged, increasing.
        rms: sizes.
    """
    inside = (tokens > 0) & (tokens <= history.total_tokens)
    tokens, rms = tokens[inside], rms[inside]
    edges = np.unique(np.concatenate([history.tokens, tokens]))
    middle = 0.5 * (edges[1:] + edges[:-1])
    section = np.searchsorted(history.tokens, middle, side="right") - 1
    begin, end = history.tokens[section], history.tokens[section + 1]
    share = (middle - begin) / (end - begin)
    lr = history.lr_start[section] * (1 - share) + history.lr_end[section] * share
    out = np.full(len(middle), np.nan)
    out[np.searchsorted(edges[1:], tokens)] = rms
    steps = np.diff(edges) / history.batch[section]
    return LoggedNorm(lr, history.weight_decay[section], steps, out)


def logged_weight_norm(
    table: RunTable, runs: Sequence[HistoryRun]
) -> tuple[WeightNorm, float] | None:
    """How the weights of these runs grow, where every one of them logged it.

    Returns:
        The recursion and its relative error (root mean square), or None where a run has no sizes.
    """
    by_name = {run.run: run for run in table.runs}
    logged = []
    for run in runs:
        files = by_name[run.name].files if run.name in by_name else []
        parts = [sizes_of_log(table.files[index].path) for index in files if _is_own(table, index)]
        tokens = np.concatenate([part[0] for part in parts] or [np.empty(0)])
        rms = np.concatenate([part[1] for part in parts] or [np.empty(0)])
        if not len(tokens):
            return None
        order = np.unique(tokens, return_index=True)[1]
        logged.append(norm_of_history(run.history, tokens[order], rms[order]))
    try:
        return fit_weight_norm(logged)
    except FitError:
        return None


def _is_own(table: RunTable, index: int) -> bool:
    path = table.files[index].path
    return path.suffix == ".jsonl" and path.is_file()
