"""`megascale data`: prepare text, make the default corpus, look into token files."""

from __future__ import annotations

import json
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from megascale.errors import DataError
from megascale.verbs.option_words import processes
from megascale.verbs.options import (
    AsJson,
    Workers,
)

if TYPE_CHECKING:
    from megascale.data.indexed import IndexedTokens

app = typer.Typer(
    name="data",
    add_completion=False,
    help="Prepare and inspect token files.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


SHOWN_LARGE = 5
"""Large plain text files that are warned of."""


class Document(StrEnum):
    """What one document is in a plain text file."""

    file = "file"
    line = "line"


@app.command(
    epilog="""Examples:

  megascale data prepare corpus/*.jsonl.gz --tokenizer tokenizer.json -o data/corpus

  megascale data prepare notes/ --document line --tokenizer tokenizer.json -o data/notes"""
)
def prepare(
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="INPUT...", help="txt, jsonl or parquet files, .gz/.zst, folders."),
    ],
    tokenizer: Annotated[Path, typer.Option(help="Hugging Face tokenizer.json.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="PREFIX of .bin/.idx to write.")],
    workers: Workers = 0,
    text_field: Annotated[str, typer.Option(help="Key or column that holds the text.")] = "text",
    document: Annotated[
        Document, typer.Option(help="What one document is in a plain text file.")
    ] = Document.file,
    eos_token: Annotated[
        str | None,
        typer.Option(help="Token that ends a document.", show_default="the tokenizer's usual one"),
    ] = None,
    append_eos: Annotated[bool, typer.Option(help="End each document with that token.")] = True,
    strict: Annotated[bool, typer.Option(help="Stop at the first malformed line.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace a prefix that is there.")] = False,
) -> None:
    """Tokenize text into PREFIX.bin, PREFIX.idx and PREFIX.meta.json."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as ProgressBar

    from megascale.data.documents import find_inputs, large_texts
    from megascale.data.prepare import PrepareProgress
    from megascale.data.prepare import prepare as run

    console = Console(stderr=True)
    if document is Document.file:
        for path in large_texts(find_inputs(inputs)[0])[:SHOWN_LARGE]:
            typer.echo(
                f"{path}: {path.stat().st_size / 1e6:,.0f} MB of plain text are one document, held "
                "in memory whole; --document line makes each line one",
                err=True,
            )
    bar = ProgressBar(
        TextColumn("tokenizing"), BarColumn(), DownloadColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[tokens]:,} tokens"), console=console,
    )  # fmt: skip
    with ExitStack() as drawn:
        task = bar.add_task("tokenizing", total=None, tokens=0)

        def show(at: PrepareProgress) -> None:
            if not bar.live.is_started:  # no bar above the message of an input refused at once
                drawn.enter_context(bar)
            bar.update(task, completed=at.input_bytes, total=at.total_input_bytes, tokens=at.tokens)

        done = run(
            inputs,
            tokenizer=tokenizer,
            prefix=output,
            workers=processes(workers),
            text_field=text_field,
            document=document.value,
            eos_token=eos_token,
            append_eos=append_eos,
            strict=strict,
            overwrite=overwrite,
            on_progress=show,
        )
    facts = done.sidecar
    typer.echo(
        f"{done.prefix}: {facts.tokens:,} tokens in {facts.documents:,} documents from "
        f"{done.files:,} files; {done.text_bytes / facts.tokens:.2f} bytes of text per token"
    )
    if done.resumed_tokens:
        typer.echo(f"went on after {done.resumed_tokens:,} tokens that a killed run had written")
    if done.eos_token is None:
        typer.echo("nothing marks where a document ends")
    else:
        typer.echo(f"documents end with {done.eos_token} (id {facts.eos_id})")
    if done.empty_documents:
        typer.echo(f"{done.empty_documents:,} empty documents gave no tokens", err=True)
    for path in done.files_left_aside[:5]:
        typer.echo(f"{path}: left aside, not a text file by its suffix", err=True)
    if len(done.files_left_aside) > 5:
        typer.echo(f"... {len(done.files_left_aside):,} files left aside in all", err=True)
    if done.malformed:
        for item in done.first_malformed:
            typer.echo(str(item), err=True)
        typer.echo(
            f"{done.malformed:,} malformed lines were not used; all are in {done.malformed_list}",
            err=True,
        )


@app.command(epilog="Example:  megascale data default -o .cache/default-corpus")
def default(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")],
    vocab_size: Annotated[
        int, typer.Option(help="Of the tokenizer; 257 makes every byte a token.")
    ] = 512,
    workers: Workers = 0,
    as_json: AsJson = False,
) -> None:
    """Make the default corpus from text that this installation carries; reused when up to date."""
    from megascale.data.corpus import prepare_default

    made = prepare_default(
        output,
        vocab_size=vocab_size,
        workers=processes(workers),
        on_stage=lambda stage: typer.echo(f"{stage} ...", err=True),
    )
    if as_json:
        facts = {"folder": str(made.folder), "tokens": made.tokens, "reused": made.reused}
        typer.echo(json.dumps(facts | {"tokenizer": str(made.tokenizer)}))
        return
    typer.echo(f"{made.folder}: {'already up to date' if made.reused else 'made'}")
    for name, tokens in made.tokens.items():
        typer.echo(f"  {name:<11}{tokens:>12,} tokens")


@app.command(
    epilog="Example:  megascale data inspect data/corpus --tokenizer tokenizer.json --verify"
)
def inspect(
    prefix: Annotated[Path, typer.Argument(metavar="PREFIX", help="Path without .bin or .idx.")],
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="tokenizer.json to decode with.", show_default="the one beside it"),
    ] = None,
    first: Annotated[int, typer.Option(min=0, max=1_000_000, help="Tokens to show.")] = 48,
    verify: Annotated[bool, typer.Option(help="Read every byte; check ids and hash.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show counts, dtype and the first tokens of a .bin/.idx pair."""
    from megascale.data.indexed import IndexedTokens

    file = IndexedTokens(prefix)
    facts: dict[str, Any] = {
        "prefix": str(prefix),
        "tokens": file.tokens,
        "sequences": file.sequences,
        "documents": file.documents,
        "dtype": file.dtype.name,
        "first_tokens": file.flat[:first].tolist(),
    }
    text = _decode(file, tokenizer, facts["first_tokens"])
    if text is not None:
        facts["first_text"] = text
    if file.sidecar is not None:
        sidecar = file.sidecar
        facts |= {
            "vocab_size": sidecar.vocab_size,
            "max_token_id": sidecar.max_token_id,
            "eos_id": sidecar.eos_id,
            "tokenizer_sha256": sidecar.tokenizer_sha256,
            "bin_sha256": sidecar.bin_sha256,
        }
    if verify:
        facts |= _verify(file)
    if as_json:
        typer.echo(json.dumps(facts))
        return
    for key, value in facts.items():
        shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
        typer.echo(f"{key:<17}{shown!r}" if key == "first_text" else f"{key:<17}{shown}")


def _decode(file: IndexedTokens, tokenizer: Path | None, ids: list[int]) -> str | None:
    """The text of the first ids, by the tokenizer given or a matching one in the same folder."""
    from megascale.data.opening import tokenizer_sha256
    from megascale.data.tokenize import TokenizerFile

    made_with = file.tokenizer_sha256
    if tokenizer is None:
        beside = file.prefix.parent / "tokenizer.json"
        if not beside.is_file() or tokenizer_sha256(beside) != made_with:
            return None
        tokenizer = beside
    loaded = TokenizerFile(tokenizer)
    if made_with is not None and loaded.sha256 != made_with:
        rule = f"{file.prefix} was made with another tokenizer (sha256 {made_with[:12]}...)"
        raise DataError.of("--tokenizer", str(tokenizer), rule)
    return loaded.decode(ids)


def _verify(file: IndexedTokens) -> dict[str, Any]:
    """Read the whole file: range of ids, and the hash against the sidecar's."""
    from megascale.data.indexed import bin_path

    block = 1 << 24
    low = min(int(file.flat[at : at + block].min()) for at in range(0, file.tokens, block))
    high = max(int(file.flat[at : at + block].max()) for at in range(0, file.tokens, block))
    found = file.full_sha256()
    if file.sidecar is not None and found != file.sidecar.bin_sha256:
        rule = f"changed since it was prepared (sha256 {file.sidecar.bin_sha256[:12]}... then)"
        raise DataError.of(str(bin_path(file.prefix)), f"sha256 {found[:12]}...", rule)
    return {"verified": True, "smallest_id": low, "largest_id": high}
