"""`megascale fit`: fit one law to the points of a table."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from megascale.errors import EXIT_DONE, EXIT_FIT, FitError


def read_table(path: Path) -> Any:
    """A CSV, TSV, Parquet or JSON-lines table as a polars frame.

    Raises:
        FitError: the file is missing, of another kind, or cannot be read.
    """
    import polars

    readers = {
        ".csv": polars.read_csv,
        ".tsv": lambda p: polars.read_csv(p, separator="\t"),
        ".parquet": polars.read_parquet,
        ".jsonl": polars.read_ndjson,
        ".ndjson": polars.read_ndjson,
    }
    if path.suffix.lower() not in readers:
        raise FitError.of("POINTS", str(path), "must be one of " + ", ".join(readers))
    if not path.is_file():
        raise FitError.of("POINTS", str(path), "is no file")
    try:
        return readers[path.suffix.lower()](path)
    except (polars.exceptions.PolarsError, OSError) as error:
        raise FitError.of("POINTS", str(path), f"cannot be read ({error})") from None


def parse_pairs(values: list[str], option: str) -> dict[str, float]:
    """`NAME=VALUE` options as a mapping.

    Raises:
        FitError: an entry is not NAME=NUMBER.
    """
    out = {}
    for entry in values:
        name, _, number = entry.partition("=")
        try:
            out[name] = float(number)
        except ValueError:
            raise FitError.of(option, entry, "must be NAME=NUMBER") from None
    return out


def parse_bounds(values: list[str]) -> dict[str, tuple[float | None, float | None]]:
    """`NAME=LOW:HIGH` options as a mapping; an empty side is open.

    Raises:
        FitError: an entry is not NAME=LOW:HIGH.
    """
    out: dict[str, tuple[float | None, float | None]] = {}
    for entry in values:
        name, _, span = entry.partition("=")
        low, colon, high = span.partition(":")
        try:
            if not colon:
                raise ValueError
            out[name] = (float(low) if low else None, float(high) if high else None)
        except ValueError:
            raise FitError.of("--bound", entry, "must be NAME=LOW:HIGH") from None
    return out


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()] if text else []


def fit_command(
    points: Annotated[Path, typer.Argument(help="Table: .csv, .tsv, .parquet or .jsonl.")],
    law: Annotated[str, typer.Option(help="Law to fit; --law list shows them.")] = "wsd",
    x: Annotated[str, typer.Option("--x", help="Input column, or several with commas.")] = "S",
    y: Annotated[str, typer.Option("--y", help="Target column.")] = "E",
    group: Annotated[
        str | None, typer.Option(help="Columns whose distinct values make the problems.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="Column of weights.")] = None,
    runs: Annotated[
        str | None, typer.Option(help="Column naming each point's run, for --resample runs.")
    ] = None,
    residual: Annotated[str, typer.Option(help="auto, relative, log, absolute or ray.")] = "auto",
    loss: Annotated[str, typer.Option(help="squared or huber.")] = "squared",
    delta: Annotated[float, typer.Option(help="Where the Huber loss turns linear.")] = 1e-3,
    starts: Annotated[str, typer.Option(help="auto, grid, or how many.")] = "auto",
    bootstrap: Annotated[int, typer.Option(help="Bootstrap replicates; 0 for none.")] = 0,
    resample: Annotated[
        str, typer.Option(help="Kind of bootstrap: parametric, pairs or runs.")
    ] = "parametric",
    confidence: Annotated[float, typer.Option(help="Of the intervals.")] = 0.9,
    fix: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, held fixed.")] = None,
    bound: Annotated[list[str] | None, typer.Option(help="NAME=LOW:HIGH.")] = None,
    threads: Annotated[int | None, typer.Option(help="Default: all cores.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of the bootstrap draws.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    output: Annotated[
        Path | None, typer.Option(help="Also write the result: .json, .csv or .parquet.")
    ] = None,
) -> None:
    """Fit one law to every group of points of a table.

    Exits with 0 when every problem converged, with 7 when one did not or a point is bad.
    """
    from megascale import fitting

    if law == "list":
        typer.echo("\n".join(fitting.law_names()))
        raise typer.Exit(EXIT_DONE)
    if output is not None and output.suffix not in (".json", ".csv", ".parquet"):
        raise FitError.of("--output", str(output), "must end in .json, .csv or .parquet")
    if starts not in ("auto", "grid"):
        if not starts.isdigit():
            raise FitError.of("--starts", starts, "must be auto, grid or a number", "auto")
        chosen: int | str = int(starts)
    else:
        chosen = starts
    frame = read_table(points)
    columns = _names(x)
    with _Progress(quiet=as_json) as progress:
        result = fitting.fit_frame(
            law,
            frame,
            x=columns if len(columns) > 1 else columns[0] if columns else "",
            y=y,
            group=_names(group) or None,
            weights=weights,
            runs=runs,
            residual=residual,
            loss=loss,
            delta=delta,
            starts=chosen,
            bootstrap=resample if bootstrap else None,
            replicates=bootstrap or 1,
            confidence=confidence,
            fixed=parse_pairs(fix or [], "--fix"),
            bounds=parse_bounds(bound or []),
            threads=threads,
            device=device,
            seed=seed,
            progress=progress.update,
        )
    if output is not None:
        _write(result, output)
    if as_json:
        typer.echo(json.dumps(result.to_dict(), indent=2))
    else:
        typer.echo(result.summary(limit=100))
    raise typer.Exit(EXIT_DONE if bool(result.converged.all()) else EXIT_FIT)


def _write(result: Any, path: Path) -> None:
    if path.suffix == ".json":
        path.write_text(result.to_json(indent=2) + "\n")
    elif path.suffix == ".csv":
        result.to_polars().write_csv(path)
    else:
        result.to_polars().write_parquet(path)


class _Progress:
    """A progress bar on standard error, only on a terminal."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet or not sys.stderr.isatty()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> _Progress:
        return self

    def update(self, done: int, total: int) -> None:
        if self._quiet:
            return
        if self._bar is None:
            from rich.console import Console
            from rich.progress import Progress

            self._bar = Progress(console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task("fitting", total=total)
        self._bar.update(self._task, completed=done)

    def __exit__(self, *failure: object) -> None:
        if self._bar is not None:
            self._bar.stop()


app = typer.Typer(add_completion=False)
app.command("fit")(fit_command)
