"""Options that had another name or meaning in release 0.1: each answers with the new one.

The table is for one release; it goes with 0.3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from typer.core import TyperCommand

from megascale.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Renamed:
    """What became of an option.

    Attributes:
        new: its name now.
        why: what that means, in words.
        where: which of its values are the old ones; None where the old name has no meaning left.
    """

    new: str
    why: str
    where: Callable[[str], bool] | None = None


def _is_file(text: str) -> bool:
    return text.endswith((".json", "/")) or "/" in text


_LAW_FILE = Renamed("--law-file", "a law's file in every verb; --law is the name of its form")
_TARGET_LOSS = Renamed("--target-loss", "losses to reach, how many or which, in every verb")
_SMOOTH = Renamed("--smooth", "the smoothing window in every verb: 5%, 2M or none")

OLD: dict[str, dict[str, Renamed]] = {
    "fit": {
        "--losses": Renamed("--loss", "which losses are read, in every verb"),
        "--targets": _TARGET_LOSS,
        "--target": Renamed(
            "--next-for", "N,D that the next runs are for; losses to reach are --target-loss"
        ),
    },
    "report": {
        "--law": Renamed(_LAW_FILE.new, _LAW_FILE.why, _is_file),
        "--law-family": Renamed("--law", "the name of a law's form in every verb"),
        "--target": _TARGET_LOSS,
        "--window": _SMOOTH,
        "--replicates": Renamed("--bootstrap", "bootstrap replicates in every verb"),
    },
    "compare": {"--window": _SMOOTH, "--at-loss": _TARGET_LOSS},
    "recommend": {"--law": _LAW_FILE, "--loss": _TARGET_LOSS},
    "schedule": {"--law": _LAW_FILE},
    "sweep": {
        "--workers": Renamed("--jobs", "runs at a time; --workers are processes that read files"),
    },
}
"""Verb -> old option -> what became of it."""


def refuse_old(verb: str, words: Sequence[str]) -> None:
    """Answer an old option with the new one.

    Args:
        verb: its first word on the command line.
        words: after it.

    Raises:
        ConfigError: naming the old option, its value and the new one.
    """
    known = OLD.get(verb, {})
    for place, word in enumerate(words):
        if word == "--":
            return
        name, equals, value = word.partition("=")
        renamed = known.get(name)
        if renamed is None:
            continue
        if not equals:
            value = words[place + 1] if place + 1 < len(words) else ""
        if renamed.where is not None and not renamed.where(value):
            continue
        rule = f"is called {renamed.new} now: {renamed.why}"
        raise ConfigError.of(name, value, rule, f"{renamed.new} {value}".strip())


class Verb(TyperCommand):
    """A command that refuses the old spellings of its options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        refuse_old(self.name or "", args)
        return super().parse_args(ctx, args)
