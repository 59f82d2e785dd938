"""YAML as people expect it: YAML 1.2 scalars, and a key given twice is an error.

PyYAML follows YAML 1.1, where `off` is false, `1:30` is ninety and `1e-3` is text.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

from megascale.errors import ConfigError

_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2 and without repeated keys."""

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                continue
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {}


def _integer(loader: yaml.SafeLoader, node: Node) -> int:
    assert isinstance(node, ScalarNode)
    return int(node.value.replace("_", ""))


def _number(loader: yaml.SafeLoader, node: Node) -> float:
    assert isinstance(node, ScalarNode)
    text = node.value.lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


def _register(tag: str, pattern: str, first: str) -> None:
    _Loader.add_implicit_resolver(tag, re.compile(pattern), list(first) or [""])


_register("tag:yaml.org,2002:bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF")
_register("tag:yaml.org,2002:null", r"^(?:~|null|Null|NULL|)$", "~nN")
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^$"), [""])
_register("tag:yaml.org,2002:int", r"^[-+]?[0-9][0-9_]*$", "-+0123456789")
_register(
    "tag:yaml.org,2002:float",
    r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
    "-+0123456789.",
)
_register(_MERGE, r"^<<$", "<")


def _text(loader: yaml.SafeLoader, node: Node) -> str:
    assert isinstance(node, ScalarNode)
    if "\0" in node.value:
        raise yaml.constructor.ConstructorError(
            None, None, "text holds a NUL character", node.start_mark
        )
    return node.value


_Loader.add_constructor("tag:yaml.org,2002:str", _text)
_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
_Loader.add_constructor("tag:yaml.org,2002:float", _number)


def parse_yaml(text: str, origin: str) -> Any:
    """Read one YAML document with safe types only.

    Args:
        text: the document.
        origin: file name or argument, for messages.

    Raises:
        ConfigError: not YAML, or a key is given twice; the line is named.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: not valid YAML: {_short(error)}") from None


def _short(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark
        place = "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
        return f"{error.problem or error.context}{place}"
    return str(error)
