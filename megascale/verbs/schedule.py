"""`megascale schedule`: lay a batch schedule out, and write it for a trainer."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from megascale.errors import ConfigError
from megascale.units import parse_count
from megascale.verbs import options as said
from megascale.verbs.old_spellings import Verb

if TYPE_CHECKING:
    from megascale.formats.law_file import LawFile
    from megascale.propose.replan import Standing
    from megascale.schedule.lr import LRSchedule
    from megascale.schedule.points import BatchPoint

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Trainer(StrEnum):
    """Programs a schedule is written for."""

    yaml = "yaml"
    megatron = "megatron"
    megatron_rampup = "megatron-rampup"
    torchtitan = "torchtitan"
    olmo_core = "olmo-core"
    hf = "hf"


class Rounding(StrEnum):
    """What happens to a batch that the layout cannot run."""

    nearest = "nearest"
    exact = "exact"


class Coupling(StrEnum):
    """How the learning rate follows the batch."""

    constant = "constant"
    sqrt = "sqrt"
    linear = "linear"


class Kind(StrEnum):
    """Learning-rate schedules that can be exported."""

    wsd = "wsd"
    cosine = "cosine"
    constant = "constant"


class Shape(StrEnum):
    """Shapes of the final decay."""

    linear = "linear"
    one_sqrt = "1-sqrt"
    cosine = "cosine"
    exponential = "exponential"


@app.command(
    cls=Verb,
    epilog="Example:  megascale schedule --table '0:2M,125B:4M,250B:5M,375B:6M' --tokens 500e9 "
    "--micro-batch 1 --seq-length 4096 --dp 128 --export megatron",
)
def schedule(
    law_file: said.OneLawFile = None,
    table: Annotated[
        str | None, typer.Option(help="Batches in tokens: '0:2M,125B:4M,250B:5M'.")
    ] = None,
    megatron_steps: Annotated[
        str | None,
        typer.Option(help="Megatron's --step-batch-size-schedule: tokens:samples."),
    ] = None,
    megatron_rampup: Annotated[
        str | None, typer.Option(help="Megatron's --rampup-batch-size: 'START INCREMENT SAMPLES'.")
    ] = None,
    global_batch_size: Annotated[
        int | None, typer.Option(help="Samples after the ramp (with --megatron-rampup).")
    ] = None,
    replan: Annotated[
        Path | None, typer.Option(help="Plan only what is left of this run, from its log.")
    ] = None,
    tokens: said.Tokens = None,
    interval: Annotated[
        str | None, typer.Option(help="Tokens between two looks at the law.")
    ] = None,
    momentum: Annotated[
        float, typer.Option(help="Share of the way to the law's batch moved at each look.")
    ] = 1.0,
    initial: Annotated[
        str | None, typer.Option(help="Batch (tokens) before the first look.")
    ] = None,
    min_batch: Annotated[str | None, typer.Option(help="Smallest batch (tokens).")] = None,
    max_batch: Annotated[str | None, typer.Option(help="Largest batch (tokens).")] = None,
    params: said.ParamsOfLaw = None,
    model: Annotated[Path | None, typer.Option(help="Preset whose count gives N.")] = None,
    seq_length: Annotated[
        int | None,
        typer.Option(min=1, max=2**40, help="Tokens of a sequence [4096, or the run's]."),
    ] = None,
    micro_batch: Annotated[
        int | None,
        typer.Option(min=1, max=2**40, help="Sequences of a micro-batch [1, or the run's]."),
    ] = None,
    dp: Annotated[
        int | None, typer.Option(min=1, max=2**40, help="Data-parallel degree [1, or the run's].")
    ] = None,
    batch_multiple: Annotated[
        int,
        typer.Option(min=1, max=2**40, help="Sequences that every batch must be a multiple of."),
    ] = 1,
    rounding: Annotated[
        Rounding | None,
        typer.Option(help="Illegal batches: nearest or refuse [exact for Megatron's grammars]."),
    ] = None,
    max_rounding: Annotated[float, typer.Option(help="Largest relative move under nearest.")] = 0.1,
    confidence: said.LawConfidence = None,
    fixed: Annotated[
        str | None, typer.Option(help="Compare steps with this fixed batch (tokens) too.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate, for the export.")] = None,
    lr_kind: Annotated[Kind, typer.Option(help="Learning-rate schedule.")] = Kind.wsd,
    warmup: Annotated[str, typer.Option(help="Tokens of warmup.")] = "0",
    decay: Annotated[str, typer.Option(help="Tokens of the final decay (wsd).")] = "0",
    decay_shape: Annotated[Shape, typer.Option(help="Its shape.")] = Shape.linear,
    final_ratio: Annotated[float, typer.Option(help="Last learning rate over the peak.")] = 0.1,
    lr_coupling: Annotated[
        Coupling, typer.Option(help="Factor on the learning rate as the batch grows.")
    ] = Coupling.constant,
    to: Annotated[
        Trainer | None, typer.Option("--export", help="Write it for this trainer.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File of the export, not the screen.")
    ] = None,
    as_json: said.AsJson = False,
) -> None:
    """Lay out a batch schedule: segments, rounding, steps, savings; export it.

    Every segment is checked against micro-batch x data-parallel degree before anything starts.
    """
    from megascale.propose.export import export
    from megascale.propose.export_megatron import check_divisible
    from megascale.propose.proposal import propose, standing_layout
    from megascale.propose.replan import standing

    at = None if replan is None else standing(replan)
    total = _total(tokens, at)
    if at is None:
        sequence, micro, ranks = seq_length or 4096, micro_batch or 1, dp or 1
    else:
        sequence, micro, ranks = standing_layout(
            at, sequence_length=seq_length, micro_batch=micro_batch, data_parallel=dp
        )
    sources = {
        "--law-file": law_file,
        "--table": table,
        "--megatron-steps": megatron_steps,
        "--megatron-rampup": megatron_rampup,
    }
    given = [name for name, value in sources.items() if value is not None]
    if len(given) != 1:
        rule = f"exactly one of {', '.join(sources)} says how large the batch is"
        raise ConfigError.of("schedule", " and ".join(given) or "(no source)", rule)
    request: dict[str, Any] = {}
    if law_file is None:
        if confidence is not None:
            raise ConfigError.of("--confidence", confidence, "is of a law's band; give --law-file")
        points, source = _points(
            table, megatron_steps, megatron_rampup, global_batch_size, sequence
        )
        request |= {"points": points, "source": source}
    else:
        request["law"] = replace(
            _law_request(
                law_file, params, model, interval, momentum, initial, min_batch, max_batch
            ),
            confidence=confidence,
            peak_lr=lr,
            lr_schedule=None if lr is None else lr_kind.value,
        )
    megatron = given[0].startswith("--megatron")
    chosen = rounding or (Rounding.exact if megatron else Rounding.nearest)
    if megatron and chosen == Rounding.exact:
        check_divisible(
            request["points"],
            sequence_length=sequence,
            samples=math.lcm(micro * ranks, batch_multiple),
            consumed_tokens=0 if at is None else at.tokens,
            key=given[0],
        )
    found = propose(
        total_tokens=total,
        sequence_length=sequence,
        micro_batch_size=micro,
        data_parallel=ranks,
        batch_multiple=batch_multiple,
        rounding=chosen.value,
        max_rounding=max_rounding,
        lr_coupling=lr_coupling.value,
        skip_passed=megatron,
        key=given[0],
        at=at,
        fixed_tokens=None if fixed is None else parse_count(fixed, "--fixed"),
        **request,
    )
    text = None
    if to is not None:
        text = export(
            found.schedule,
            to.value,
            lr=_learning_rate(lr, lr_kind, warmup, decay, decay_shape, final_ratio, total),
            lr_coupling=lr_coupling.value,
            past=() if at is None else at.history,
        )
    elif output is not None:
        raise ConfigError.of("--output", str(output), "says where an export goes; give --export")
    if as_json:
        typer.echo(_json(found.to_dict() | {"export": text}))
    elif text is None or output is not None:
        from megascale.verbs.schedule_tables import print_proposal
        from megascale.verbs.tables import wide_console

        print_proposal(found, wide_console())
    if text is not None and output is not None:
        _write(output, text)
    elif text is not None and not as_json:
        typer.echo(text, nl=False)


def _json(content: dict[str, Any]) -> str:
    """JSON with one segment a line."""
    whole = json.dumps(content | {"segments": []}, indent=2)
    lines = ",\n    ".join(json.dumps(segment) for segment in content["segments"])
    return whole.replace('"segments": []', f'"segments": [\n    {lines}\n  ]', 1)


def _total(tokens: str | None, at: Standing | None) -> int:
    if tokens is not None:
        return parse_count(tokens, "--tokens")
    if at is not None and at.total_tokens is not None:
        return at.total_tokens
    raise ConfigError.of("--tokens", None, "the run's budget must be given", "500B")


def _points(
    table: str | None,
    steps: str | None,
    rampup: str | None,
    global_batch: int | None,
    sequence_length: int,
) -> tuple[tuple[BatchPoint, ...], dict[str, Any]]:
    from megascale.schedule.megatron import parse_rampup, parse_step_schedule
    from megascale.schedule.points import parse_table

    if steps is not None:
        key = "--megatron-steps"
        points = parse_step_schedule(steps, sequence_length=sequence_length, key=key)
        return points, {"kind": "megatron_steps", "text": steps}
    if rampup is not None:
        if global_batch is None:
            raise ConfigError.of("--global-batch-size", None, "says where the ramp ends")
        points = parse_rampup(
            rampup, global_batch, sequence_length=sequence_length, key="--megatron-rampup"
        )
        source = {"kind": "megatron_rampup", "text": rampup, "global_batch_samples": global_batch}
        return points, source
    return parse_table(table, "--table"), {"kind": "schedule", "text": table}


def _law_request(
    path: Path,
    params: str | None,
    model: Path | None,
    interval: str | None,
    momentum: float,
    initial: str | None,
    min_batch: str | None,
    max_batch: str | None,
) -> Any:
    from megascale.formats.law_file import read_law_file
    from megascale.propose.proposal import LawRequest

    law = read_law_file(path)
    if interval is None:
        raise ConfigError.of(
            "--interval", "not given", "a law needs the tokens between two looks at it", "125B"
        )

    def count(value: str | None, key: str) -> int | None:
        return None if value is None else parse_count(value, key)

    return LawRequest(
        law=law,
        file=str(path),
        n_params=_n(law, params, model),
        interval_tokens=parse_count(interval, "--interval"),
        momentum=momentum,
        initial_tokens=count(initial, "--initial"),
        min_tokens=count(min_batch, "--min-batch"),
        max_tokens=count(max_batch, "--max-batch"),
    )


def _n(law: LawFile, params: str | None, model: Path | None) -> float:
    from megascale.model.config import read_model_config
    from megascale.model.count import count_parameters

    if params is not None and model is not None:
        raise ConfigError.of("--params, --model", "both", "either of them gives N")
    if params is not None:
        return parse_count(params, "--params")
    if model is not None:
        return float(getattr(count_parameters(read_model_config(model)), law.n_kind))
    if law.looks_at_n:
        kind = law.n_kind.replace("_", " ")
        raise ConfigError.of("--params", None, f"law {law.name} needs N ({kind} parameters)", "4B")
    return 1.0


def _learning_rate(
    peak: float | None,
    kind: Kind,
    warmup: str,
    decay: str,
    shape: Shape,
    final_ratio: float,
    total: int,
) -> LRSchedule | None:
    from pydantic import ValidationError

    from megascale.config.messages import error_line
    from megascale.config.rates import build_lr_schedule
    from megascale.config.schedule_sections import LRConfig

    if peak is None:
        if warmup != "0" or decay != "0":
            raise ConfigError.of("--lr", None, "warmup and decay need a peak learning rate", 3e-4)
        return None
    content = {
        "kind": kind.value,
        "peak": peak,
        "warmup_tokens": warmup,
        "decay_tokens": decay,
        "decay_shape": shape.value,
        "final_ratio": final_ratio,
    }
    try:
        section = LRConfig.model_validate(content)
    except ValidationError as error:
        lines = [error_line(item, LRConfig) for item in error.errors(include_url=False)]
        raise ConfigError("learning rate: " + "; ".join(lines)) from None
    return build_lr_schedule(section, total)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as failure:
        raise ConfigError.of("--output", str(path), str(failure.strerror)) from failure
    typer.echo(f"{path}: written")
