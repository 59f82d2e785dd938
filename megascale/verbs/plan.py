"""`megascale plan`: what a config needs on a cluster that is not here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from megascale.verbs import options as said

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(
    epilog="Example:  megascale plan run.yaml --nodes 128 --gpus-per-node 8 --gpu h100 "
    "parallel.tensor=8"
)
def plan(
    config: Annotated[Path, typer.Argument(help="YAML config of the run.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Dotted overrides, KEY=VALUE.", show_default=False)
    ] = None,
    nodes: Annotated[int, typer.Option(min=1, help="Nodes of the cluster.")] = 1,
    gpus_per_node: Annotated[int, typer.Option(min=1, help="Cards of a node: ranks.")] = 8,
    gpu: Annotated[str, typer.Option(help="Card: a100, h100, h200 or b200.")] = "h100",
    mfu: Annotated[
        str, typer.Option(help="Model FLOPs utilisation assumed, LOW:HIGH, fractions of peak.")
    ] = "0.3:0.5",
    network_gbytes: Annotated[
        float,
        typer.Option(
            help="GB a second of a card to other nodes, one direction; 50 is a port of 400 Gb/s."
        ),
    ] = 50.0,
    storage_gbytes: Annotated[
        float, typer.Option(help="GB a second of the whole cluster into checkpoints.")
    ] = 10.0,
    law_files: said.LawFiles = None,
    as_json: said.AsJson = False,
) -> None:
    """Memory, traffic and time of a run on a cluster, without it.

    The trainer's own model and parallel plan take a step on tensors without memory, in a world
    of fake ranks; time is a range from assumptions, which are printed.
    """
    from megascale.config import load_config
    from megascale.plan.cards import card_named
    from megascale.plan.clock import ClockAssumptions
    from megascale.train.cluster_plan import plan_cluster

    card = card_named(gpu)
    cfg = load_config(config, overrides or [])
    low, high = _utilisation(mfu)
    clock = ClockAssumptions(
        card.peak(cfg.train.precision),
        low,
        high,
        card.node_bandwidth,
        network_gbytes * 1e9,
        storage_gbytes * 1e9,
    )
    typer.echo(f"rehearsing a step of {nodes * gpus_per_node} ranks", err=True)
    made = plan_cluster(
        cfg,
        nodes=nodes,
        per_node=gpus_per_node,
        card=card,
        clock=clock,
        law_files=law_files or [],
    )
    if as_json:
        typer.echo(json.dumps(made.to_dict(), indent=2))
        return
    from megascale.verbs.plan_tables import print_plan

    print_plan(made)


def _utilisation(text: str) -> tuple[float, float]:
    from megascale.errors import ConfigError

    low, _, high = text.partition(":")
    try:
        return float(low), float(high or low)
    except ValueError:
        rule = "is one fraction, or LOW:HIGH"
        raise ConfigError.of("--mfu", text, rule, "0.3:0.5") from None
