"""`.bin/.idx`: bytes by the format's table, round trips, and damage of every kind."""

import json
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megascale.data.indexed import (
    IndexedTokens,
    TokenSource,
    bin_path,
    check_vocab,
    idx_path,
    read_sidecar,
    sidecar_path,
)
from megascale.data.writer import IndexedWriter, token_dtype
from megascale.errors import DataError

quick = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)


def write_by_hand(prefix, documents, dtype="<i4", code=4, **header):
    """The format's table in Megatron's documentation of the layout, field by field."""
    item = np.dtype(dtype).itemsize
    lengths = [len(document) for document in documents]
    tokens = np.concatenate([np.array(document, dtype=dtype) for document in documents])
    pointers = np.concatenate([[0], np.cumsum(lengths)[:-1] * item]).astype("<i8")
    raw = header.get("magic", b"MMIDIDX\x00\x00")
    raw += struct.pack("<Q", header.get("version", 1)) + struct.pack("<B", code)
    raw += struct.pack("<Q", len(documents)) + struct.pack("<Q", len(documents) + 1)
    raw += np.array(lengths, dtype="<i4").tobytes() + pointers.tobytes()
    raw += np.arange(len(documents) + 1, dtype="<i8").tobytes()
    idx_path(prefix).write_bytes(raw)
    bin_path(prefix).write_bytes(tokens.tobytes())


def write(prefix, documents, vocab_size=1000, **sidecar):
    with IndexedWriter(prefix, vocab_size) as writer:
        for document in documents:
            writer.add(np.array(document))
        settled = {"tokenizer_sha256": "0" * 64, "eos_id": None, "details": {}} | sidecar
        return writer.finish(**settled)


@pytest.mark.parametrize(("vocab_size", "code"), [(65_499, 8), (65_500, 4), (151_936, 4)])
def test_bytes_are_those_of_the_format(tmp_path, vocab_size, code):
    documents = [[1, 2, 3], [4], [5, 65_000]]
    write(tmp_path / "ours", documents, vocab_size)
    write_by_hand(tmp_path / "hand", documents, "<u2" if code == 8 else "<i4", code)
    for suffix in ("bin", "idx"):
        ours = (tmp_path / f"ours.{suffix}").read_bytes()
        assert ours == (tmp_path / f"hand.{suffix}").read_bytes()
    assert token_dtype(vocab_size).itemsize == (2 if code == 8 else 4)


@pytest.mark.parametrize(
    ("dtype", "code"), [("<u1", 1), ("<i1", 2), ("<i2", 3), ("<i4", 4), ("<i8", 5), ("<u2", 8)]
)
def test_every_integer_dtype_is_read(tmp_path, dtype, code):
    write_by_hand(tmp_path / "f", [[1, 2], [3, 100, 7]], dtype, code)
    source = TokenSource("f", [tmp_path / "f"])
    tokens = source.read(0, 5)
    assert tokens.tolist() == [1, 2, 3, 100, 7]
    assert tokens.dtype == (np.int64 if code == 5 else np.int32)
    assert source.files[0].documents == 2


@quick
@given(
    documents=st.lists(st.lists(st.integers(0, 999), min_size=1, max_size=8), min_size=1),
    cut=st.integers(1, 4),
    data=st.data(),
)
def test_round_trip_over_several_prefixes(tmp_path, documents, cut, data):
    groups = [documents[first : first + cut] for first in range(0, len(documents), cut)]
    prefixes = []
    for number, group in enumerate(groups):
        write(tmp_path / str(number), group)
        prefixes.append(str(tmp_path / str(number)))
    source = TokenSource("s", prefixes)
    flat = np.concatenate([np.array(document) for document in documents])
    assert source.tokens == len(flat)
    start = data.draw(st.integers(0, len(flat)))
    count = data.draw(st.integers(0, len(flat) - start))
    assert source.read(start, count).tolist() == flat[start : start + count].tolist()
    length = data.draw(st.integers(1, len(flat)))
    starts = np.array(data.draw(st.lists(st.integers(0, len(flat) - length), max_size=10)), int)
    expected = [flat[at : at + length].tolist() for at in starts]
    assert source.read_chunks(starts, length).tolist() == expected
    lengths = [len(document) for document in groups[0]]
    assert source.files[0].document_lengths(0, 10**6).tolist() == lengths


@pytest.mark.parametrize("suffix", ["idx", "bin"])
def test_truncation_at_every_byte_is_refused(tmp_path, suffix):
    write_by_hand(tmp_path / "f", [[1, 2, 3], [4], [5, 6]])
    whole = (tmp_path / f"f.{suffix}").read_bytes()
    for size in range(len(whole)):
        (tmp_path / f"f.{suffix}").write_bytes(whole[:size])
        with pytest.raises(DataError, match=rf"f\.{suffix}"):
            IndexedTokens(tmp_path / "f")
    (tmp_path / f"f.{suffix}").write_bytes(whole + b"\0")
    with pytest.raises(DataError, match=rf"f\.{suffix}"):
        IndexedTokens(tmp_path / "f")


