"""JSON arrays as documents, and plain texts too large to be one."""

from __future__ import annotations

import gzip
import json

import pytest

from megascale.data import documents
from megascale.data.documents import large_texts, read_batches
from megascale.errors import DataError

ITEMS = [{"text": "one"}, {"text": "zwei 世界"}, {"other": 1}, 3, "plain"]


def raws(file):
    batches = read_batches([file], text_field="text", document="file")
    return [document for batch in batches for document in batch.documents]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.json.gz"])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("before", ["", "\ufeff", "\n  "])
def test_an_array_is_its_items(tmp_path, name, indent, before):
    data = (before + json.dumps(ITEMS, indent=indent)).encode()
    file = tmp_path / name
    file.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    found = raws(file)
    assert [json.loads(one.raw) for one in found] == ITEMS
    assert [one.line for one in found] == [1, 2, 3, 4, 5]
    assert {one.kind for one in found} == {"json"}


def test_lines_of_objects_are_lines(tmp_path):
    (tmp_path / "a.json").write_text('{"text": "a"}\n{"text": "b"}\n')
    assert [one.raw for one in raws(tmp_path / "a.json")] == [b'{"text": "a"}', b'{"text": "b"}']


def test_arrays_that_are_none(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text('[{"text": "a"}\n{"text": "b"}]')
    with pytest.raises(DataError, match="begins as a JSON array, but not valid JSON"):
        raws(tmp_path / "a.json")
    monkeypatch.setattr(documents, "MOST_ARRAY_BYTES", 10)
    with pytest.raises(DataError, match="write it as JSON lines"):
        raws(tmp_path / "a.json")


def test_large_plain_texts(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "LARGE_TEXT_BYTES", 100)
    files = [tmp_path / name for name in ("a.txt", "b.txt", "c.jsonl", "d.md")]
    for file, size in zip(files, (101, 100, 500, 300), strict=True):
        file.write_bytes(b"x" * size)
    assert large_texts(files) == [files[0], files[3]]
