"""What Hugging Face's Trainer prints, and programs built on it: TRL, LLaMA-Factory, ms-swift, Unsloth.

`{'loss': 9.12, 'grad_norm': 1.2, 'learning_rate': 5e-05, 'epoch': 0.03}`: the mean since the line
before, with an epoch and without a step. The step follows from the progress bar that is drawn anew
after each of these lines, or from the logging interval and the epochs; where neither says it, the
rows have none. Since transformers 5 the values are texts of four significant digits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from megascale.runs.readers.base import (
    INTERVAL_MEAN,
    VALIDATION,
    FileRead,
    ReadOptions,
    Source,
    exact_int,
    real,
    rows_table,
)
from megascale.runs.readers.consoles import plain
from megascale.runs.readers.hf_steps import Entry, place
from megascale.runs.readers.opening import ends_torn
from megascale.runs.readers.stated import (
    BATCH_SAMPLES,
    N_PARAMS,
    STEPS,
    completed,
    statements,
)

NAME = "hf-stdout"
ORDERED = True

_ENTRY = re.compile(
    rb"\{'[^{}\n]*'(?:eval_(?:\w+_)?)?loss': '?[-+\w.]+'?[^{}\n]*\}"
    rb"|\{'train_runtime': [^{}\n]*\}"
)
_PAIR = re.compile(r"'([^']+)': (?:'([^']*)'|([^,}]+))")
_SNIFF = re.compile(
    rb"\{'[^{}\n]*'(?:eval_(?:\w+_)?)?loss': '?(?:\d|-?(?:nan|inf))[^{}\n]*'epoch': '?[\d.]+"
)
_TOKENS = ("num_input_tokens_seen", "num_tokens")
_ROUNDED = 1e4
"""From here on a text of four significant digits is no exact count."""
_STATES = {
    BATCH_SAMPLES: re.compile(
        rb"Total train batch size \(w\. [^)]*\) = ([\d,]+)|Total batch size \([^)]*\) = ([\d,]+)"
    ),
    STEPS: re.compile(rb"Total (?:optimization )?steps = ([\d,]+)"),
    N_PARAMS: re.compile(rb"\|\| all params: ([\d,]+)|Number of trainable parameters = ([\d,]+)"),
}


def sniff(head: bytes, path: str) -> bool:
    return _SNIFF.search(plain(head)) is not None


def read(source: Source, options: ReadOptions) -> FileRead:
    """Read the printed dictionaries, and place them at their steps."""
