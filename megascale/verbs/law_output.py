"""Law files written for a verb, and what speaks against a law, on standard error."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from megascale.formats.law_file import WritableLaw


def warn(doubts: Sequence[str]) -> None:
    """What speaks against a law."""
    for doubt in doubts:
        typer.echo(f"megascale: warning: {doubt}.", err=True)


def write(file: WritableLaw, output: Path) -> None:
    """Write a law file and say so."""
    from megascale.formats.law_file import write_law_file

    digest = write_law_file(file, output)
    typer.echo(f"{output}: law file {file.name}, sha256 {digest[:16]}", err=True)
