"""Names: a public class or function is found by its name alone, and a test by its module's."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SHARED = {
    "main": "the entry point of a program, `python -m MODULE`",
    "read": "what a log reader does (megascale.runs.readers.detect)",
    "sniff": "how a log reader knows its files (megascale.runs.readers.detect)",
}
"""Names of protocols: any number of modules have them, and they mean the same in each."""
OF_NO_MODULE = {"borders", "csrc", "faults", "launch", "multiprocess", "packaging"}
"""Folders of tests that no module stands for."""


def public_names(tree: ast.Module) -> Iterator[str]:
    """Public classes and functions of a module; commands are left out, a verb names those."""
    for node in tree.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if not node.name.startswith("_") and not any(map(_is_command, node.decorator_list)):
            yield node.name


def _is_command(decorator: ast.expr) -> bool:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return isinstance(called, ast.Attribute) and called.attr == "command"


def duplicates(sources: dict[str, str]) -> dict[str, list[str]]:
    """Public names that several modules define, with the modules."""
    where: dict[str, list[str]] = {}
    for module, text in sources.items():
        for name in public_names(ast.parse(text)):
            where.setdefault(name, []).append(module)
    return {name: own for name, own in where.items() if len(own) > 1 and name not in SHARED}


def test_public_names_are_unique(repository: Path) -> None:
    package = repository / "megascale"
    sources = {
        str(path.relative_to(repository)): path.read_text(encoding="utf-8")
        for path in sorted(package.rglob("*.py"))
    }
    assert len(sources) > 100
    assert duplicates(sources) == {}


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        ("class Fit: ...", "def Fit(): ...", ["Fit"]),
        ("class Fit: ...", "class _Fit: ...", []),
        ("def show(): ...", "@app.command(epilog='x')\ndef show(): ...", []),
        ("def show(): ...", "@cache\ndef show(): ...", ["show"]),
        ("def read(): ...", "def read(): ...", []),
        ("def outer():\n    def show(): ...", "def show(): ...", []),
    ],
)
def test_what_counts_as_a_duplicate(first: str, second: str, found: list[str]) -> None:
    assert list(duplicates({"a": first, "b": second})) == found


def test_tests_are_named_after_what_they_test(repository: Path) -> None:
    """tests/P/test_NAME.py and tests/P/test_NAME_topic.py test megascale/P/NAME."""
    strays = []
    for path in sorted((repository / "tests").rglob("test_*.py")):
        inside = path.relative_to(repository / "tests")
        if inside.parts[0] in OF_NO_MODULE:
            continue
        words = inside.stem.removeprefix("test_").split("_")
        folder = repository / "megascale" / inside.parent
        names = ["_".join(words[:count]) for count in range(1, len(words) + 1)]
        if not any((folder / f"{n}.py").is_file() or (folder / n).is_dir() for n in names):
            strays.append(str(inside))
    assert strays == []
