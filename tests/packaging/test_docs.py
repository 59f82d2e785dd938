"""What the documents name exists: imports of their examples, modules, and files of the tree."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
FILE = re.compile(r"`((?:megascale|tests|csrc|benchmarks|docs)/[\w./-]*\w)`")
DOTTED = re.compile(r"`(megascale(?:\.\w+)+)")


def imports(text: str) -> Iterator[tuple[str, str]]:
    """(module, name) of every import from megascale in the Python examples."""
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("megascale"):
                yield from ((str(node.module), alias.name) for alias in node.names)


def is_there(dotted: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for name in parts[count:]:
            if not hasattr(found, name):
                return False
            found = getattr(found, name)
        return True
    return False


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_names_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    missing = [
        f"from {module} import {name}"
        for module, name in imports(text)
        if not is_there(f"{module}.{name}")
    ]
    missing += [
        name
        for name in FILE.findall(text)
        if "NAME" not in name and not (REPOSITORY / name).exists()
    ]
    formats = re.compile(r"megascale\.\w+/\d")  # of files, as megascale.law/1
    dotted = DOTTED.findall(formats.sub("", text))
    missing += [name for name in dotted if name != "megascale" and not is_there(name)]
    assert missing == []


def test_a_name_that_is_not_there_is_noticed() -> None:
    assert is_there("megascale.units.parse_count")
    assert not is_there("megascale.units.parse_counts")
    assert not is_there("megascale.unit.parse_count")
    assert list(imports("```python\nfrom megascale.x import a, b\n```")) == [
        ("megascale.x", "a"),
        ("megascale.x", "b"),
    ]
