"""Seeded changes to inputs: of bytes, of text by its tokens, and of JSON by its structure."""

from __future__ import annotations

import copy
import json
import random
import re
from typing import Any

BYTES = [
    *(b"\n", b":", b"\0", b"\xff", b"\xc3", b'"', b"{", b"}", b"[", b",", b"\r\n", b"\x80" * 9),
    *(b"nan", b"1e999", b"-1", b"9" * 30, b"9" * 5000, b"null", b"true", b"[" * 2000),
    *(b"\x1b[31m", b"PAR1", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\xef\xbb\xbf", b"\xff\xfe"),
]
WORDS = [
    *("!!timestamp 2020-99-99", "!!timestamp x", "!!int abc", "!!bool maybe", "!!map [1]"),
    *("!!float {a: 1}", "!!null x", "!!str {a: b}", "!!set {a}", "!!binary x", "!!python/none"),
    *("&a [*a]", "*a", "&a {b: *a}", "? [1, 2]\n: 3", "<<: *a", "%YAML 9.9", "---", "..."),
    *('"\\ud800"', '"\\U0011FFFF"', "'", '"', "|", ">", "- - - -", "~", "", " ", "\t"),
    *("1e999", "-1", "0", "1e-400", ".inf", "-.inf", ".nan", "NaN", "Infinity", "0x10", "1_0"),
    *("9" * 30, "9" * 5000, "9223372036854775807", "9223372036854775808", "1.5", "1e3K", "٣"),
    *("a" * 300, "a" * 5000, "/" * 5000, "../../..", "/dev/zero", "/dev/null", ".", "a\0b"),
    *("[" * 200 + "]" * 200, '{"a":' * 200 + "1" + "}" * 200, "[1, 2]", "{a: 1}", "true", "null"),
]
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, 10**30, 10**400),
    *(0.5, -0.5, 1e308, -1e308, 1e-320, float("nan"), float("inf"), -float("inf")),
    *("", "a", "1e3", "nan", "\ud800", "\0", "a" * 300, "a" * 5000, "../x", "/etc/passwd", "0"),
    *([], {}, [[]], [None], {"a": 1}, [1, 2, 3], [[1, 2], [3, 4]], ["a"], {"": None}, [0] * 100),
]
_TOKEN = re.compile(r"[A-Za-z0-9_.+-]+|\s+|[^\sA-Za-z0-9]")


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Pieces cut out, put in, doubled, overwritten, or the end cut off."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(data))
        kind = rng.randrange(6)
        if kind == 0:
            data = data[:at] + data[at + rng.randint(1, 60) :]
        elif kind == 1:
            data = data[:at] + rng.choice(BYTES) + data[at:]
        elif kind == 2:
            data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        elif kind == 3:
            data = data[:at] + data[at // 2 : at] + data[at:]
        elif kind == 4 and rng.random() < 0.3:
            data = data[:at]
        elif len(data) >= 8:
            at = rng.randint(0, len(data) - 8)
            number = rng.choice([0, 1, -1, 2**31, -(2**31), 2**63 - 1, -(2**63), len(data)])
            data = data[:at] + number.to_bytes(8, "little", signed=True) + data[at + 8 :]
    return data


def mutate_text(text: str, rng: random.Random) -> str:
    """Words of a text replaced, doubled, left out or swapped; lines moved."""
    tokens = _TOKEN.findall(text)
    for _ in range(rng.randint(1, 4)):
        if not tokens:
            break
        at = rng.randrange(len(tokens))
        kind = rng.randrange(5)
        if kind <= 1:
            tokens[at] = rng.choice(WORDS)
        elif kind == 2:
            del tokens[at : at + rng.randint(1, 4)]
        elif kind == 3:
            tokens.insert(at, rng.choice(WORDS))
        else:
            tokens[at] = rng.choice(tokens)
    return "".join(tokens)


def mutate_value(value: Any, rng: random.Random) -> Any:
    """A JSON value with one to three of its parts replaced, renamed, left out or doubled."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.randint(1, 3)):
        places = _places(value)
        if not places:
            return copy.deepcopy(rng.choice(VALUES))
        parent, key = rng.choice(places)
        kind = rng.randrange(6)
        if kind <= 2:
            parent[key] = copy.deepcopy(rng.choice(VALUES))
        elif kind == 3:
            del parent[key]
        elif kind == 4 and isinstance(parent, dict):
            parent[rng.choice(["", "a", "\ud800", "a" * 300, key + "x"])] = parent.pop(key)
        else:
            other, at = rng.choice(places)
            part = (
                other[at] if at in (other if isinstance(other, dict) else range(len(other))) else 0
            )
            parent[key] = json.loads(json.dumps(part))
    return value


def mutate_number(value: Any, rng: random.Random) -> None:
    """Change one number of a JSON value, in place, to one that is extreme or far from it."""
    places = [(parent, key) for parent, key in _places(value) if type(parent[key]) in (int, float)]
    parent, key = rng.choice(places)
    old = parent[key]
    extreme = [0, -1, 1, 5e-324, 1e-300, 1e-90, 1e-8, 1e20, 1e90, 1e300, 1e308]
    parent[key] = rng.choice([*extreme, -old, old * 1e6, old * 1e-6, old * (1 + 1e-9)])


def mutate_json(value: Any, rng: random.Random) -> bytes:
    """The text of a changed value, now and then damaged as text or bytes too."""
    text = json.dumps(mutate_value(value, rng))
    if rng.random() < 0.15:
        text = mutate_text(text, rng)
    data = text.encode("utf-8", "surrogatepass")
    return mutate_bytes(data, rng) if rng.random() < 0.15 else data


def _places(value: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            children = list(item.items())
        elif isinstance(item, list):
            children = list(enumerate(item[:50]))
        else:
            continue
        found += [(item, key) for key, _ in children]
        stack += [child for _, child in children]
    return found
