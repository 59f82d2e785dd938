"""One figure of a coordinate check: sizes of activations over widths or depths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from megascale.errors import DataError
from megascale.report.compare_figure import COLOURS

if TYPE_CHECKING:
    from megascale.train.coordinates import Coordinate


def draw_coordinates(found: Sequence[Coordinate], along: str, path: str | Path) -> Path:
    """Write a PNG, SVG or PDF (by `path`'s suffix): a panel a place, a line a parametrization.

    Args:
        found: sizes of activations.
        along: `width` or `depth`, the axis.
        path: file to write; its folder must exist.

    Raises:
        DataError: the file cannot be written, or its suffix names no format.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    places = list(dict.fromkeys(one.place for one in found))
    kinds = list(dict.fromkeys(one.kind for one in found))
    figure, axes = plt.subplots(
        1, len(places), figsize=(2.6 * len(places), 3.0), layout="constrained", squeeze=False
    )
    for axis, place in zip(axes[0], places, strict=True):
        for number, kind in enumerate(kinds):
            own = [one for one in found if (one.kind, one.place) == (kind, place)]
            sizes, colour = [getattr(one, along) for one in own], COLOURS[number % len(COLOURS)]
            axis.loglog(sizes, [one.rms for one in own], marker="o", color=colour, label=kind)
            changes = [one.change for one in own]
            axis.loglog(sizes, changes, marker=".", linestyle=":", color=colour)
            axis.set_xticks(sizes, [str(size) for size in sizes], fontsize=7)
            axis.minorticks_off()
        axis.set_title(place, fontsize=9)
        axis.set_xlabel(along)
    axes[0][0].set_ylabel("RMS; dotted: of the change")
    axes[0][0].legend(fontsize=7)
    path = Path(path)
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as failure:
        raise DataError.of("--plot", str(path), str(failure), "a path ending in .png") from None
    finally:
        plt.close(figure)
    return path
