"""The default corpus and the `data` verbs, at a size that takes seconds."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from megascale.data.corpus import SOURCES, prepare_default
from megascale.data.indexed import IndexedTokens, bin_path
from megascale.data.stream import PhaseSpec, Stream, StreamSpec
from megascale.data.tokenize import TokenizerFile
from megascale.errors import DataError
from megascale.verbs.data import app

SMALL = {"code": 400_000, "headers": 200_000, "docs": 200_000, "decay": 200_000}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return prepare_default(tmp_path_factory.mktemp("corpus"), source_bytes=SMALL)


def test_every_source_is_there_and_within_its_size(corpus):
    assert set(corpus.tokens) == set(SOURCES)
    assert not corpus.reused
    for name in SOURCES:
        file = IndexedTokens(corpus.folder / name)
        assert file.tokens == corpus.tokens[name] > 1_000
        assert file.sidecar.eos_id == 0
        assert file.dtype == np.uint16
    text = {name: IndexedTokens(corpus.folder / name).sidecar.details for name in SMALL}
    for name, limit in SMALL.items():
        assert 0.5 * limit < text[name]["text_bytes"] < limit + 300_000
    assert sorted(path.name for path in corpus.folder.iterdir()) == sorted(
        ["corpus.json", "tokenizer.json"]
        + [f"{name}.{suffix}" for name in SOURCES for suffix in ("bin", "idx", "meta.json")]
    )


def test_the_tokenizer_is_byte_level_and_loses_nothing(corpus):
    tokenizer = TokenizerFile(corpus.tokenizer)
    assert tokenizer.vocab_size == 512
    for text in ("def f(x):\n\treturn x ** 2\n", "äöü 世界 🙂\x00", "  \n\n  mixed \r\n"):
        (ids,) = tokenizer.encode([text])
        assert tokenizer.decode(ids.tolist()) == text
    (ids,) = tokenizer.encode(["import numpy as np\nreturn self.value\n"])
    assert len(ids) < 30


def test_validation_shares_no_document_with_training(corpus):
    documents = {}
    for name in SOURCES:
        file = IndexedTokens(corpus.folder / name)
        cuts = np.split(file.flat, np.cumsum(file.document_lengths(0, file.sequences))[:-1])
        documents[name] = {cut.tobytes() for cut in cuts}
    for name in SMALL:
        assert not documents["validation"] & documents[name]


def test_the_same_installation_gives_the_same_tokens_and_reuse_costs_nothing(corpus, tmp_path):
    again = prepare_default(tmp_path, source_bytes=SMALL)
    for name in SOURCES:
        one, other = (bin_path(folder / name) for folder in (corpus.folder, tmp_path))
        assert one.read_bytes() == other.read_bytes()
    stamp = bin_path(tmp_path / "code").stat().st_mtime_ns
    reused = prepare_default(tmp_path, source_bytes=SMALL)
    assert reused.reused
    assert reused.tokens == again.tokens
    assert bin_path(tmp_path / "code").stat().st_mtime_ns == stamp


def test_it_opens_as_a_stream_with_a_decay_phase(corpus):
    stable = PhaseSpec(0, {"code": 0.5, "headers": 0.25, "docs": 0.25})
    spec = StreamSpec(
        {name: [str(corpus.folder / name)] for name in SMALL},
        [stable, PhaseSpec(50_000, {"decay": 1.0})],
        seed=0,
        chunk_tokens=512,
        vocab_size=512,
    )
    stream = Stream(spec)
    assert stream.read(0, 100_000).max() < 512
    assert stream.eos_id == 0


def call(*words):
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def test_inspect_shows_counts_and_text(corpus):
    facts = json.loads(call("inspect", corpus.folder / "docs", "--json", "--verify").stdout)
    assert facts["tokens"] == corpus.tokens["docs"]
    assert facts["dtype"] == "uint16"
    assert facts["verified"] is True
    assert facts["largest_id"] == facts["max_token_id"] < 512
    tokenizer = TokenizerFile(corpus.tokenizer)
    assert facts["first_text"] == tokenizer.decode(facts["first_tokens"])
    assert f"{facts['tokens']:,}" in call("inspect", corpus.folder / "docs").stdout


def test_inspect_verify_finds_a_flipped_byte(corpus, tmp_path):
    for suffix in ("bin", "idx", "meta.json"):
        whole = bytearray(Path(f"{corpus.folder / 'docs'}.{suffix}").read_bytes())
        if suffix == "bin":
            whole[len(whole) // 2] ^= 1
        (tmp_path / f"docs.{suffix}").write_bytes(bytes(whole))
    with pytest.raises(DataError, match="changed since it was prepared"):
        call("inspect", tmp_path / "docs", "--verify")


def test_prepare_from_the_command_line(corpus, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": "some text"}\n{"nobody": 1}\n')
    done = call(
        "prepare", tmp_path / "a.jsonl", "--tokenizer", corpus.tokenizer, "-o", tmp_path / "o",
        "--workers", 1, "--text-field", "body",
    )  # fmt: skip
    assert "1 documents" in done.stdout
    assert "a.jsonl:2: no key 'body' (found: nobody)" in done.stderr
    assert "1 malformed lines were not used" in done.stderr
    other = tmp_path / "other.json"
    other.write_text(corpus.tokenizer.read_text() + "\n")
    with pytest.raises(DataError, match="made with another tokenizer"):
        call("inspect", tmp_path / "o", "--tokenizer", other)


def test_default_from_the_command_line_reuses(tmp_path, monkeypatch):
    monkeypatch.setattr("megascale.data.corpus.SOURCE_BYTES", SMALL)
    first = json.loads(call("default", "-o", tmp_path, "--workers", 1, "--json").stdout)
    second = json.loads(call("default", "-o", tmp_path, "--workers", 1, "--json").stdout)
    assert (first["reused"], second["reused"]) == (False, True)
    assert first["tokens"] == second["tokens"]
