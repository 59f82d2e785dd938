"""Errors meant for the person who started the program.

Each of them is one message that names the key, the value, the rule it breaks and, where there
is one, the nearest legal value. The command line prints the message alone and exits with
`exit_code`; `docs/exit-codes.md` lists the codes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Self

SHOWN = 500
"""So many characters of a value are shown; what is longer is damage or no value at all."""

EXIT_DONE = 0
EXIT_CONFIG = 2
EXIT_DATA = 3
EXIT_CHECKPOINT = 4
EXIT_RUN_DIRECTORY = 5
EXIT_GUARD = 6
EXIT_FIT = 7
EXIT_LOST_RANK = 69
EXIT_INTERRUPTED = 75
ALIKE_SHOWN = 3
"""Errors of one kind that `UserError.together` shows one by one; of more, the first and last."""
_NUMBER = re.compile(r"\d[\d_,.]*(?:e[-+]?\d+)?[KMBT]?\b")


class UserError(Exception):
    """Base of every error a user can cause and mend.

    Attributes:
        exit_code: what the process exits with.
        found_by: which processes raise this same error: only this `rank`, every rank of the
            `node`, or every rank of the `run`. The first of them prints it.
    """

    exit_code = EXIT_CONFIG
    found_by: Literal["rank", "node", "run"] = "rank"
    _parts: tuple[str, str, str, str | None] | None = None

    @classmethod
    def of(cls, key: str, value: Any, rule: str, nearest: Any = None) -> Self:
        """Build the message `KEY = VALUE: RULE. Nearest legal: NEAREST.`

        Args:
            key: the config key, file or argument at fault, as the user wrote it.
            value: what was found there.
            rule: what must hold, in words.
            nearest: the nearest legal value, or a sequence of them; left out when None.
        """
        message = f"{key} = {_shown(value)}: {rule.rstrip('.')}."
        if nearest is not None:
            if isinstance(nearest, (list, tuple)):
                nearest = " or ".join(_shown(item) for item in nearest)
            else:
                nearest = _shown(nearest)
            message += f" Nearest legal: {nearest}."
        made = cls(message)
        made._parts = (key, _shown(value), rule, nearest)
        return made

    @classmethod
    def together(cls, problems: Sequence[UserError]) -> Self:
        """One error that says all of `problems`; those of one kind share a message.

        Problems are of one kind where their keys are equal and their rules differ in numbers
        alone. Of a kind that is met often the first is shown whole, and then how many more there
        are, with the last one's value and nearest legal value.
        """
        kinds: dict[tuple[str, str], list[UserError]] = {}
        for problem in problems:
            key, _, rule, _ = problem._parts or (str(problem), "", "", None)
            kinds.setdefault((key, _NUMBER.sub("#", rule)), []).append(problem)
        lines = []
        for alike in kinds.values():
            if len(alike) <= ALIKE_SHOWN or alike[-1]._parts is None:
                lines += [str(problem) for problem in alike]
                continue
            _, value, _, nearest = alike[-1]._parts
            legal = "" if nearest is None else f" (nearest legal: {nearest})"
            lines.append(f"{alike[0]} {len(alike) - 1:,} more are alike, the last {value}{legal}.")
        return cls("\n".join(lines))


@contextmanager
def found_alike(by: Literal["node", "run"]) -> Iterator[None]:
    """Mark user errors of the block as ones that every rank of the node, or of the run, raises."""
    try:
        yield
    except UserError as error:
        error.found_by = by
        raise


def _shown(value: Any) -> str:
    text = (value or "'' (empty)") if isinstance(value, str) else repr(_plain(value))
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text):,} characters)"


def _plain(value: Any) -> Any:
    """The value as Python's own numbers and containers: `3.0`, not `np.float64(3.0)`."""
    if type(value).__module__ == "numpy":
        return value.tolist()
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return type(value)(_plain(item) for item in value)
    if type(value) is dict:
        return {_plain(key): _plain(item) for key, item in value.items()}
    return value


class ConfigError(UserError):
    """A key of the config is unknown, of the wrong type, or breaks a rule."""


class ScheduleError(UserError):
    """A batch, learning-rate or weight-decay schedule is illegal now or later in the run."""


class LayoutError(UserError):
    """Parallel degrees do not divide what they must divide."""


class DataError(UserError):
    """Token files, sources, mixtures or tokenizers are missing, damaged or do not match."""

    exit_code = EXIT_DATA


class CheckpointError(UserError):
    """A checkpoint is damaged, incomplete or of another model."""

    exit_code = EXIT_CHECKPOINT


class RunError(UserError):
    """The run directory cannot be used: taken by another process, read-only, disk full."""

    exit_code = EXIT_RUN_DIRECTORY


class GuardError(UserError):
    """The guard stopped the run: the budget for skipped steps is spent."""

    exit_code = EXIT_GUARD
    found_by = "run"


class LostRankError(UserError):
    """Another rank or node of the run is gone, or did not come."""

    exit_code = EXIT_LOST_RANK


class FitError(UserError):
    """Points cannot be fitted: too few, non-finite, non-positive, wrong column."""

    exit_code = EXIT_FIT
