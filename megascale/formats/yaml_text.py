"""YAML as people expect it: YAML 1.2 scalars, a key given twice is an error, nothing without end.

PyYAML follows YAML 1.1, where `off` is false, `1:30` is ninety and `1e-3` is text. Seven tags are
known (text, whole number, number, truth value, null, list, mapping); a value under a tag must be
written as that tag's values are. Size, depth and the number of values after all aliases are
written out are bounded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from typing import Any

import yaml
from yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode, SequenceNode

from megascale.errors import ConfigError

MOST_CHARACTERS = 4 * 2**20
MOST_LEVELS = 50
MOST_VALUES = 200_000
"""Bounds of a document: its text, how deep it nests, and its values with aliases written out."""
_MOST_DIGITS = 4000
"""Python converts no longer text to a whole number."""

_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
_WORDS = {
    "bool": "true or false",
    "null": "null, ~ or nothing",
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "seq": "a list",
    "map": "a mapping",
}


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2, without repeated keys, and with bounds."""

    _level = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        self._level += 1
        if self._level > MOST_LEVELS:
            raise _refused(f"nested deeper than {MOST_LEVELS} levels", self.peek_event())
        node = super().compose_node(parent, index)
        self._level -= 1
        return node

    def get_single_node(self) -> Node | None:
        node = super().get_single_node()
        if node is not None:
            _count(node, {}, set())
        return node

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:
                continue
            if not isinstance(key_node, ScalarNode):
                raise _refused("a key must be plain text or a number", key_node)
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise _refused(f"key {key!r} is given twice", key_node)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _refused(problem: str, at: Any) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, at.start_mark)


def _count(node: Node, known: dict[int, int], above: set[int]) -> int:
    """Values of a node with its aliases written out; refuses one that holds itself, or too many."""
    if not isinstance(node, CollectionNode):
        return 1
    at = id(node)
    if at in above:
        raise _refused("an alias stands inside what it names", node)
    if at not in known:
        above.add(at)
        total = 1
        for child in node.value:
            for part in child if isinstance(child, tuple) else (child,):
                total += _count(part, known, above)
        above.discard(at)
        if total > MOST_VALUES:
            raise _refused(f"more than {MOST_VALUES:,} values with all aliases written out", node)
        known[at] = total
    return known[at]


_PATTERNS: dict[str, str] = {
    "bool": r"^(?:true|True|TRUE|false|False|FALSE)$",
    "null": r"^(?:~|null|Null|NULL|)$",
    "int": r"^[-+]?[0-9][0-9_]*$",
    "float": r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
}
_FIRST = {"bool": "tTfF", "null": "~nN", "int": "-+0123456789", "float": "-+0123456789."}


def _text(value: str, node: Node) -> str:
    if "\0" in value:
        raise _refused("text holds a NUL character", node)
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise _refused("text holds half a surrogate pair", node)
    return value


def _whole(value: str, node: Node) -> int:
    if len(value) > _MOST_DIGITS:
        raise _refused(f"a whole number of {len(value):,} digits", node)
    return int(value.replace("_", ""))


_READ: dict[str, Callable[[str, Node], Any]] = {
    "bool": lambda value, node: value.lower() == "true",
    "null": lambda value, node: None,
    "int": _whole,
    "float": lambda value, node: float(
        value.lower().replace(".inf", "inf").replace(".nan", "nan").replace("_", "")
    ),
    "str": _text,
}


def _scalar(name: str) -> Callable[[yaml.SafeLoader, Node], Any]:
    pattern = re.compile(_PATTERNS[name]) if name in _PATTERNS else None
    # A whole number is a number too where its tag says so.
    also = re.compile(_PATTERNS["int"]) if name == "float" else None

    def read(loader: yaml.SafeLoader, node: Node) -> Any:
        fits = isinstance(node, ScalarNode) and (
            pattern is None
            or pattern.match(node.value) is not None
            or (also is not None and also.match(node.value) is not None)
        )
        if not fits:
            raise _refused(f"!!{name} must be {_WORDS[name]}", node)
        return _READ[name](node.value, node)

    return read


def _list(loader: yaml.SafeLoader, node: Node) -> Any:
    if not isinstance(node, SequenceNode):
        raise _refused(f"!!seq must be {_WORDS['seq']}", node)
    return loader.construct_yaml_seq(node)


def _mapping(loader: yaml.SafeLoader, node: Node) -> Any:
    if not isinstance(node, MappingNode):
        raise _refused(f"!!map must be {_WORDS['map']}", node)
    return loader.construct_yaml_map(node)


def _unknown(loader: yaml.SafeLoader, node: Node) -> Any:
    tag = node.tag.replace(_TAG, "!!")
    raise _refused(f"tag {tag} is not known; known are {', '.join('!!' + name for name in _WORDS)}",
                   node)  # fmt: skip


_Loader.yaml_implicit_resolvers = {}
for _name, _pattern in _PATTERNS.items():
    _Loader.add_implicit_resolver(f"{_TAG}{_name}", re.compile(_pattern), list(_FIRST[_name]))
_Loader.add_implicit_resolver(f"{_TAG}null", re.compile(r"^$"), [""])
_Loader.add_implicit_resolver(_MERGE, re.compile(r"^<<$"), ["<"])
_Loader.yaml_constructors = {}
for _name in _READ:
    _Loader.add_constructor(f"{_TAG}{_name}", _scalar(_name))
_Loader.add_constructor(f"{_TAG}seq", _list)
_Loader.add_constructor(f"{_TAG}map", _mapping)
_Loader.add_constructor(None, _unknown)


def parse_yaml(text: str, origin: str) -> Any:
    """Read one YAML document with safe types only.

    Args:
        text: the document.
        origin: file name or argument, for messages.

    Raises:
        ConfigError: not YAML, a key is given twice, a tag or its value is unknown, or the
            document passes a bound (`MOST_CHARACTERS`, `MOST_LEVELS`, `MOST_VALUES`); the line is
            named.
    """
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(
            f"{origin}: {len(text):,} characters: at most {MOST_CHARACTERS:,} are read."
        )
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: not valid YAML: {_short(error)}") from None
    except (ValueError, OverflowError, RecursionError) as error:  # an escape such as \UFFFFFFFF
        raise ConfigError(f"{origin}: not valid YAML: {error}") from None


def _short(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark
        place = "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
        return f"{error.problem or error.context}{place}"
    return str(error)
