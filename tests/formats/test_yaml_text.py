"""YAML from outside: tags, bounds, aliases, and what Python's own types would let through."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from megascale.errors import ConfigError
from megascale.formats.yaml_text import MOST_LEVELS, MOST_VALUES, parse_yaml

BOMB = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
)
MERGE_BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 40)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: !!timestamp 2020-99-99", "tag !!timestamp is not known"),
        ("a: !!set {b}", "tag !!set is not known"),
        ("a: !!python/name:os.system x", "is not known"),
        ("a: !!int abc", "!!int must be a whole number"),
        ("a: !!int [1]", "!!int must be a whole number"),
        ("a: !!bool maybe", "!!bool must be true or false"),
        ("a: !!null x", "!!null must be null"),
        ("a: !!float {a: 1}", "!!float must be a number"),
        ("a: !!str {a: b}", "!!str must be text"),
        ("a: !!map [1]", "!!map must be a mapping"),
        ("a: !!seq {a: 1}", "!!seq must be a list"),
        ('a: "\\ud800"', "half a surrogate pair"),
        ('a: "\\U0011FFFF"', "not valid YAML"),
        ("? [1, 2]\n: 3", "a key must be plain text or a number"),
        ("a: &a [*a]", "inside what it names"),
        ("[" * (MOST_LEVELS + 1) + "]" * (MOST_LEVELS + 1), f"deeper than {MOST_LEVELS} levels"),
        ("[" * 100_000, "deeper than"),
        ("a: " + "9" * 5000, "5,000 digits"),
        (BOMB, f"more than {MOST_VALUES:,} values"),
        (MERGE_BOMB, f"more than {MOST_VALUES:,} values"),
        ("a: '" + "x" * 5_000_000 + "'", "characters"),
    ],
)
def test_refused(text, said):
    with pytest.raises(ConfigError, match=r"not valid YAML|characters") as caught:
        parse_yaml(text, "file.yaml")
    assert said in str(caught.value)
    assert str(caught.value).startswith("file.yaml: ")


def test_tags_that_fit_their_values():
    text = "{a: !!int 3, b: !!float 3, c: !!str 3, d: !!bool true, e: !!null ~, f: !!seq [1]}"
    assert parse_yaml(text, "x") == {"a": 3, "b": 3.0, "c": "3", "d": True, "e": None, "f": [1]}


def test_aliases_within_the_bound_mean_what_they_name():
    assert parse_yaml("a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}", "x")["c"] == {"x": 1, "y": 2}


_LEAVES = st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.text("abc é", max_size=5)
_TREES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text("abc", min_size=1), inner)
)


@given(_TREES)
def test_plain_documents_are_read_as_written(tree):
    assert parse_yaml(yaml.safe_dump(tree, allow_unicode=True), "x") == tree


@given(st.text(max_size=80))
def test_any_text_is_a_value_or_a_message(text):
    said = "x: "
    try:
        parse_yaml(text, "x")
    except ConfigError as error:
        said = str(error)
    assert said.startswith("x: ")
