"""fairseq's and metaseq's JSON lines. Losses are printed in bits; here they are in nats.

A training line has means since the line before: `wpb`, tokens a step, and `bsz` among them, so
consumed tokens do not follow exactly, and the batch is to be stated. Of a mixture of experts the
inner loss is taken, without that of the routing; where labels are smoothed, the one without.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator

from megascale.runs.readers.base import (
    INTERVAL_MEAN,
    VALIDATION,
    Clock,
    FileRead,
    ReadOptions,
    Source,
    exact_int,
    real,
)
from megascale.runs.readers.consoles import Row, scan, without_colours
from megascale.runs.readers.documents import mapping
from megascale.runs.readers.launches import N_PARAMS
from megascale.runs.readers.stated import described

NAME = "fairseq"
ORDERED = True

_LINE = re.compile(r"\| (?:train_inner|valid\S*) \| (?P<json>\{.*)")
_SNIFF = re.compile(rb"\| train_inner \| \{\"epoch\": ")
_LOSSES = ("inner_loss", "nll_loss", "loss")
_PARAMETERS = re.compile(rb"num\. (?:shared )?model params: ([\d,]+)")


def sniff(head: bytes, path: str) -> bool:
    return _SNIFF.search(without_colours(head)) is not None


def read(source: Source, options: ReadOptions) -> FileRead:
    """Read the `train_inner` and `valid` lines."""
    found = FileRead(source.path, NAME)
    clock = Clock(None)

    def rows(match: re.Match[str]) -> Iterator[Row]:
        try:
            stats = mapping(json.loads(match["json"]))
        except (ValueError, RecursionError):
            yield {"step": None}
            return
        sets = {key.removesuffix("_num_updates") for key in stats if key.endswith("_num_updates")}
        for prefix in ["", *(f"{name}_" for name in sorted(sets))]:
            name = next((prefix + key for key in _LOSSES if prefix + key in stats), None)
            if name is None:
                continue
            bits = real(stats[name])
            kind = VALIDATION if prefix in ("valid_",) else f"{VALIDATION}:{prefix[:-1]}"
            row: Row = {
                "step": exact_int(stats.get(f"{prefix}num_updates")),
                "loss": stats[name] if bits is None else bits * math.log(2),
                "loss_kind": kind if prefix else INTERVAL_MEAN,
            }
            if not prefix:
                row["lr"] = real(stats.get("lr"))
                row["grad_norm"] = real(stats.get("gnorm"))
                row["seconds"] = clock.since("train", real(stats.get("wall")))
            yield row

    launches = scan(source, found, b" | {", _LINE, rows, ((N_PARAMS, _PARAMETERS),))
    if options.batch_tokens is None and options.batch_samples is None:
        found.note("missing_field", "wpb and bsz are means, so no tokens: state the batch")
    found.runs = described(found, launches)
    return found
