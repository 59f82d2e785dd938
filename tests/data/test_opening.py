"""Streams from the `data` section of a config."""

import hashlib

import numpy as np
import pytest

from megascale.config.data_sections import DataConfig
from megascale.data.opening import open_stream
from megascale.data.stream import PhaseSpec, Stream, StreamSpec
from megascale.data.writer import IndexedWriter
from megascale.errors import DataError


@pytest.fixture
def section(make_source):
    return {
        "sources": {
            "a": {"path": make_source("open-a", 3_000, eos_every=20)},
            "b": {"path": [make_source("open-b", 1_000), make_source("open-c", 500)]},
        },
        "phases": [
            {"start_tokens": 0, "mixture": {"a": 0.5, "b": 0.5}},
            {"start_tokens": "2K", "mixture": {"b": 1.0}},
        ],
        "validation": {"held-out": {"path": make_source("open-v", 700, first_id=5)}},
        "chunk_tokens": 100,
        "mixture_block_chunks": 4,
    }


def test_a_config_gives_the_stream_it_describes(section):
    stream = open_stream(DataConfig(**section), seed=3, vocab_size=10_000)
    sources = {
        name: np.atleast_1d(source["path"]).tolist() for name, source in section["sources"].items()
    }
    phases = [PhaseSpec(0, {"a": 0.5, "b": 0.5}), PhaseSpec(2_000, {"b": 1.0})]
    direct = Stream(StreamSpec(sources, phases, 3, chunk_tokens=100, mixture_block_chunks=4))
    np.testing.assert_array_equal(stream.read(0, 5_000), direct.read(0, 5_000))
    assert stream.eos_id == 0
    other = open_stream(DataConfig(**section, seed=4), seed=3)
    assert other.fingerprint() != stream.fingerprint()


def test_the_tokenizer_named_must_be_the_one_the_data_was_made_with(section, tmp_path):
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text("{}")
    with pytest.raises(DataError, match=r"data\.tokenizer.*open-a.*made with another tokenizer"):
        open_stream(DataConfig(**section, tokenizer=str(tokenizer)), seed=3)
    with pytest.raises(DataError, match="cannot be read"):
        open_stream(DataConfig(**section, tokenizer=str(tmp_path / "none.json")), seed=3)
    with IndexedWriter(tmp_path / "own", vocab_size=10) as writer:
        writer.add(np.arange(5))
        matching = hashlib.sha256(b"{}").hexdigest()
        writer.finish(tokenizer_sha256=matching, eos_id=None, details={})
    own = {"sources": {"own": {"path": str(tmp_path / "own")}}, "chunk_tokens": 2}
    stream = open_stream(DataConfig(**own, tokenizer=str(tokenizer)), seed=3)
    assert stream.read(0, 4).size == 4


def test_document_masks_need_to_know_where_documents_end(section):
    del section["sources"]["a"]
    section["phases"] = None
    with pytest.raises(DataError, match=r"data\.mask_documents = True: data\.eos_id must be given"):
        open_stream(DataConfig(**section, mask_documents=True), seed=3)
    stream = open_stream(DataConfig(**section, mask_documents=True, eos_id=7), seed=3)
    assert stream.eos_id == 7


def test_a_source_without_an_end_of_document_token_beside_one_with(section):
    with pytest.raises(DataError, match=r"open-b.*without a token that ends documents, id 0"):
        open_stream(DataConfig(**section, mask_documents=True), seed=3)
    stated = open_stream(DataConfig(**section, mask_documents=True, eos_id=0), seed=3)
    assert stated.eos_id == 0
