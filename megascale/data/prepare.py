"""`megascale data prepare`: text files to one `.bin/.idx` pair, in parallel, always the same."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Literal

from megascale.data.documents import (
    BATCH_BYTES,
    BATCH_DOCUMENTS,
    Batch,
    find_inputs,
    read_batches,
)
from megascale.data.indexed import Sidecar, idx_path
from megascale.data.journal import (
    JOURNAL_BATCHES,
    Written,
    fingerprint,
    journal_path,
    read_journal,
    write_journal,
)
from megascale.data.tokenize import EncodedBatch, MalformedDocument, TokenizerFile, encode_batch
from megascale.data.writer import IndexedWriter, partial_paths, token_dtype
from megascale.errors import DataError

_SHOWN_MALFORMED = 5


@dataclass(frozen=True, slots=True)
class PrepareProgress:
    """How far `prepare` has come; `input_bytes` count compressed bytes on disk."""

    input_bytes: int
    total_input_bytes: int
    documents: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """What `prepare` wrote, and what it could not use."""

    prefix: Path
    sidecar: Sidecar
    files: int
    files_left_aside: tuple[Path, ...]
    malformed: int
    first_malformed: tuple[MalformedDocument, ...]
    eos_token: str | None
    malformed_list: Path | None
    empty_documents: int
    text_bytes: int
    resumed_tokens: int


def prepare(
    inputs: Iterable[str | Path],
    *,
    tokenizer: str | Path,
    prefix: str | Path,
    workers: int = 1,
    text_field: str = "text",
    document: Literal["file", "line"] = "file",
    eos_token: str | None = None,
    append_eos: bool = True,
    strict: bool = False,
    overwrite: bool = False,
    on_progress: Callable[[PrepareProgress], None] = lambda progress: None,
) -> Prepared:
    """Tokenize text files into `PREFIX.bin`, `.idx` and `.meta.json`.

    The result is the same for any number of workers. A run that was killed leaves its partial
    files; the same inputs and settings go on with them. Lines that cannot be used are counted, the
    first ones returned, and all of them written to `PREFIX.malformed.jsonl`.

    Args:
        inputs: files or folders: text, JSON lines, parquet; also `.gz` and `.zst`.
        tokenizer: a Hugging Face `tokenizer.json`.
        prefix: where to write, without suffix.
        workers: processes; with more than one, call this under `if __name__ == "__main__"`.
        text_field: key or column that holds the text.
        document: whether a plain text file is one document, or each of its lines is.
        eos_token: special token put after each document; None takes the usual one, where the
            tokenizer has one alone.
        append_eos: whether to put it there.
        strict: refuse the whole input at the first line that cannot be used.
        overwrite: replace a prefix that is already there.
        on_progress: called after every batch.

    Raises:
        DataError: bad arguments or inputs; nothing is written then.
    """
    if workers < 1:
        raise DataError.of("--workers", workers, "at least one process is needed", 1)
    if idx_path(prefix).exists() and not overwrite:
        rule = "already there; give another prefix, or --overwrite to replace it"
        raise DataError.of("--output", str(prefix), rule)
    files, aside = find_inputs(inputs)
    total_bytes = sum(path.stat().st_size for path in files)
    loaded = TokenizerFile(tokenizer)
    eos_id = loaded.eos_id(eos_token) if append_eos else None
    listing = Path(f"{prefix}.malformed.jsonl")
    partial = Path(f"{listing}.partial")
    settings = (loaded.sha256, text_field, document, eos_id, strict, BATCH_BYTES, BATCH_DOCUMENTS)
    identity = fingerprint(files, settings)
    after = _killed_before(prefix, identity, loaded.vocab_size, partial)
    start = after or Written(identity)
    batches = read_batches(files, text_field=text_field, document=document)
    left = islice(batches, start.batches, None)
    encoded = _encode_all(left, loaded, workers, text_field, eos_id)
    first_malformed = [MalformedDocument(*item) for item in start.first_malformed]
    malformed, empty, text_bytes = start.malformed, start.empty_documents, start.text_bytes
    try:
        with (
            IndexedWriter(prefix, loaded.vocab_size, after=after) as writer,
            partial.open("r+" if after else "w") as bad_lines,
        ):
            bad_lines.seek(start.malformed_bytes)
            bad_lines.truncate()
            for number, (read_bytes, part) in enumerate(encoded, start.batches + 1):
                if part.malformed and strict:
                    raise DataError(f"{part.malformed[0]}. --strict allows no such line.")
                for item in part.malformed:
                    bad_lines.write(json.dumps(asdict(item)) + "\n")
                first_malformed += part.malformed[: _SHOWN_MALFORMED - len(first_malformed)]
                malformed += len(part.malformed)
                empty += part.empty_documents
                text_bytes += part.text_bytes
                writer.add(part.tokens, part.lengths)
                if number % JOURNAL_BATCHES == 0:
                    writer.sync()
                    bad_lines.flush()
                    os.fsync(bad_lines.fileno())
                    write_journal(
                        prefix,
                        Written(
                            identity,
                            number,
                            writer.tokens,
                            writer.documents,
                            writer.max_token_id,
                            malformed,
                            bad_lines.tell(),
                            empty,
                            text_bytes,
                            [[one.path, one.line, one.reason] for one in first_malformed],
                        ),
                    )
                on_progress(
                    PrepareProgress(read_bytes, total_bytes, writer.documents, writer.tokens)
                )
            if writer.tokens == 0:
                raise DataError(_nothing_to_write(files, malformed, first_malformed, empty))
            sidecar = writer.finish(
                tokenizer_sha256=loaded.sha256,
                eos_id=eos_id,
                details={
                    "inputs": [path.name for path in files],
                    "input_bytes": total_bytes,
                    "text_bytes": text_bytes,
                    "text_field": text_field,
                    "document": document,
                    "malformed": malformed,
                    "empty_documents": empty,
                },
            )
        if malformed:
            partial.replace(listing)
        else:
            listing.unlink(missing_ok=True)
    except OSError as failure:
        raise DataError.of(str(prefix), "cannot be written", str(failure)) from None
    finally:
        partial.unlink(missing_ok=True)
        journal_path(prefix).unlink(missing_ok=True)
    return Prepared(
        prefix=Path(prefix),
        sidecar=sidecar,
        files=len(files),
        files_left_aside=tuple(aside),
        malformed=malformed,
        first_malformed=tuple(first_malformed),
        eos_token=None if eos_id is None else loaded.tokenizer.id_to_token(eos_id),
        malformed_list=listing if malformed else None,
        empty_documents=empty,
        text_bytes=text_bytes,
        resumed_tokens=start.tokens,
    )


def _killed_before(
    prefix: str | Path, identity: str, vocab_size: int, bad_lines: Path
) -> Written | None:
    """Where a killed run of the same inputs and settings stopped, if its files are there."""
    partials = partial_paths(prefix)
    width = token_dtype(vocab_size).itemsize
    sizes = {partials["bin"]: width, partials["lengths"]: 4, bad_lines: 1}
    return read_journal(prefix, identity, sizes)


def _nothing_to_write(
    files: list[Path], malformed: int, first: list[MalformedDocument], empty: int
) -> str:
    message = f"INPUT: {len(files)} file(s) gave no text ({empty} empty documents"
    message += f", {malformed} lines that cannot be used)."
    return message + "".join(f"\n  {item}" for item in first)


def _encode_all(
    batches: Iterator[Batch],
    tokenizer: TokenizerFile,
    workers: int,
    text_field: str,
    eos_id: int | None,
) -> Iterator[tuple[int, EncodedBatch]]:
    """Encoded batches in the order of the input, with the input bytes read up to each."""
    if workers == 1:
        for batch in batches:
            yield (
                batch.input_bytes,
                encode_batch(batch, tokenizer, text_field=text_field, eos_id=eos_id),
            )
        return
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    path = str(tokenizer.path)
    waiting: deque[tuple[int, Future[EncodedBatch]]] = deque()
    try:
        for batch in batches:
            future = pool.submit(_encode_in_worker, batch, path, text_field, eos_id)
            waiting.append((batch.input_bytes, future))
            if len(waiting) > 2 * workers:
                read_bytes, future = waiting.popleft()
                yield read_bytes, future.result()
        while waiting:
            read_bytes, future = waiting.popleft()
            yield read_bytes, future.result()
    except BrokenProcessPool:
        rule = "a worker process was killed, perhaps for lack of memory; try fewer"
        raise DataError.of("--workers", workers, rule, max(1, workers // 2)) from None
    finally:
        pool.shutdown(cancel_futures=True)


@cache
def _worker_tokenizer(path: str) -> TokenizerFile:
    """The tokenizer of this worker process, on one thread: the processes are the parallelism.

    A pool of one thread costs no more than many; `TOKENIZERS_PARALLELISM=false`, which keeps to
    the calling thread, costs 1.3 times the CPU.
    """
    os.environ["RAYON_NUM_THREADS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    return TokenizerFile(path)


def _encode_in_worker(
    batch: Batch, tokenizer: str, text_field: str, eos_id: int | None
) -> EncodedBatch:
    loaded = _worker_tokenizer(tokenizer)
    return encode_batch(batch, loaded, text_field=text_field, eos_id=eos_id)
