"""What all figures share: text that stays text, a colour for each line, one way to a file."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from megascale.errors import DataError

FEW = ("#1f5fa8", "#c2521c", "#2f7d4a", "#8b4aa8", "#a07a00", "#0c7f86", "#b23a63", "#5c6b2f")
STYLE: dict[str, Any] = {
    "pdf.fonttype": 42,  # TrueType: text can be searched, copied and edited
    "svg.fonttype": "none",
    "svg.hashsalt": "megascale",
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def line_colours(count: int) -> list[str]:
    """As many different colours: a few that go together, then hues in steps of the golden angle."""
    return [_colour(i) for i in range(count)]


def _colour(i: int) -> str:
    if i < len(FEW):
        return FEW[i]
    red, green, blue = colorsys.hls_to_rgb((0.381966 * i) % 1, 0.42, (0.75, 0.45, 0.95)[i % 3])
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


@contextmanager
def drawing(**settings: Any) -> Iterator[Any]:
    """Matplotlib's pyplot without a screen, in the style of all figures.

    Args:
        settings: further ones, with `_` for the dots of their names.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    own: Any = STYLE | {name.replace("_", "."): value for name, value in settings.items()}
    with pyplot.rc_context(own):
        try:
            yield pyplot
        finally:
            pyplot.close("all")


def save_figure(
    figure: Any, paths: Sequence[str | Path], key: str, *, width: float | None = None
) -> list[Path]:
    """Write a figure under each name, in the format of its suffix.

    Args:
        figure: of matplotlib.
        paths: .png, .svg or .pdf; their folder must exist.
        key: option that named them, for the message.
        width: inches; the height goes along, texts keep their size. None leaves it as drawn.

    Raises:
        DataError: a file cannot be written, or its suffix names no format.
    """
    if width is not None:
        across, up = figure.get_size_inches()
        figure.set_size_inches(width, up * width / across)
    written = [Path(path) for path in paths]
    for path in written:
        plain = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
        try:
            figure.savefig(path, dpi=200, metadata=plain.get(path.suffix.lower()))
        except (OSError, ValueError) as failure:
            reason = getattr(failure, "strerror", None) or str(failure)
            nearest = str(path.with_suffix(".png"))
            raise DataError.of(key, str(path), f"cannot be written: {reason}", nearest) from None
    return written