@quick
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_read_but_never_crash(tmp_path, raw):
    write_by_hand(tmp_path / "f", [[1, 2, 3]])
    whole = idx_path(tmp_path / "f").read_bytes()
    for forged in (raw, whole[: max(0, len(whole) - len(raw))] + raw, whole[:9] + raw):
        idx_path(tmp_path / "f").write_bytes(forged)
        try:
            IndexedTokens(tmp_path / "f")
        except DataError:
            continue
        assert forged == whole or len(forged) == len(whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"magic": b"NOTIDX\x00\x00\x00"}, "not an .idx"),
        ({"version": 2}, "version 2.*only version 1"),
        ({"code": 6}, r"dtype code 6 \(float64\).*must be integers"),
        ({"code": 7}, r"dtype code 7 \(float32\)"),
        ({"code": 0}, r"dtype code 0 \(unknown\)"),
        ({"code": 8}, "does not match its index"),
    ],
)
def test_wrong_headers_are_named(tmp_path, change, message):
    write_by_hand(tmp_path / "f", [[1, 2, 3]], **change)
    with pytest.raises(DataError, match=message):
        IndexedTokens(tmp_path / "f")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"nothing\.bin = missing"):
        IndexedTokens(tmp_path / "nothing")
    write(tmp_path / "f", [[1]])
    with pytest.raises(DataError, match=r"f\.bin\.bin.*without \.bin or \.idx"):
        IndexedTokens(tmp_path / "f.bin")
    idx_path(tmp_path / "f").unlink()
    with pytest.raises(DataError, match=r"f\.idx = missing"):
        IndexedTokens(tmp_path / "f")


def test_sidecar_round_trips_and_must_fit(tmp_path):
    written = write(tmp_path / "f", [[1, 2], [9]], eos_id=9, details={"inputs": ["a.txt"]})
    assert read_sidecar(tmp_path / "f") == written
    assert written.max_token_id == 9
    assert IndexedTokens(tmp_path / "f").full_sha256() == written.bin_sha256
    path = sidecar_path(tmp_path / "f")
    path.write_text(path.read_text().replace('"tokens": 3', '"tokens": 4'))
    with pytest.raises(DataError, match="belongs to other files"):
        IndexedTokens(tmp_path / "f")
    path.write_text(json.dumps({"schema": "other/1"}))
    with pytest.raises(DataError, match="must carry schema"):
        IndexedTokens(tmp_path / "f")


def test_ids_outside_the_vocabulary_are_named_with_file_and_position(tmp_path):
    write_by_hand(tmp_path / "foreign", [[1, 2, 3], [4, 500, 6]])
    source = TokenSource("web", [tmp_path / "foreign"])
    check_vocab(source, 501)
    with pytest.raises(DataError, match=r"foreign\.bin, token 4 = id 500.*\[0, 500\)"):
        check_vocab(source, 500)
    write_by_hand(tmp_path / "negative", [[1, -2]])
    with pytest.raises(DataError, match="id -2"):
        check_vocab(TokenSource("web", [tmp_path / "negative"]), 500)
    write(tmp_path / "ours", [[1, 700]])
    with pytest.raises(DataError, match="token id 700"):
        check_vocab(TokenSource("web", [tmp_path / "ours"]), 500)


def test_a_failed_write_leaves_the_old_files_and_nothing_else(tmp_path):
    write(tmp_path / "f", [[1, 2]])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def failing():
        with IndexedWriter(tmp_path / "f", 10) as writer:
            writer.add(np.array([3, 4]))
            writer.add(np.array([10]))

    with pytest.raises(DataError, match=r"token id = 10.*\[0, 10\)"):
        failing()
    with pytest.raises(DataError, match="holds no text"):
        write(tmp_path / "f", [])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_digest_sees_size_content_and_the_sidecar(tmp_path):
    write(tmp_path / "a", [[1, 2, 3]])
    write(tmp_path / "b", [[1, 2, 4]])
    write(tmp_path / "c", [[1, 2, 3]])
    digests = {name: IndexedTokens(tmp_path / name).digest for name in "abc"}
    assert digests["a"] == digests["c"] != digests["b"]


def test_megatron_core_reads_ours_and_we_read_theirs(tmp_path):
    oracle = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    documents = [[1, 2, 3], [4], [5, 60_000]]
    write(tmp_path / "ours", documents, 65_000)
    theirs = oracle.IndexedDataset(str(tmp_path / "ours"))
    assert [theirs[i].tolist() for i in range(len(theirs))] == documents
    builder = oracle.IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=np.uint16)
    for document in documents:
        builder.add_document(np.array(document), [len(document)])
    builder.finalize(str(tmp_path / "theirs.idx"))
    assert bin_path(tmp_path / "theirs").read_bytes() == bin_path(tmp_path / "ours").read_bytes()
    assert idx_path(tmp_path / "theirs").read_bytes() == idx_path(tmp_path / "ours").read_bytes()
