"""What the start-up lines of a console log state, and what follows from it for its rows."""

from __future__ import annotations

from collections.abc import Sequence

from megascale.runs.readers.base import FileRead, ReadOptions, RunMeta, filled
from megascale.runs.readers.launches import N_PARAMS, SEQ_LENGTH, Launch, launches_of
from megascale.runs.readers.spans import count_by_launch


def with_statements(found: FileRead, options: ReadOptions, launches: Sequence[Launch]) -> FileRead:
    """Return the file with what its launches say: its batches, and what describes its runs.

    Samples and tokens of the rows are left empty, and said so, where the log is silent about the
    batch and the user does not state it.
    """
    found.runs = described(found, launches)
    count_by_launch(found, options, launches)
    return filled(found, options)


def described(found: FileRead, launches: Sequence[Launch]) -> list[RunMeta]:
    """Return what the launches say about the size and sequence length of each run of the log."""
    metas = []
    parts = found.table.partition_by("run", maintain_order=True, as_dict=True)
    for (run,), rows in (parts or {("",): found.table}).items():
        said = launches_of(launches, rows["line"].to_numpy()) if rows.height else list(launches[:1])
        lengths = {launch.get(SEQ_LENGTH) for launch in said}
        metas.append(
            RunMeta(
                run=str(run or ""),
                n_params=said[-1].get(N_PARAMS) if said else None,
                seq_length=lengths.pop() if len(lengths) == 1 else None,
            )
        )
    return metas
