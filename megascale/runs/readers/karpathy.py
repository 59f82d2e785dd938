"""Consoles of nanoGPT, build-nanogpt and llm.c. Their loss is that of the shown step.

nanoGPT and build-nanogpt number steps from 0 and validate before the step of that number; llm.c
prints steps from 1, its validation loss before the next of them. nanoGPT's training loss is that of
one rank's last micro-batch.
"""

from __future__ import annotations

import re

from megascale.runs.readers.launches import BATCH_TOKENS, N_PARAMS, SEQ_LENGTH, STEPS
from megascale.runs.readers.line_format import LineFormat

_NUMBER = r"[^\s,|]+"

NANOGPT_TRAIN = LineFormat(
    NAME="nanogpt-train",
    sign=re.compile(
        rb"^(?:.*[\]:] )?(?:iter \d+: loss [\d.]+, time [\d.]+ms"
        rb"|step \d+: train loss [\d.]+, val loss [\d.]+)",
        re.MULTILINE,
    ),
    literal=b" loss ",
    record=re.compile(
        rf"\biter (?P<step>\d+): loss (?P<loss>{_NUMBER})(?:, time (?P<ms>[\d.]+)ms)?"
        rf"|\bstep (?P<at>\d+): train loss {_NUMBER}, val loss (?P<val>{_NUMBER})"
    ),
    first=0,
    states=((BATCH_TOKENS, re.compile(rb"tokens per iteration will be: ([\d,]+)")),),
)
"""nanoGPT's `train.py`: `iter 10: loss 9.2, time 100.0ms` and `step 10: train loss 9.2, val loss
9.3`. Its parameters are printed in millions, too coarse to be taken."""

BUILD_NANOGPT = LineFormat(
    NAME="build-nanogpt",
    sign=re.compile(
        rb"^(?:.*[\]:] )?step +\d+ \| loss: [\d.]+ \| |^\d+ (?:train|val) \d+\.\d+\r?$",
        re.MULTILINE,
    ),
    literal=b" ",
    record=re.compile(
        rf"(?:\bstep +|^)(?P<step>\d+) (?:\| loss:|train) (?P<loss>{_NUMBER})"
        rf"(?: \| lr:? (?P<lr>{_NUMBER}))?(?: \| norm: (?P<norm>{_NUMBER}))?"
        rf"(?: \| dt: (?P<ms>[\d.]+)ms)?"
        rf"|(?:^(?P<at>\d+) val|\bvalidation loss:) (?P<val>{_NUMBER})"
    ),
    first=0,
    states=((BATCH_TOKENS, re.compile(rb"total desired batch size: ?([\d,]+)")),),
)
"""build-nanogpt's console, and its `log.txt`: `250 train 6.1` and `250 val 6.2`."""

LLMC = LineFormat(
    NAME="llmc",
    sign=re.compile(rb"^(?:.*[\]:] )?step +\d+/\d+ \| (?:train )?loss [\d.]+ ", re.MULTILINE),
    literal=b"loss ",
    record=re.compile(
        rf"\bstep +(?P<step>\d+)/(?P<total>\d+) \| (?:train )?loss (?P<loss>{_NUMBER})"
        rf"(?:[^|]*\| norm (?P<norm>{_NUMBER}))?(?:[^|]*\| lr (?P<lr>{_NUMBER}))?"
        rf"(?: \| \(?(?P<ms>[\d.]+) ms)?"
        rf"|^val loss (?P<val>{_NUMBER})"
    ),
    states=(
        (BATCH_TOKENS, re.compile(rb"total_batch_size=(\d+)")),
        (BATCH_TOKENS, re.compile(rb"total desired batch size: (\d+)")),
        (BATCH_TOKENS, re.compile(rb"\| total batch size +\| (\d+)")),
        (SEQ_LENGTH, re.compile(rb"seq_len T=(\d+)")),
        (SEQ_LENGTH, re.compile(rb"\| sequence length T +\| (\d+)")),
        (N_PARAMS, re.compile(rb"num_parameters: (\d+)")),
        (N_PARAMS, re.compile(rb"\| num_parameters +\| (\d+)")),
        (STEPS, re.compile(rb"\| train_num_batches +\| (\d+)")),
    ),
)
"""llm.c's console, of its CUDA and its Python program."""

FORMATS = (NANOGPT_TRAIN, BUILD_NANOGPT, LLMC)
