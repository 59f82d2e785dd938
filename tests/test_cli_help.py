"""Help: everywhere, with examples, and fast."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from megascale.cli import VERBS, app
from tests.verbs.scene import call


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command of the command line, groups too, by its words."""
    yield path
    members = getattr(command, "commands", {})
    for name, member in members.items():
        yield from commands(member, (*path, name))


def every_command() -> list[tuple[str, ...]]:
    root: Any = typer.main.get_command(app)
    found: list[tuple[str, ...]] = [()]
    for verb in VERBS:
        context = root.make_context("megascale", [verb], resilient_parsing=True)
        found += commands(root.resolve_command(context, [verb])[1], (verb,))
    return found


EVERY_COMMAND = every_command()


@pytest.mark.parametrize("words", EVERY_COMMAND, ids=" ".join)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_has_an_example(words: tuple[str, ...], option: str, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert call([*words, option]) == 0
    out = capsys.readouterr().out
    assert "Usage: megascale" in out
    group = any(other[: len(words)] == words and other != words for other in EVERY_COMMAND)
    if not group or not words:
        assert "Example" in out
        assert f"megascale {' '.join(words)}".strip() in out.partition("Example")[2]


def test_the_tops_help_imports_no_verb() -> None:
    code = (
        "import sys; from megascale import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'numpy', 'pydantic', 'yaml') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("[]")
    for verb, (_, _, summary) in VERBS.items():
        assert verb in done.stdout
        assert summary[:20] in done.stdout
