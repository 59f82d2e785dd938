"""`megascale coordinates`: whether activations keep their size over widths and depths."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from megascale.verbs.old_spellings import Verb
from megascale.verbs.options import AsJson
from megascale.verbs.tables import print_lines

if TYPE_CHECKING:
    from megascale.train.coordinates import Coordinate, SizeSlope

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

SCHEMA = "megascale.coordinates/1"
LARGEST_EXPONENT = 0.25
"""Exponents below this in size count as none: what the smallest models leave at their widths."""
EPILOG = """Examples:

  megascale coordinates run.yaml --widths 64,128,256,512,1024 --plot coordinates.png

  megascale coordinates run.yaml --depths 2,4,8,16,32 --kinds mup,completep --json"""


@app.command(cls=Verb, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
def coordinates(
    config: Annotated[Path, typer.Argument(help="YAML config of a run; its model is the base.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Dotted overrides, KEY=VALUE.", show_default=False)
    ] = None,
    widths: Annotated[
        str | None,
        typer.Option(help="Widths (hidden_size) of the models, a list.", show_default=False),
    ] = None,
    depths: Annotated[
        str | None,
        typer.Option(help="Depths (layers) of the models, a list.", show_default=False),
    ] = None,
    kinds: Annotated[
        str | None,
        typer.Option(
            help="Parametrizations, a list; default: standard,mup over widths and "
            "standard,mup,completep over depths.",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Updates of each model.")] = 4,
    plot: Annotated[Path | None, typer.Option(help="Write a figure (PNG, SVG or PDF).")] = None,
    as_json: AsJson = False,
) -> None:
    """Train models of several widths or depths for a few steps, and compare their activations.

    A parametrization transfers a learning rate over sizes when no activation grows or shrinks with
    the size (arXiv 2203.03466, appendix D.1). The config's model is the base; heads and inner
    widths follow the width. One fixed batch of random tokens, the config's optimizer at `lr.peak`,
    on the CPU; the config's data are not read.
    """
    from megascale.config import load_config
    from megascale.errors import ConfigError
    from megascale.train.coordinates import measure_coordinates, size_slopes, sized_config

    if (widths is None) == (depths is None):
        given = "neither" if widths is None else "both"
        rule = "give --widths or --depths, one of them"
        raise ConfigError.of("--widths, --depths", given, rule, "--widths 64,128,256")
    along = "width" if depths is None else "depth"
    sizes = _sizes(widths or depths or "", f"--{along}s")
    usual = "standard,mup" if along == "width" else "standard,mup,completep"
    base = load_config(config, overrides or [])
    runs = [
        sized_config(base, kind, **{along: size})
        for kind in _kinds(kinds or usual)
        for size in sizes
    ]
    found: list[Coordinate] = []
    for number, run in enumerate(runs, start=1):
        size = run.model.hidden_size if along == "width" else run.model.num_hidden_layers
        typer.echo(f"{number}/{len(runs)}: {run.init.kind}, {along} {size}", err=True)
        found += measure_coordinates(run, steps=steps)
    slopes = size_slopes(found, along)
    if plot is not None:
        from megascale.report.coordinates_figure import draw_coordinates

        typer.echo(f"figure: {draw_coordinates(found, along, plot)}", err=True)
    if as_json:
        typer.echo(json.dumps(_document(found, slopes, along, steps, base.lr.peak), indent=2))
        return
    typer.echo("\n".join(_verdicts(slopes, along)) + "\n")
    _show(found, slopes, along)


def _document(
    found: list[Coordinate], slopes: list[SizeSlope], along: str, steps: int, lr: float
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "along": along,
        "steps": steps,
        "lr": lr,
        "largest_exponent": LARGEST_EXPONENT,
        "verdicts": _verdicts(slopes, along),
        "slopes": [asdict(slope) for slope in slopes],
        "coordinates": [asdict(one) for one in found],
    }


def _verdicts(slopes: list[SizeSlope], along: str) -> list[str]:
    """One sentence a parametrization, by the exponents of what the steps changed."""
    lines = []
    for kind in dict.fromkeys(slope.kind for slope in slopes):
        own = [slope for slope in slopes if slope.kind == kind]
        worst = max(own, key=lambda slope: abs(slope.change))
        follows = abs(worst.change) > LARGEST_EXPONENT
        lines.append(
            f"{kind}: updates of activations {'follow' if follows else 'do not follow'} the "
            f"{along}: the largest exponent is {worst.change:+.2f} ({worst.place})."
        )
    return lines


def _show(found: list[Coordinate], slopes: list[SizeSlope], along: str) -> None:
    sizes = list(dict.fromkeys(getattr(one, along) for one in found))
    rows = []
    for slope in slopes:
        own = [one for one in found if (one.kind, one.place) == (slope.kind, slope.place)]
        cells = [f"{one.rms:.3g}" for one in own]
        rows.append((slope.kind, slope.place, *cells, f"{slope.rms:+.2f}", f"{slope.change:+.2f}"))
    columns = [f"{along} {size}" for size in sizes]
    print_lines(("kind", "RMS of", *columns, "exponent", "of the change"), rows)


def _sizes(text: str, option: str) -> list[int]:
    from megascale.errors import ConfigError

    words = text.split(",")
    for word in words:
        if not (word.isdecimal() and 1 <= int(word) <= 2**16):
            raise ConfigError.of(option, word, "a list of whole sizes up to 65536", "64,128,256")
    sizes = sorted({int(word) for word in words})
    if len(sizes) < 2:
        raise ConfigError.of(option, text, "needs two sizes to compare", "64,128,256")
    return sizes


def _kinds(text: str) -> list[str]:
    from megascale.errors import ConfigError

    words = list(dict.fromkeys(text.split(",")))
    for word in words:
        if word not in ("standard", "mup", "completep"):
            rule = "must be standard, mup or completep"
            raise ConfigError.of("--kinds", word, rule, "standard,mup")
    return words
