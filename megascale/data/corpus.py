"""The default corpus: text that the installation itself carries, nothing downloaded.

Four sources from the standard library and the packages this project depends on: `code` (Python
sources), `headers` (C and C++ headers), `docs` (documentation and licence texts, short
docstrings) and `decay` (the better text, for the last phase: language reference, long
docstrings). One document in fifty of the first three goes to `validation` instead. The choice
depends on relative paths and contents alone: equal installations give equal tokens.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import inspect
import itertools
import json
import re
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from megascale.data.indexed import IndexedTokens
from megascale.data.opening import tokenizer_sha256
from megascale.data.prepare import prepare
from megascale.errors import DataError
from megascale.formats.json_text import read_json

SCHEMA = "megascale.corpus/1"
RECIPE = 1
# Small, so that models of a laptop's size spend their time in their layers and not in the logits.
VOCAB_SIZE = 512
BYTES_VOCAB_SIZE = 257  # the bytes and the token that ends a document
EOS_TOKEN = "<|endoftext|>"
SOURCES = ("code", "headers", "docs", "decay", "validation")
# Bytes of text at most; docstrings for `docs` and `decay` come from files that `code` left over.
SOURCE_BYTES = {"code": 12_000_000, "headers": 7_000_000, "docs": 6_000_000, "decay": 4_000_000}
PACKAGES = ("torch", "numpy", "scipy", "matplotlib", "polars", "pydantic", "rich", "typer")

_LONG_DOCSTRING = 800
_PARSED_BYTES = 20_000_000
_TRAINING_BYTES = 5_000_000
_FILE_BYTES = (200, 300_000)
_VALIDATION_SHARE = 50
_LEFT_OUT_FOLDERS = {"test", "tests", "testing", "idlelib", "site-packages", "__pycache__", "ops"}
_QUOTED = re.compile(r'"""(.*?)"""', re.DOTALL)
_QUOTED_SHARE = 0.35  # files with less text in triple quotes than this are not parsed
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class Corpus:
    """A prepared default corpus: `FOLDER/NAME.bin` for each of `SOURCES`, and its tokenizer.

    `tokens` counts the tokens of each source; `reused` tells whether it was already there.
    """

    folder: Path
    tokenizer: Path
    tokens: dict[str, int]
    reused: bool


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    path: Path
    size: int

    @property
    def rank(self) -> bytes:
        """Place in an order that mixes packages and folders."""
        return hashlib.sha256(self.name.encode()).digest()


def prepare_default(
    folder: str | Path,
    *,
    workers: int = 1,
    vocab_size: int = VOCAB_SIZE,
    source_bytes: dict[str, int] | None = None,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> Corpus:
    """Make the default corpus in `folder`, or reuse it if the same installation made it.

    Args:
        folder: where to write; made if missing.
        workers: processes that tokenize.
        vocab_size: of the tokenizer; with `BYTES_VOCAB_SIZE` every byte is a token.
        source_bytes: bytes of text per source at most, instead of `SOURCE_BYTES`.
        on_stage: called with a few words before each stage.

    Raises:
        DataError: the folder cannot be written, the vocabulary is too small, or the installation
            carries too little text.
    """
    if vocab_size < BYTES_VOCAB_SIZE:
        raise DataError.of(
            "--vocab-size",
            vocab_size,
            "must hold every byte and the token that ends a document",
            BYTES_VOCAB_SIZE,
        )
    folder = Path(folder)
    limits = SOURCE_BYTES | (source_bytes or {})
    on_stage("looking for text")
    found = _find_files()
    fingerprint = _fingerprint(found, limits, vocab_size)
    ready = _reuse(folder, fingerprint)
    if ready is not None:
        return ready
    on_stage("collecting text")
    texts = _collect(found, limits)
    for name in SOURCES:
        if not texts[name]:
            raise DataError.of(f"corpus {name}", "no text", "this installation carries none")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "corpus.json").unlink(missing_ok=True)
        on_stage("training the tokenizer")
        tokenizer = folder / "tokenizer.json"
        _train_tokenizer(texts, tokenizer, vocab_size)
        tokens = {}
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            for name in SOURCES:
                on_stage(f"tokenizing {name}")
                lines = Path(scratch) / f"{name}.jsonl"
                with lines.open("w", encoding="utf-8") as file:
                    file.writelines(json.dumps({"text": text}) + "\n" for text in texts[name])
                done = prepare(
                    [lines],
                    tokenizer=tokenizer,
                    prefix=folder / name,
                    workers=workers,
                    strict=True,
                    overwrite=True,
                )
                tokens[name] = done.sidecar.tokens
        manifest = {"schema": SCHEMA, "fingerprint": fingerprint, "tokens": tokens}
        (folder / "corpus.json").write_text(json.dumps(manifest, indent=2) + "\n")
    except OSError as failure:
        raise DataError.of("--output", str(folder), f"cannot be written: {failure}") from None
    return Corpus(folder, tokenizer, tokens, reused=False)


def _find_files() -> dict[str, list[_File]]:
    """Candidate files by kind (`py`, `h`, `text`), each in its mixed order."""
    stdlib, include = (Path(sysconfig.get_path(key)) for key in ("stdlib", "include"))
    roots = [("stdlib", stdlib), ("include", include)]
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            roots.append((package, Path(spec.origin).parent))
    found: dict[str, list[_File]] = {"py": [], "h": [], "text": []}
    for label, root in roots:
        for path in _walk(root):
            name = f"{label}/{path.relative_to(root).as_posix()}"
            _add(found, name, path)
    for package in PACKAGES:
        try:
            listed = importlib.metadata.files(package) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for file in listed:
            if ".dist-info/" in file.as_posix():
                _add(found, file.as_posix(), Path(str(file.locate())))
    return {kind: sorted(files, key=lambda file: file.rank) for kind, files in found.items()}


def _walk(folder: Path) -> Iterator[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    for path in entries:
        if path.is_dir():
            if path.name not in _LEFT_OUT_FOLDERS and not path.is_symlink():
                yield from _walk(path)
        else:
            yield path


def _add(found: dict[str, list[_File]], name: str, path: Path) -> None:
    kinds = {".py": "py", ".h": "h", ".hpp": "h", ".cuh": "h"}
    kinds |= dict.fromkeys((".txt", ".rst", ".md"), "text")
    upper = path.name.upper()
    licence = upper.startswith(("LICENSE", "LICENCE", "COPYING", "NOTICE", "README", "METADATA"))
    kind = "text" if licence else kinds.get(path.suffix)
    if kind is None or not path.is_file():
        return
    size = path.stat().st_size
    if _FILE_BYTES[0] <= size <= _FILE_BYTES[1] and name != "stdlib/pydoc_data/topics.py":
        found[kind].append(_File(name, path, size))


def _fingerprint(found: dict[str, list[_File]], limits: dict[str, int], vocab_size: int) -> str:
    content = {
        "recipe": [RECIPE, vocab_size, _SPLIT, limits],
        "python": sys.version,
        "files": {kind: [[f.name, f.size] for f in files] for kind, files in found.items()},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _reuse(folder: Path, fingerprint: str) -> Corpus | None:
    tokenizer = folder / "tokenizer.json"
    try:
        manifest = read_json(folder / "corpus.json", "corpus")
        if manifest["schema"] != SCHEMA or manifest["fingerprint"] != fingerprint:
            return None
        expected = tokenizer_sha256(tokenizer)
        files = {name: IndexedTokens(folder / name) for name in SOURCES}
    except (OSError, ValueError, KeyError, TypeError, DataError):
        return None
    if any(file.tokenizer_sha256 != expected for file in files.values()):
        return None
    return Corpus(folder, tokenizer, {n: f.tokens for n, f in files.items()}, reused=True)


def _collect(found: dict[str, list[_File]], limits: dict[str, int]) -> dict[str, list[str]]:
    texts: dict[str, list[str]] = {name: [] for name in SOURCES}
    seen: set[bytes] = set()
    room = dict(limits)
    numbers = {source: itertools.count() for source in limits}

    def put(source: str, text: str) -> None:
        digest = hashlib.sha256(text.encode()).digest()
        if len(text) < _FILE_BYTES[0] or digest in seen or room[source] <= 0:
            return
        seen.add(digest)
        room[source] -= len(text.encode())
        held_out = source != "decay" and next(numbers[source]) % _VALIDATION_SHARE == 0
        texts["validation" if held_out else source].append(text)

    left_over = []
    for source, kind in (("code", "py"), ("headers", "h"), ("docs", "text")):
        for file in found[kind]:
            if room[source] > 0:
                text = _read(file)
                if text is not None:
                    put(source, text)
            elif source == "code":
                left_over.append(file)
    for topic in _language_topics():
        put("decay", topic)
    parsed = 0
    for file in left_over:
        if (room["docs"] <= 0 and room["decay"] <= 0) or parsed > _PARSED_BYTES:
            break
        text = _read(file)
        if text is None or sum(map(len, _QUOTED.findall(text))) < _QUOTED_SHARE * len(text):
            continue
        parsed += file.size
        short, long = _docstrings(file, text)
        put("docs", "\n\n".join(short))
        for docstring in long:
            put("decay", docstring)
    return texts


def _read(file: _File) -> str | None:
    """The text of a file; None for the few that are not UTF-8."""
    try:
        return file.path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        return None


def _language_topics() -> Iterable[str]:
    """The chapters of the language reference that `help()` shows."""
    from pydoc_data.topics import topics

    return [topics[name] for name in sorted(topics)]


def _docstrings(file: _File, text: str) -> tuple[list[str], list[str]]:
    """Short and long docstrings of a module, each under the name it documents."""
    try:
        nodes: list[ast.AST] = [ast.parse(text)]
    except (SyntaxError, ValueError):
        return [], []
    short: list[str] = []
    long: list[str] = []
    while nodes:
        node = nodes.pop()
        if isinstance(node, _DOCUMENTED):
            nodes += reversed(node.body)
            docstring = ast.get_docstring(node, clean=False)
            if docstring:
                title = getattr(node, "name", file.path.stem)
                entry = f"{title}\n\n{inspect.cleandoc(docstring)}"
                (long if len(docstring) >= _LONG_DOCSTRING else short).append(entry)
    return short, long


def _train_tokenizer(texts: dict[str, list[str]], path: Path, vocab_size: int) -> None:
    """Byte-level BPE on a bounded share of every source, documents spread evenly."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    sample: list[str] = []
    for name in SOURCES[:-1]:
        budget = _TRAINING_BYTES // 4
        step = max(1, sum(map(len, texts[name])) // budget)
        sample += texts[name][::step]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOS_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sample, trainer)
    partial = path.with_suffix(".partial")
    tokenizer.save(str(partial))
    partial.replace(path)
