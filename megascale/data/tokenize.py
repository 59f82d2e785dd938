"""Tokenizer files, and raw documents to token ids."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from megascale.data.documents import Batch, RawDocument
from megascale.data.opening import tokenizer_sha256
from megascale.errors import DataError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LARGEST_ID = 2**31 - 1
"""Token files hold ids of 32 bits at most."""
EOS_TOKENS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>")


class TokenizerFile:
    """A Hugging Face `tokenizer.json`, ready to encode text as plain text.

    Special tokens that stand in a document ("<|endoftext|>") are encoded as the characters they
    are; only `data prepare` itself places the end-of-document token.

    Attributes:
        path, sha256: the file and its identity.
        vocab_size: largest id + 1, added tokens included.

    Raises:
        DataError: the file is missing or not a tokenizer, or has ids beyond 32 bits.
    """

    def __init__(self, path: str | Path) -> None:
        from tokenizers import Tokenizer

        self.path = Path(path)
        self.sha256 = tokenizer_sha256(path)
        try:
            self.tokenizer: Tokenizer = Tokenizer.from_file(str(path))
        except KeyboardInterrupt:
            raise
        except BaseException as failure:  # plain Exception, or a panic of the library underneath
            raise DataError.of(
                "--tokenizer", str(path), f"not a Hugging Face tokenizer.json: {failure}"
            ) from None
        self.tokenizer.encode_special_tokens = True
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        ids = self.tokenizer.get_vocab().values()
        if not ids or max(ids) > LARGEST_ID:
            rule = f"its ids must lie between 0 and {LARGEST_ID}, and there must be some"
            raise DataError.of("--tokenizer", str(path), rule)
        self.vocab_size = max(ids) + 1

    @property
    def special_tokens(self) -> dict[str, int]:
        """Special tokens and their ids, by id. Text never gives these ids."""
        added = sorted(self.tokenizer.get_added_tokens_decoder().items())
        return {token.content: number for number, token in added if token.special}

    def usual_eos(self) -> list[str]:
        """Special tokens that by their names end a document."""
        return [token for token in EOS_TOKENS if token in self.special_tokens]

    def eos_id(self, token: str | None = None) -> int:
        """Id of the token that ends a document.

        Args:
            token: its text; None takes the usual one of the vocabulary.

        Raises:
            DataError: there is no such token, it is an ordinary one that text can give too, or
                several may be meant.
        """
        special = self.special_tokens
        usual = self.usual_eos()
        if token is None and len(usual) > 1:
            rule = f"{self.path} has several tokens that may end a document; name one"
            raise DataError.of("--eos-token", "not given", rule, usual)
        if token is None and usual:
            return special[usual[0]]
        if token in special:
            return special[token]
        legal = (usual or [*special])[:8] or None
        if token is None:
            rule = f"{self.path} has no special token {' or '.join(EOS_TOKENS)}"
        elif self.tokenizer.token_to_id(token) is None:
            rule = f"{self.path} has no token {token}"
        else:
            rule = f"an ordinary token of {self.path}: a text that holds it would end there"
        raise DataError.of("--eos-token", token or "not given", rule, legal)

    def encode(self, texts: list[str]) -> list[NDArray[np.int32]]:
        """Ids of each text, without any added token."""
        encoded = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(item.ids, dtype=np.int32) for item in encoded]

    def decode(self, ids: list[int]) -> str:
        """The text of some ids, special tokens shown."""
        return self.tokenizer.decode(ids, skip_special_tokens=False)


@dataclass(frozen=True, slots=True)
class MalformedDocument:
    """A line that could not be used: where it stands and why."""

    path: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.reason}"


class EncodedBatch(NamedTuple):
    """Documents of a batch as ids: `tokens` in a row, cut by `lengths`."""

    tokens: NDArray[np.int32]
    lengths: NDArray[np.int32]
    malformed: list[MalformedDocument]
    empty_documents: int
    text_bytes: int


def encode_batch(
    batch: Batch, tokenizer: TokenizerFile, *, text_field: str, eos_id: int | None
) -> EncodedBatch:
    """Parse and encode a batch; `eos_id` (unless None) is put after every document.

    Empty documents give no tokens and are counted; malformed ones are returned with their reason.
    """
    texts: list[str] = []
    malformed: list[MalformedDocument] = []
    empty = 0
    for document in batch.documents:
        text = _text_of(document, text_field)
        if isinstance(text, MalformedDocument):
            malformed.append(text)
        elif text:
            texts.append(text)
        else:
            empty += 1
    end = [] if eos_id is None else [np.array([eos_id], dtype=np.int32)]
    pieces: list[NDArray[np.int32]] = []
    lengths = []
    for ids in tokenizer.encode(texts):
        pieces += [ids, *end]
        lengths.append(len(ids) + len(end))
    tokens = np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int32)
    text_bytes = sum(len(text.encode()) for text in texts)
    return EncodedBatch(tokens, np.array(lengths, dtype=np.int32), malformed, empty, text_bytes)


def _text_of(document: RawDocument, text_field: str) -> str | MalformedDocument:
    def bad(reason: str) -> MalformedDocument:
        return MalformedDocument(document.path, document.line, reason)

    raw = document.raw
    if raw is None:
        return bad("the text is null")
    if isinstance(raw, bytes):
        try:
            raw = raw.decode("utf-8-sig")
        except UnicodeDecodeError as failure:
            before = document.raw[: failure.start]  # type: ignore[index]
            place = MalformedDocument(
                document.path,
                document.line + before.count(b"\n"),  # type: ignore[arg-type]
                f"not UTF-8: byte 0x{failure.object[failure.start]:02x}, {failure.reason}",
            )
            return place
    if document.kind == "json":
        try:
            found = json.loads(raw)
        except ValueError as failure:
            return bad(f"not JSON: {failure}")
        except RecursionError:
            return bad("not JSON: nested too deeply")
        if not isinstance(found, dict) or text_field not in found:
            keys = ", ".join(sorted(found)[:8]) if isinstance(found, dict) else type(found).__name__
            return bad(f"no key {text_field!r} (found: {keys})")
        raw = found[text_field]
        if not isinstance(raw, str):
            return bad(f"{text_field!r} is not a string but {type(raw).__name__}")
    try:
        raw.encode()
    except UnicodeEncodeError:
        return bad("the text holds half a surrogate pair")
    return raw
