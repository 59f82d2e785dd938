"""`megascale schedule`: lay a batch schedule out, and write it for a trainer."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from megascale.errors import ConfigError
from megascale.shipped import locate
from megascale.units import parse_count
from megascale.verbs import options as said
from megascale.verbs import schedule_options as own
from megascale.verbs.old_spellings import Verb
from megascale.verbs.schedule_options import BatchRounding, RateCoupling, RateKind
from megascale.verbs.schedule_output import segments_json, write_export

if TYPE_CHECKING:
    from megascale.propose.plan_check import JudgedPlan
    from megascale.propose.proposal import Proposal

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(
    cls=Verb,
    epilog="Example:  megascale schedule --table '0:2M,125B:4M,250B:5M,375B:6M' --tokens 500e9 "
    "--micro-batch 1 --seq-length 4096 --dp 128 --export megatron",
)
def schedule(
    law_file: said.OneLawFile = None,
    table: own.Table = None,
    megatron_steps: own.MegatronSteps = None,
    megatron_rampup: own.MegatronRampup = None,
    global_batch_size: own.GlobalBatchSize = None,
    rule: own.Rule = None,
    switch_at: own.SwitchAt = None,
    replan: own.Replan = None,
    tokens: said.Tokens = None,
    interval: own.Interval = None,
    momentum: own.Momentum = 1.0,
    initial: own.Initial = None,
    min_batch: own.MinBatch = None,
    max_batch: own.MaxBatch = None,
    params: said.ParamsOfLaw = None,
    model: own.Model = None,
    seq_length: own.SeqLengthOfPlan = None,
    micro_batch: own.MicroBatch = None,
    dp: own.Dp = None,
    batch_multiple: own.BatchMultiple = 1,
    rounding: own.RoundingOf = None,
    max_rounding: own.MaxRounding = None,
    confidence: said.LawConfidence = None,
    fixed: own.FixedBatchOf = None,
    lr: own.PeakLr = None,
    lr_kind: own.LrKind = RateKind.wsd,
    warmup: own.Warmup = None,
    decay: own.Decay = None,
    decay_shape: own.ShapeOfDecay = None,
    final_ratio: own.FinalRatio = None,
    lr_coupling: own.LrCoupling = RateCoupling.constant,
    optimize: own.Optimize = None,
    runs: own.PlanRuns = None,
    weight_decay: said.WeightDecayOf = None,
    max_changes: own.MaxChanges = 3,
    min_gap: own.MinGap = None,
    shrink: own.Shrink = False,
    step_seconds: own.StepSeconds = None,
    price: own.Price = None,
    no_worse: own.NoWorse = 0.0,
    beyond_data: own.BeyondData = False,
    plot: own.Plot = None,
    to: own.To = None,
    output: own.Output = None,
    as_json: said.AsJson = False,
) -> None:
    """Lay out a batch schedule: segments, rounding, steps, savings; export it.

    Every segment is checked against micro-batch x data-parallel degree before anything starts.
    """
    from megascale.formats.schedule_law_file import is_schedule_law
    from megascale.propose.export_megatron import check_divisible
    from megascale.propose.proposal import propose, standing_layout
    from megascale.propose.replan import standing
    from megascale.verbs import schedule_inputs as inputs
    from megascale.verbs.schedule_optimize import judge_given, plan_best
    from megascale.verbs.schedule_request import LawSources, PlanRequest

    at = None if replan is None else standing(replan)
    total = inputs.total_tokens(tokens, at)
    if at is None:
        sequence, micro, ranks = seq_length or 4096, micro_batch or 1, dp or 1
    else:
        sequence, micro, ranks = standing_layout(
            at, sequence_length=seq_length, micro_batch=micro_batch, data_parallel=dp
        )
    whole = law_file is not None and (
        optimize is not None or is_schedule_law(locate(law_file, "laws"))
    )
    law_of = LawSources(law_file if whole else None, runs or ())
    if law_of.file is not None and law_of.runs:
        rule_of = "a law of whole schedules is read or fitted: give one of --law-file and --runs"
        raise ConfigError.of("--runs", law_of.runs[0], rule_of)
    law_file = None if whole else law_file
    asked = PlanRequest(
        objective="tokens" if optimize is None else optimize.value,
        total=total,
        sequence=sequence,
        micro=micro,
        ranks=ranks,
        multiple=batch_multiple,
        min_batch=min_batch,
        max_batch=max_batch,
        lr=lr,
        lr_kind=lr_kind.value,
        warmup=warmup,
        decay=decay,
        decay_shape=None if decay_shape is None else decay_shape.value,
        final_ratio=final_ratio,
        coupling=lr_coupling.value,
        weight_decay=weight_decay,
        max_changes=max_changes,
        min_gap=min_gap,
        shrink=shrink,
        step_seconds=step_seconds,
        price=price,
        no_worse=no_worse,
        beyond_data=beyond_data,
        confidence=confidence,
        at=at,
    )
    if optimize is not None:
        sources: dict[str, object] = {
            "--table": table,
            "--megatron-steps": megatron_steps,
            "--megatron-rampup": megatron_rampup,
            "--rule": rule,
            "--interval": interval,
            "--initial": initial,
            "--fixed": fixed,
        }
        refuse_beside("--optimize", sources)
        trainer = None if to is None else to.value
        plan_best(law_of, asked, to=trainer, output=output, plot=plot, as_json=as_json)
        return
    planning: dict[str, object] = {
        "--min-gap": min_gap,
        "--step-seconds": step_seconds,
        "--price": price,
        "--plot": plot,
        "--shrink": shrink or None,
        "--no-worse": no_worse or None,
    }
    judges = law_of.file is not None or bool(law_of.runs)
    if not judges:
        planning |= {
            "--weight-decay": weight_decay,
            "--beyond-data": beyond_data or None,
        }
    elif replan is not None:
        rule_of = "a running run's rest is judged with --optimize alone"
        raise ConfigError.of("--replan", str(replan), rule_of)
    refuse_beside("a schedule that is not planned; give --optimize", planning)
    unit = math.lcm(micro * ranks, batch_multiple) * sequence
    sources = {
        "--law-file": law_file,
        "--table": table,
        "--megatron-steps": megatron_steps,
        "--megatron-rampup": megatron_rampup,
        "--rule": rule,
    }
    given = [name for name, value in sources.items() if value is not None]
    if len(given) != 1:
        what = f"exactly one of {', '.join(sources)} says how large the batch is"
        raise ConfigError.of("schedule", " and ".join(given) or "(no source)", what)
    if confidence is not None and law_file is None and not judges:
        rule_of = "is of a law's band; give --law-file, or --runs"
        raise ConfigError.of("--confidence", confidence, rule_of)
    shape = decay_shape or own.DecayShape.linear
    peak, final = inputs.one_number(lr, "--lr"), inputs.one_number(final_ratio, "--final-ratio")
    request: dict[str, Any] = {}
    if law_file is not None:
        request["law"] = replace(
            inputs.law_request(
                *(law_file, params, model, interval, momentum, initial, min_batch, max_batch),
                total=total,
            ),
            confidence=confidence,
            peak_lr=peak,
            lr_schedule=None if peak is None else lr_kind.value,
        )
    elif rule is not None:
        points, source = inputs.points_of_rule(
            rule.value,
            initial=initial,
            max_batch=max_batch,
            switch_at=switch_at,
            total=total,
            decay_tokens=parse_count(decay or "0", "--decay"),
            unit_tokens=unit,
        )
        request |= {"points": points, "source": source}
    else:
        points, source = inputs.points_of_text(
            table, megatron_steps, megatron_rampup, global_batch_size, sequence
        )
        request |= {"points": points, "source": source}
    megatron = given[0].startswith("--megatron")
    chosen = rounding or (BatchRounding.exact if megatron else BatchRounding.nearest)
    if megatron and chosen == BatchRounding.exact:
        check_divisible(
            request["points"],
            sequence_length=sequence,
            samples=unit // sequence,
            consumed_tokens=0 if at is None else at.tokens,
            key=given[0],
        )
    loose = law_file is not None or rule is not None
    found = propose(
        total_tokens=total,
        sequence_length=sequence,
        micro_batch_size=micro,
        data_parallel=ranks,
        batch_multiple=batch_multiple,
        rounding=chosen.value,
        max_rounding=(1.0 if loose else 0.1) if max_rounding is None else max_rounding,
        lr_coupling=lr_coupling.value,
        skip_passed=megatron,
        key=given[0],
        at=at,
        fixed_tokens=None if fixed is None else parse_count(fixed, "--fixed"),
        **request,
    )
    text = None
    if to is not None:
        from megascale.propose.export import export

        text = export(
            found.schedule,
            to.value,
            lr=inputs.learning_rate(
                *(peak, lr_kind.value, warmup, decay, shape.value, final), total=total
            ),
            lr_coupling=lr_coupling.value,
            past=() if at is None else at.history,
        )
    judged = judge_given(law_of, asked, found.schedule, quiet=as_json) if judges else None
    _show(found, judged, text, output, as_json)


def refuse_beside(what: str, given: dict[str, object]) -> None:
    """Refuse options that would be ignored.

    Args:
        what: what they do not go with.
        given: values by option; None where it is not given.

    Raises:
        ConfigError: naming the first that is given.
    """
    for name, value in given.items():
        if value is not None:
            raise ConfigError.of(name, str(value), f"has no meaning with {what}")


def _show(
    found: Proposal,
    judged: JudgedPlan | None,
    text: str | None,
    output: Path | None,
    as_json: bool,
) -> None:
    if text is None and output is not None:
        raise ConfigError.of("--output", str(output), "says where an export goes; give --export")
    if as_json:
        more = {} if judged is None else {"against_fixed": judged.to_dict()}
        typer.echo(segments_json(found.to_dict() | more | {"export": text}))
    elif text is None or output is not None:
        from megascale.verbs.schedule_tables import print_proposal
        from megascale.verbs.tables import wide_console

        for sentence in () if judged is None else judged.sentences:
            wide_console().print(sentence, highlight=False)
        print_proposal(found, wide_console())
    if text is not None and output is not None:
        write_export(output, text)
    elif text is not None and not as_json:
        typer.echo(text, nl=False)
