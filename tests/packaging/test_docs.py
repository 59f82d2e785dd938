"""What the documents name exists: imports of their examples, modules, and files of the tree."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from megascale.cli import VERBS
from megascale.errors import ConfigError
from megascale.verbs.old_spellings import refuse_old
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


def command_lines(text: str) -> Iterator[list[str]]:
    """The words after `megascale` of every command line in a document."""
    blocks = re.findall(r"```(?:\w*)\n(.*?)```", text, re.S)
    lines = [line for block in blocks for line in re.sub(r"\\\n\s*", " ", block).split("\n")]
    lines += re.findall(r"^ {4}(megascale .*)", text, re.M)
    lines += [" ".join(code.split()) for code in re.findall(r"`(megascale [^`]*)`", text)]
    for line in lines:
        found = re.search(rf"(?:^|[ /])megascale ((?:{'|'.join(VERBS)})\b.*)", line)
        if found:
            yield found[1].replace("[", " ").replace("]", " ").split()


def unknown_options(words: list[str]) -> list[str]:
    """Options of a command line that its verb does not have, or has under another name."""
    module, attribute, _ = VERBS[words[0]]
    command: Any = typer.main.get_command(getattr(importlib.import_module(module), attribute))
    if len(words) > 1 and words[1] in getattr(command, "commands", {}):
        command = command.commands[words[1]]
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    given = [word.partition("=")[0] for word in words[1:] if re.match(r"--?[a-z]", word)]
    wrong = [name for name in given if name not in known | {"-h", "--help"}]
    try:
        refuse_old(words[0], words[1:])
    except ConfigError as error:
        wrong.append(str(error))
    return wrong


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


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_command_lines_have_options_that_exist(path: Path) -> None:
    lines = command_lines(path.read_text(encoding="utf-8"))
    wrong = {" ".join(words): unknown_options(words) for words in lines}
    assert {line: names for line, names in wrong.items() if names} == {}


@pytest.mark.parametrize("verb", VERBS)
def test_examples_of_the_help_have_options_that_exist(verb: str) -> None:
    module, attribute, _ = VERBS[verb]
    command: Any = typer.main.get_command(getattr(importlib.import_module(module), attribute))
    commands = [command, *getattr(command, "commands", {}).values()]
    examples = "".join(f"```\n{one.epilog or ''}\n```\n" for one in commands)
    lines = list(command_lines(examples))
    assert lines
    assert {
        " ".join(words): unknown_options(words) for words in lines if unknown_options(words)
    } == {}


def test_an_option_that_is_not_there_is_noticed() -> None:
    text = (
        "```bash\nmegascale fit runs \\\n  --json --no-such x\n```\n`megascale data inspect --deep`"
    )
    fit, inspect = command_lines(text)
    assert fit == ["fit", "runs", "--json", "--no-such", "x"]
    assert unknown_options(fit) == ["--no-such"]
    assert unknown_options(inspect) == ["--deep"]
    assert len(unknown_options(["report", "--law-family", "wsd"])) == 2


def test_a_name_that_is_not_there_is_noticed() -> None:
    assert is_there("megascale.units.parse_count")
    assert not is_there("megascale.units.parse_counts")
    assert not is_there("megascale.unit.parse_count")
    assert list(imports("```python\nfrom megascale.x import a, b\n```")) == [
        ("megascale.x", "a"),
        ("megascale.x", "b"),
    ]
