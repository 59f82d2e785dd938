"""The vocabulary of columns in logs: tags, keys and headers, and which of them are evaluations."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from megascale.runs.vocabulary import LOGS, columns_of, find_column, names_of

NAMES: dict[str, tuple[str, ...]] = {
    ours: names_of(ours, LOGS) for ours in columns_of(LOGS) if ours not in ("loss_kind", "n_params")
}
"""Our name -> theirs in logs, the most telling first, from the one vocabulary."""

_EVALUATED = ("eval", "val", "final_val", "final-val", "lm loss validation-")


def find(ours: str, present: Collection[str]) -> str | None:
    """Return which of the present names is our column `ours`; None if none is known to be."""
    return find_column(ours, present, LOGS)


def validations(present: Collection[str]) -> Iterator[tuple[str, str]]:
    """Return every present name that is a validation loss, with the name of its set ("" for the
    one).
    """
    main = find("validation", present)
    if main is not None:
        yield main, ""
    for name in present:
        lowered = name.lower()
        begins = lowered.startswith(_EVALUATED)
        ends = lowered.endswith(("loss", "ce loss")) or "validation-" in lowered
        if name != main and begins and ends and "vs samples" not in lowered:
            yield name, name
