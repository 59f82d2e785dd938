"""JSON from outside: bounds, keys given twice, half characters; one kind of error, the caller's."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megascale.errors import CheckpointError
from megascale.formats.json_text import MOST_JSON_LEVELS, JsonTextError, parse_json, read_json


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "nested deeper"),
        ("[" * (MOST_JSON_LEVELS + 1) + "]" * (MOST_JSON_LEVELS + 1), "nested deeper"),
        ('{"a":' * 150 + "1" + "}" * 150, "nested deeper"),
        ('{"a": 1, "a": 2}', "key 'a' is given twice"),
        ('{"a": "\\ud800"}', "half a surrogate pair"),
        ('{"\\udfff": 1}', "half a surrogate pair"),
        ("9" * 5000, "too many digits"),
        ("{]", "not valid JSON"),
        (b"\xff{}", "not UTF-8 at byte 0"),
    ],
)
def test_refused(text, said):
    with pytest.raises(JsonTextError, match=said):
        parse_json(text)


_TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(_TREES)
def test_documents_are_read_as_the_library_reads_them(tree):
    text = json.dumps(tree)
    assert parse_json(text) == parse_json(text.encode()) == json.loads(text)


def test_files(tmp_path):
    file = tmp_path / "a.json"
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(file, "key") == {"a": 1}
    with pytest.raises(CheckpointError, match="larger than 5 bytes"):
        read_json(file, "key", error=CheckpointError, most_bytes=5)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_json(tmp_path / "none.json", "key", error=CheckpointError)
    with pytest.raises(CheckpointError, match="larger than"):
        read_json("/dev/zero", "key", error=CheckpointError, most_bytes=10_000_000)
