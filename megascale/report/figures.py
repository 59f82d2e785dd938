"""Every figure of the report as PNG and SVG, for papers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from megascale.errors import DataError

MANY_RUNS = 12
FEW_SETTINGS = 4
CONTOURS = (0.0025, 0.005, 0.01, 0.02, 0.04)
STAGE_STYLES = ("--", "-", ":")
COLOURS = ("#1f5fa8", "#c2521c", "#2f7d4a", "#8b4aa8", "#a07a00", "#0c7f86", "#b23a63", "#5c6b2f")


def draw_figures(document: dict[str, Any], folder: str | Path) -> list[Path]:
    """Write each figure that has data as NAME.png and NAME.svg.

    Args:
        document: of `build_document`.
        folder: made where it is missing.

    Returns:
        The files, in the order of the page.

    Raises:
        DataError: the folder or a file cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    folder = Path(folder)
    written: list[Path] = []
    settings: Any = {
        "svg.hashsalt": "megascale",
        "font.size": 9,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with plt.rc_context(settings):
            for name, figure in _figures(document, plt):
                for suffix in ("png", "svg"):
                    path = folder / f"{name}.{suffix}"
                    plain = {"Date": None} if suffix == "svg" else {"Software": None}
                    figure.savefig(path, dpi=200, metadata=plain)
                    written.append(path)
                plt.close(figure)
    except OSError as failure:
        raise DataError.of(
            "--figures", str(folder), f"cannot be written: {failure.strerror}"
        ) from None
    finally:
        plt.close("all")
    return written


def _figures(document: dict[str, Any], plt: Any) -> Any:
    curves, steps = document["curves"], document["tokens_steps"]
    best, grids = document["best_batch"], document["grids"]
    if "empty" not in curves:
        for key in ("tokens", "step", "seconds"):
            usable = [c for c in curves["curves"] if c[key] and c["loss"]]
            if usable:
                yield f"loss-{key}", _loss_curves(plt, usable, key, curves["crossings"])
    if "empty" not in steps:
        for number, groups in enumerate(_by_setting(steps["groups"]).values(), 1):
            yield f"tokens-steps-{number}", _tokens_steps(plt, groups)
    if "empty" not in best:
        used = any(row["used"] for row in best["rows"])
        if used or best["critical"]:
            yield "batch-loss", _batch_loss(plt, best)
        if used:
            yield "batch-tokens", _batch_tokens(plt, best)
    if "empty" not in grids:
        cells = [cell for grid in grids["grids"] for cell in grid["cells"]]
        for number, cell in enumerate(cells, 1):
            yield f"grid-{number:02d}", _grid(plt, cell)


BAND_SHOWN = 4
"""How far a figure reaches beyond its best batches, by a factor."""


def _by_setting(rows: list[dict[str, Any]]) -> dict[Any, list[dict[str, Any]]]:
    found: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["n_params"], row["lr"]), []).append(row)
    return found


def _setting(n: float | None, lr: float | None) -> str:
    known = [f"N {_short(n)}"] if n is not None else []
    known += [f"LR {lr:.3g}"] if lr is not None else []
    return ", ".join(known)


def _short(value: float) -> str:
    for suffix, scale in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if abs(value) >= scale * 0.9995:
            return f"{value / scale:.3g}{suffix}"
    return f"{value:.3g}"


