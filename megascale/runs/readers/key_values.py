"""Consoles that print the fields of a step as names and values in one line."""

from __future__ import annotations

import re

import polars as pl

from megascale.runs.readers.base import INTERVAL_MEAN, VALIDATION, FileRead
from megascale.runs.readers.launches import BATCH_SAMPLES, N_PARAMS, STEPS
from megascale.runs.readers.line_format import OF_INTERVAL, PER_STEP, LineFormat

TORCHTUNE = LineFormat(
    NAME="torchtune",
    sign=re.compile(rb"^Step \d+ \| (?:loss|val_loss):\S+(?: |\r?$)", re.MULTILINE),
    literal=b"loss:",
    record=re.compile(
        r"^Step (?:(?P<step>\d+) \| loss:(?P<loss>\S+)(?: |\r?$)(?:lr:(?P<lr>\S+) )?"
        r"(?:.*?\bgrad_norm:(?P<norm>\S+)(?: |\r?$))?"
        r"|(?P<at>\d+) \| val_loss:(?P<val>\S+)(?: |\r?$))"
    ),
)
"""torchtune's disk and stdout loggers: `Step 10 | loss:2.5 lr:2e-05 grad_norm:1.2`. The loss is the
mean over the step's tokens, of all ranks."""

PADDLENLP = LineFormat(
    NAME="paddlenlp",
    sign=re.compile(rb"\] - loss: [^\s,]+, learning_rate: [^\s,]+, [^\n]*?\bglobal_step: \d+"),
    literal=b"loss: ",
    record=re.compile(
        r"\] - (?:loss: (?P<loss>[^\s,]+), learning_rate: (?P<lr>[^\s,]+), .*?"
        r"\bglobal_step: (?P<step>\d+),(?=(?:.*?\b(?:global|grad)_norm: (?P<norm>[^\s,]+))?)"
        r"(?=(?:.*?\binterval_runtime: (?P<seconds>[\d.]+))?)"
        r"|eval_loss: (?P<val>[^\s,]+),)(?:.*(?:progress_or_|\b)epoch: (?P<when>[\d.]+))?.*"
    ),
    loss_kind=INTERVAL_MEAN,
    duration=OF_INTERVAL,
    states=(
        (BATCH_SAMPLES, re.compile(rb"Total train batch size \(w\. [^)]*\) = ([\d,]+)")),
        (STEPS, re.compile(rb"Total optimization steps = ([\d,]+)(?:\.0)?\b")),
        (N_PARAMS, re.compile(rb"Number of trainable parameters = ([\d,]++)(?! *\(per device\))")),
    ),
)
"""PaddleNLP's trainer. The loss is the mean since the line before; an evaluation counts where it
shows the epoch of the training line before it."""


def _batches(found: FileRead) -> None:
    """The global batch of each step: what it consumed beyond the step before."""
    consumed: dict[int, int | None] = {0: 0}
    batches: list[int | None] = []
    for step, tokens, loss_kind in found.table.select("step", "tokens", "loss_kind").rows():
        before = consumed.get(step - 1)
        batch = None
        if not loss_kind.startswith(VALIDATION):
            consumed[step] = tokens
            batch = tokens - before if tokens is not None and before is not None else None
        batches.append(batch if batch is None or batch > 0 else None)
    found.table = found.table.with_columns(batch_tokens=pl.Series(batches, dtype=pl.Int64))


INTERNEVO = LineFormat(
    NAME="internevo",
    sign=re.compile(rb"\btflops=\S+ step=\d+ loss=\S+ [^\n]*?num_consumed_tokens=\d+"),
    literal=b"step=",
    record=re.compile(
        r"\bstep=(?:(?P<step>\d+) loss=(?P<loss>\S+) .*?(?:\blr=(?P<lr>\S+) .*?)?"
        r"(?:grad_norm=\{'[^']*': (?P<norm>[\d.e+-]+)(?:, '1_fp32': 0\.0)?\} .*?)?"
        r"num_consumed_tokens=(?P<tokens>\d+)(?: |\r?$)"
        r"|(?P<at>\d+) val/(?P<set>\S+)_loss=(?P<val>\S+) )"
    ),
    first=0,
    refine=_batches,
)
"""InternEvo and InternLM's trainer. The loss is that of the step, without that of the routing;
steps are numbered from 0, those of validations count finished steps."""

MINDFORMERS = LineFormat(
    NAME="mindformers",
    sign=re.compile(rb"step: ?\[ *\d+/ *\d+\], loss:[^\n]*?, per_step_time: *\d+ms,"),
    literal=b"per_step_time:",
    record=re.compile(
        r"(?:Epoch: ?\[ *(?P<epoch>\d+)/ *\d+\], )?"
        r"step: ?\[ *(?P<step>\d+)/ *(?P<epoch_steps>\d+)\], "
        r"loss: ?\[? *(?P<loss>[^\s,/\]]+)(?:/[^\s,]*)?, .*?per_step_time: *(?P<ms>\d+)ms,"
        r"(?:.*?\blr: *(?P<lr>[^\s,]+),)?"
        r"(?:.*?\b(?:grad|global)_norm: *\[?(?P<norm>[\d.e+-]+)\]?(?:[, }]|\r?$))?"
    ),
    duration=PER_STEP,
)
"""MindFormers on MindSpore: `{ Epoch:[  1/  1], step:[    2/ 1000], loss: 10.631, per_step_time:
1254ms, lr: 2.5e-07, ...`, with the loss of that step first where a mean is shown after it."""

DEEPSPEED = LineFormat(
    NAME="deepspeed",
    sign=re.compile(rb"\bsteps: \d+ loss: \S+ [^\n]*?iter time \(s\): "),
    literal=b"iter time (s): ",
    record=re.compile(
        r"\bsteps: (?P<step>\d+) loss: (?P<loss>\S+) .*?iter time \(s\): (?P<seconds>[\d.]+) "
    ),
    duration=PER_STEP,
    states=((BATCH_SAMPLES, re.compile(rb"train_batch_size \.{3,} (\d+)")),),
)
"""DeepSpeed's pipeline engine: `steps: 10 loss: 9.8123 iter time (s): 1.201 samples/sec: 213.1`."""

FORMATS = (TORCHTUNE, PADDLENLP, INTERNEVO, MINDFORMERS, DEEPSPEED)
