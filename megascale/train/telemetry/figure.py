"""One figure of one run: loss, batch size and learning rate against consumed tokens."""

from __future__ import annotations

from pathlib import Path

from megascale.formats.run_log import RunData


def draw_run(run: RunData, path: str | Path) -> Path:
    """Write a PNG or SVG (by `path`'s suffix) of a run's log.

    Three panels share the token axis: interval-mean training loss with validation loss where
    there is any, realised global batch as a staircase, learning rate. Vertical lines mark data
    phases; crosses mark skipped steps.

    Args:
        run: what `read_run` returned, with at least one record.
        path: file to write; its folder must exist.

    Returns:
        The path written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import EngFormatter

    figure, (loss_axis, batch_axis, lr_axis) = plt.subplots(
        3, 1, sharex=True, figsize=(8, 7), height_ratios=[3, 1, 1], layout="constrained"
    )
    shown = [record for record in run.records if record.get("loss") is not None]
    loss_axis.plot(
        [record["tokens"] for record in shown],
        [record["loss"] for record in shown],
        color="#2a5d9f",
        linewidth=1.2,
        label="training (interval mean)",
    )
    evaluations = [event for event in run.events if event.get("kind") == "evaluation"]
    if evaluations:
        loss_axis.plot(
            [event["tokens"] for event in evaluations],
            [event["loss"] for event in evaluations],
            color="#c8553d",
            marker="o",
            markersize=3,
            linewidth=1,
            label="validation",
        )
    loss_axis.set_ylabel("loss (nats per token)")
    loss_axis.set_title(run.header.get("name") or run.path.name)

    # A record's batch held on the tokens before it: draw it up to its own token count.
    tokens = [0, *(record["tokens"] for record in run.records)]
    batches = [record["batch_tokens"] for record in run.records]
    batch_axis.step(tokens, [batches[0], *batches], where="pre", color="#3d7a4f")
    batch_axis.set_ylabel("batch (tokens)")
    batch_axis.set_ylim(bottom=0)
    batch_axis.yaxis.set_major_formatter(EngFormatter())

    lr_axis.plot(
        [record["tokens"] for record in run.records],
        [record["lr"] for record in run.records],
        color="#7a4f9f",
    )
    lr_axis.set_ylabel("learning rate")
    lr_axis.set_ylim(bottom=0)
    lr_axis.set_xlabel("consumed tokens")
    lr_axis.xaxis.set_major_formatter(EngFormatter())

    for event in run.events:
        if event.get("kind") == "phase_change":
            for axis in (loss_axis, batch_axis, lr_axis):
                axis.axvline(event["tokens"], color="grey", linestyle=":", linewidth=0.8)
        elif event.get("kind") in ("skip", "spike"):
            loss_axis.plot(event["tokens"], loss_axis.get_ylim()[1], "x", color="red")
    for axis in (loss_axis, batch_axis, lr_axis):
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    loss_axis.legend(frameon=False)
    path = Path(path)
    figure.savefig(path, dpi=140)
    plt.close(figure)
    return path
