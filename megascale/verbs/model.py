"""`megascale model`: show shapes and counts, check hub folders, export checkpoints."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class WeightType(StrEnum):
    """Number formats weights are written in."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


@app.command(
    epilog="Example:  megascale model show configs/models/qwen3-30b-a3b.yaml --sequence-length 8192"
)
def show(
    preset: Annotated[
        Path, typer.Argument(help="A preset (YAML), a hub config.json or a folder with one.")
    ],
    sequence_length: Annotated[
        int,
        typer.Option(help="Tokens of a sequence, for the FLOPs of attention.", min=1, max=2**40),
    ] = 4096,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a model's shape, its parameters by component and its FLOPs per token."""
    from megascale.model.config import read_model_config
    from megascale.model.count import count_parameters
    from megascale.plan.flops import flops_per_token

    config = read_model_config(preset)
    count = count_parameters(config)
    flops = flops_per_token(config, sequence_length)
    if as_json:
        shown = {
            "config": config.model_dump(mode="json"),
            "config_digest": config.digest(),
            "parameters": count.to_dict(),
            "flops_per_token": {
                "sequence_length": sequence_length,
                "weights": flops.weights,
                "attention": flops.attention,
                "total": flops.total,
            },
        }
        typer.echo(json.dumps(shown, indent=2))
        return
    for key, value in config.model_dump(mode="json").items():
        typer.echo(f"{key:34} {value}")
    typer.echo()
    typer.echo(f"{'parameters':34} {'total':>19} {'active':>19}")
    for part in count.components:
        typer.echo(f"{part.name:34} {part.parameters:>19,} {part.active:>19,}")
    typer.echo(f"{'all':34} {count.total:>19,} {count.active:>19,}")
    rest = count.active_non_embedding
    typer.echo(f"{'non-embedding':34} {count.non_embedding:>19,} {rest:>19,}")
    typer.echo()
    typer.echo(f"FLOPs per trained token at {sequence_length} tokens: {flops.total:.4g}")


@app.command(epilog="Example:  megascale model check Qwen3-0.6B-Base --preset my-model.yaml")
def check(
    folder: Annotated[Path, typer.Argument(help="Hub folder: config.json and safetensors.")],
    preset: Annotated[
        Path | None, typer.Option(help="Also write its shape here, as a preset for configs.")
    ] = None,
) -> None:
    """Check that a hub folder is a model that can be imported: config, names and shapes."""
    import yaml

    from megascale.errors import ConfigError
    from megascale.extras import require_torch

    require_torch("model check")
    from megascale.model.count import count_parameters
    from megascale.model.hf import HubWeights

    with HubWeights(folder) as weights:
        config = weights.config
    if preset is not None:
        try:
            with preset.open("x") as file:
                yaml.safe_dump(config.model_dump(mode="json"), file, sort_keys=False)
        except OSError as failure:
            raise ConfigError.of("--preset", str(preset), str(failure.strerror)) from failure
    total = count_parameters(config).total
    typer.echo(f"{folder}: sound, {total:,} parameters, digest {config.digest()[:12]}")


@app.command(
    epilog="Example:  megascale model export runs/run/checkpoints/step-... -o my-model --dtype bf16"
)
def export(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint folder of a run.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Hub folder to make.")],
    dtype: Annotated[WeightType, typer.Option(help="Of the written weights.")] = WeightType.fp32,
    max_shard: Annotated[str, typer.Option(help="Largest file in bytes: 5B is 5 GB.")] = "5B",
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            help="tokenizer.json to put into the folder, so that transformers gives the same ids."
        ),
    ] = None,
    eos_id: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Id of the token that ends a document.",
            show_default="the tokenizer's usual one",
        ),
    ] = None,
) -> None:
    """Write a checkpoint as a hub folder that transformers loads as it is."""
    from megascale.extras import require_torch

    require_torch("model export")
    from megascale.train.export import export_checkpoint
    from megascale.units import parse_count

    export_checkpoint(
        checkpoint,
        output,
        dtype=dtype.value,
        max_shard_bytes=parse_count(max_shard, "--max-shard"),
        tokenizer=tokenizer,
        eos_token_id=eos_id,
    )
    typer.echo(f"{output}: written")
