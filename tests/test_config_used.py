"""No key of a config is accepted and then ignored."""

from __future__ import annotations

import ast
import types
import typing
from collections.abc import Iterator

from pydantic import BaseModel

from megascale.config import RunConfig
from tests.conftest import REPOSITORY

ONLY_ONE_VALUE: set[str] = set()


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted keys of all values of a config, the model's shape left out."""
    for name, field in model.model_fields.items():
        inner = [kind for kind in _kinds(field.annotation) if _is_section(kind)]
        if name == "model" and not prefix:
            continue
        if inner:
            yield from leaves(inner[0], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _kinds(annotation: object) -> Iterator[object]:
    yield annotation
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType, typing.Annotated, dict, list):
        for argument in typing.get_args(annotation):
            yield from _kinds(argument)


def _is_section(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


BUILDERS = ("init_section.py", "rates.py", "schedules.py")
"""Modules of the config package that build what a run uses."""


def names_read() -> set[str]:
    """Attributes and parameters in all code but that which reads and checks the config."""
    found = set()
    package = REPOSITORY / "megascale"
    for file in package.rglob("*.py"):
        if file.is_relative_to(package / "config") and file.name not in BUILDERS:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.arg):
                found.add(node.arg)
    return found


def test_every_key_is_read_somewhere():
    keys = set(leaves(RunConfig))
    assert {"train.threads", "log.wandb.project", "data.phases.mixture"} <= keys
    read = names_read()
    ignored = {key for key in keys if key.rpartition(".")[2] not in read}
    assert ignored <= ONLY_ONE_VALUE
