"""Prefixes, folders and patterns of token files; more files than a process may open."""

from __future__ import annotations

import resource
import shutil

import numpy as np
import pytest

from megascale.data import indexed
from megascale.data.indexed import TokenSource
from megascale.data.token_paths import find_prefixes
from megascale.data.writer import IndexedWriter
from megascale.errors import DataError


def write(prefix, ids):
    prefix.parent.mkdir(parents=True, exist_ok=True)
    with IndexedWriter(prefix, vocab_size=60_000) as writer:
        writer.add(np.asarray(ids))
        writer.finish(tokenizer_sha256="t" * 64, eos_id=None, details={})
    return prefix


@pytest.fixture
def tree(tmp_path):
    for number, name in enumerate(["b/2", "a", "b/1", "b/c/3"]):
        write(tmp_path / name, [number] * 3)
    return tmp_path


@pytest.mark.parametrize(
    ("paths", "wanted"),
    [
        (["b/2", "a"], ["b/2", "a"]),
        (["b"], ["b/1", "b/2", "b/c/3"]),
        (["a", "b"], ["a", "b/1", "b/2", "b/c/3"]),
        (["b/*"], ["b/1", "b/2"]),
        (["b/*.idx"], ["b/1", "b/2"]),
        (["**/[13]"], ["b/1", "b/c/3"]),
    ],
)
def test_found(tree, paths, wanted):
    found = find_prefixes("web", [str(tree / path) for path in paths])
    assert [str(prefix.relative_to(tree)) for prefix in found] == wanted


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        ([], "at least one prefix"),
        (["x*"], "pattern matches no .idx file"),
        (["empty"], "holds no .idx file"),
        (["b", "b/1"], "named twice"),
        (["missing"], "no such file"),
    ],
)
def test_refused(tree, paths, said):
    (tree / "empty").mkdir()
    with pytest.raises(DataError, match=said):
        TokenSource("web", [str(tree / path) for path in paths])


def test_more_files_than_may_be_open(tmp_path, monkeypatch):
    first = write(tmp_path / "many" / "0000", [7] * 5)
    for number in range(1, 300):
        for suffix in (".bin", ".idx", ".meta.json"):
            shutil.copy(f"{first}{suffix}", tmp_path / "many" / f"{number:04d}{suffix}")
    monkeypatch.setattr(indexed, "MOST_MAPPED", 40)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (150, hard))
    try:
        source = TokenSource("web", [tmp_path / "many"])
        assert len(source.files) == 300
        for _ in range(2):
            assert (source.read(0, source.tokens) == 7).all()
        chunks = source.read_chunks(np.arange(0, 1500, 5), 5)
        assert (chunks == 7).all()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(indexed._MAPPED) <= 40