def _counts(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    decades = np.log10(high / low) if low > 0 else 1.0
    subs = (1.0,) if decades > 4 else (1.0, 3.0) if decades > 1.6 else (1.0, 2.0, 3.0, 5.0)
    axis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axis.set_minor_formatter(NullFormatter())


def _ramp(plt: Any, share: float) -> Any:
    return plt.get_cmap("viridis")(0.05 + 0.85 * min(max(share, 0.0), 1.0))


def _loss_curves(
    plt: Any, curves: list[dict[str, Any]], key: str, crossings: list[dict[str, Any]]
) -> Any:
    figure, axis = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    sizes = sorted({c["batch_tokens"] for c in curves if c["batch_tokens"]})
    span = np.log(sizes[-1] / sizes[0]) if len(sizes) > 1 else 0.0
    for number, curve in enumerate(curves):
        batch = curve["batch_tokens"]
        colour = COLOURS[number % len(COLOURS)]
        if span and batch:
            colour = _ramp(plt, np.log(batch / sizes[0]) / span)
        x = np.asarray(curve[key], dtype=float)
        label = _shortened(curve["run"]) if len(curves) <= MANY_RUNS else None
        axis.plot(x, curve["loss"], color=colour, linewidth=0.9, label=label)
        if curve["low"]:
            axis.fill_between(x, curve["low"], curve["high"], color=colour, alpha=0.12, linewidth=0)
    if key == "tokens" and crossings:
        axis.plot(
            [c["tokens"] for c in crossings], [c["loss"] for c in crossings], "kx",
            markersize=5, label="crossings",
        )  # fmt: skip
    axis.set_xscale("log")
    _leave_out_beginnings(axis, curves, key)
    _counts(axis.xaxis)
    words = {"tokens": "consumed tokens", "step": "steps", "seconds": "wall clock (s)"}
    axis.set(xlabel=words[key], ylabel="loss (nats per token)")
    if len(curves) <= MANY_RUNS:
        axis.legend(frameon=False, fontsize=7)
    elif span:
        from matplotlib.colors import LogNorm

        scale = plt.cm.ScalarMappable(LogNorm(sizes[0], sizes[-1]), "viridis")
        bar = figure.colorbar(scale, ax=axis, label="batch (tokens)")
        _counts(bar.ax.yaxis)
    return figure


def _shortened(name: str, most: int = 40) -> str:
    return name if len(name) <= most else f"{name[:24]}...{name[-12:]}"


def _leave_out_beginnings(axis: Any, curves: list[dict[str, Any]], key: str) -> None:
    """x from 2 % of the shortest run on, y from every run's last nine tenths, as on the page."""
    ends = [max(curve[key]) for curve in curves]
    first = max(0.02 * min(end for end in ends if end > 0), min(min(c[key]) for c in curves))
    late = [
        loss
        for curve, end in zip(curves, ends, strict=True)
        for x, loss in zip(curve[key], curve["loss"], strict=True)
        if x >= 0.1 * end
    ]
    room = 0.04 * (max(late) - min(late)) or 0.05
    axis.set_xlim(first / 1.05, max(ends) * 1.05)
    axis.set_ylim(min(late) - room, max(late) + room)


def _tokens_steps(plt: Any, groups: list[dict[str, Any]]) -> Any:
    figure, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
    for number, group in enumerate(groups):
        colour = _ramp(plt, number / max(len(groups) - 1, 1))
        batch, tokens = (np.asarray(group["points"][k]) for k in ("batch", "tokens"))
        law = group["laws"].get("wsd") or next(iter(group["laws"].values()), None)
        for axis, by_steps in zip(axes, (True, False), strict=True):
            x = tokens / batch if by_steps else batch
            label = f"loss {group['target_loss']:.4g}"
            axis.plot(x, tokens, "o", color=colour, markersize=3.5, label=label)
            if law is None:
                continue
            b, e = np.asarray(law["batch"]), np.asarray(law["tokens"])
            s = e / b
            edges = law["stages"] or [0, 0, 0, np.inf]
            stage = np.where(s < edges[1], 0, np.where(s <= edges[3], 1, 2))
            for k, style in enumerate(STAGE_STYLES):
                at = np.flatnonzero(stage == k)
                if len(at):
                    part = slice(at[0], at[-1] + 2)
                    axis.plot((s if by_steps else b)[part], e[part], style, color=colour)
            best = law["optimum"]
            if best["B_opt"] and best["E_min"]:
                where = best["E_min"] / best["B_opt"] if by_steps else best["B_opt"]
                axis.plot(where, best["E_min"], "D", color=colour, markeredgecolor="black")
            if not by_steps and best["B_min"]:
                axis.axvline(best["B_min"], color=colour, linewidth=0.8, alpha=0.6)
    batches = [b for group in groups for b in group["points"]["batch"]]
    axes[1].set_xlim(min(batches) / 2, max(batches) * 2)
    for axis, label in zip(axes, ("steps S to the loss", "batch B (tokens)"), strict=True):
        axis.set(xscale="log", yscale="log", xlabel=label)
        _counts(axis.xaxis)
    _counts(axes[0].yaxis)
    axes[0].set_ylabel("tokens E to the loss")
    axes[1].legend(frameon=False, fontsize=7)
    figure.suptitle(_setting(groups[0]["n_params"], groups[0]["lr"]), fontsize=9)
    return figure


def _label(best: dict[str, Any], kind: str, n: float | None, lr: float | None) -> str:
    """Setting and kind; among many settings the kind alone."""
    few = len(_by_setting(best["rows"])) <= FEW_SETTINGS
    return f"{_setting(n, lr)} {kind}".strip() if few else kind


def _legend(axis: Any) -> None:
    """Each label once."""
    handles, labels = axis.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    axis.legend(once.values(), once.keys(), frameon=False, fontsize=7)


def _optima(axis: Any, best: dict[str, Any], key: str) -> None:
    for number, ((n, lr), rows) in enumerate(_by_setting(best["rows"]).items()):
        used = [row for row in rows if row["used"]]
        if not used:
            continue
        middle = np.array([row["batch_tokens"] for row in used])
        low = middle - np.array([row["low"] for row in used])
        high = np.array([row["high"] for row in used]) - middle
        axis.errorbar(
            [row[key] for row in used], middle, yerr=[low, high], fmt="D", markersize=4,
            color=COLOURS[number % len(COLOURS)], label=_label(best, "$B_{opt}$", n, lr),
        )  # fmt: skip


def _batch_loss(plt: Any, best: dict[str, Any]) -> Any:
    figure, axis = plt.subplots(figsize=(5.6, 4), layout="constrained")
    _optima(axis, best, "target_loss")
    for number, ((n, lr), rows) in enumerate(_by_setting(best["least"]).items()):
        middle = np.array([row["batch_min"] for row in rows])
        low = np.maximum(middle - np.array([row["low"] for row in rows]), 0)
        high = np.maximum(np.array([row["high"] for row in rows]) - middle, 0)
        axis.errorbar(
            [row["target_loss"] for row in rows], middle, yerr=[low, high], fmt="o--",
            markersize=2.5, linewidth=1, color=COLOURS[number % len(COLOURS)],
            label=_label(best, f"$B_{{min}}$ ({rows[0]['law']})", n, lr),
        )  # fmt: skip
    for number, ((n, lr), rows) in enumerate(_by_setting(best["critical"]).items()):
        middle = np.array([row["batch_crit"] for row in rows])
        low = middle - np.array([row["low"] for row in rows])
        high = np.array([row["high"] for row in rows]) - middle
        axis.errorbar(
            [row["target_loss"] for row in rows], middle, yerr=[low, high], fmt="_",
            color=COLOURS[number % len(COLOURS)],
            label=_label(best, "$B_{crit}$ (classic)", n, lr),
        )  # fmt: skip
    axis.set(yscale="log", xlabel="target loss (nats per token)", ylabel="batch (tokens)")
    axis.invert_xaxis()
    _counts(axis.yaxis)
    _legend(axis)
    return figure


def _batch_tokens(plt: Any, best: dict[str, Any]) -> Any:
    figure, axis = plt.subplots(figsize=(5.6, 4), layout="constrained")
    for row, cloud in zip(best["rows"], best["clouds"], strict=True):
        if row["used"]:
            axis.plot(cloud["tokens"], cloud["batch"], ".", color="grey", markersize=1.5, alpha=0.4)
    _optima(axis, best, "tokens")
    power, given = best["power"], best["given"]
    lines = [(f"law {line['name']}", line, line["d_range"]) for line in given]
    if power is not None:
        lines += [("", {"d": power["d"], **line}, power["d_range"]) for line in power["lines"]]
    for number, (label, line, limits) in enumerate(lines):
        _law_line(axis, label, line, limits, COLOURS[(number + 2 * bool(given)) % len(COLOURS)])
    if lines:
        _, followed, limits = lines[0] if given else lines[len(lines) // 2]
        _staircase(axis, followed, limits[1] * (1 if given else 8))
    if best["direct"]:
        axis.plot(
            [row["tokens"] for row in best["direct"]],
            [row["batch_tokens"] for row in best["direct"]],
            "k+", label="lowest loss at these tokens",
        )  # fmt: skip
    axis.set(xscale="log", yscale="log", xlabel="consumed tokens", ylabel="batch (tokens)")
    shown = [value for _, line, _ in lines for value in line["value"]]
    shown += [row["batch_tokens"] for row in best["direct"]]
    shown += [row["batch_tokens"] for row in best["rows"] if row["used"]]
    if shown:  # a wide band must not flatten what it is the band of
        axis.set_ylim(min(shown) / BAND_SHOWN, max(shown) * BAND_SHOWN)
    _counts(axis.xaxis)
    _counts(axis.yaxis)
    _legend(axis)
    return figure


def _law_line(
    axis: Any, label: str, line: dict[str, Any], limits: tuple[float, float], color: str
) -> None:
    """A law over tokens: dashed beyond its range, with its band where it has one."""
    d, value = np.asarray(line["d"]), np.asarray(line["value"])
    if line["low"] is not None:
        axis.fill_between(d, line["low"], line["high"], color=color, alpha=0.12, linewidth=0)
    inside = (d >= limits[0]) & (d <= limits[1])
    axis.plot(d, value, "--", color=color, linewidth=1)
    axis.plot(d[inside], value[inside], "-", color=color, linewidth=1.6, label=label or None)


def _staircase(axis: Any, line: dict[str, Any], total: float) -> None:
    """A law as a schedule of eight looks up to `total` tokens, as the page first shows."""
    looks = np.array([0.5, *range(1, 8)]) * total / 8
    batch = np.exp(np.interp(np.log(looks), np.log(line["d"]), np.log(line["value"])))
    edges = np.array([looks[0] / 2, *looks[1:], total])
    axis.stairs(batch, edges, color="#c2521c", linewidth=1.6, baseline=None, label="schedule")


def _grid(plt: Any, cell: dict[str, Any]) -> Any:
    figure, axis = plt.subplots(figsize=(5.8, 4.4), layout="constrained")
    loss = np.array(cell["loss"], dtype=float)
    excess = 100 * (loss / cell["best"]["loss"] - 1)
    lr, batch = np.asarray(cell["lr"]), np.asarray(cell["batch_tokens"])
    mesh = axis.pcolormesh(
        lr, batch, np.log1p(np.maximum(excess, 0) / 0.25), shading="nearest", cmap="viridis",
        vmax=np.log1p(40), rasterized=True,
    )  # fmt: skip
    masked = np.ma.masked_invalid(excess)
    if min(masked.shape) > 1:
        axis.contour(lr, batch, masked, [100 * c for c in CONTOURS], colors="w", linewidths=0.8)
    quadratic = cell["quadratic"]
    if quadratic and quadratic["convex"]:
        cloud = quadratic["cloud"]
        axis.plot(cloud["lr"], cloud["batch_tokens"], ".", color="#ff9e3d", markersize=1.5)
        axis.plot(
            quadratic["eta_opt"], quadratic["B_opt"], "D", color="#ff9e3d",
            markeredgecolor="black", label="quadratic's optimum",
        )  # fmt: skip
    best = cell["best"]
    axis.plot(best["lr"], best["batch_tokens"], "wo", markeredgecolor="black", label="best run")
    for number, law in enumerate(x for x in cell["laws"] if x["lr"] and x["batch_tokens"]):
        marker = ("s", "^", "v", "P", "X", "*")[number % 6]
        axis.plot(
            law["lr"], law["batch_tokens"], marker, color="#ff5d73", markeredgecolor="black",
            label=law["name"], clip_on=True,
        )  # fmt: skip
    axis.set(xscale="log", yscale="log", xlabel="peak learning rate", ylabel="batch (tokens)")
    axis.set_xlim(lr[0] / 1.2, lr[-1] * 1.2)
    axis.set_ylim(batch[0] / 1.3, batch[-1] * 1.3)
    _counts(axis.yaxis)
    axis.grid(False)
    axis.set_title(f"N {_short(cell['n_params'])}, D {_short(cell['tokens'])}", fontsize=9)
    bar = figure.colorbar(mesh, ax=axis, label="loss above the best run (%)")
    ticks = [0, 0.25, 0.5, 1, 2, 5, 10]
    bar.set_ticks(np.log1p(np.array(ticks) / 0.25), labels=[f"{t:g}" for t in ticks])
    axis.legend(fontsize=6, framealpha=0.85)
    return figure
