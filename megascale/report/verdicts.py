"""What the page opens with: what was found, in sentences."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from megascale.formats.law_band import law_band
from megascale.formats.law_file import LawFile
from megascale.units import short_count

if TYPE_CHECKING:
    from megascale.laws.findings import Findings

GROWING_SHOWN = 4


def verdicts(findings: Findings, law: LawFile | None) -> list[str]:
    """The answer to which batch is best, then to whether growing it helped.

    Args:
        findings: of `find_all`.
        law: B_opt(D) that was found; None where there is none.
    """
    said = []
    if law is not None and law.range.d is not None:
        said.append(_best_batch(law))
    elif findings.batches is not None:
        said.append(f"No law of the best batch: {findings.batches.study.open_law}.")
    growing = [] if findings.runs is None else findings.runs.growing
    said += [one.sentence for one in growing[:GROWING_SHOWN]]
    if len(growing) > GROWING_SHOWN:
        said.append(f"{len(growing) - GROWING_SHOWN:,} more runs change their batch.")
    return said


def _best_batch(law: LawFile) -> str:
    assert law.range.d is not None
    first, last = law.range.d
    n = 1.0 if law.range.n is None else math.sqrt(law.range.n[0] * law.range.n[1])
    shown = []
    confidence = law.confidence
    for tokens in (first, last):
        value, band = law.evaluate(n, tokens), law_band(law, n, tokens)
        between = ""
        if band is not None:
            between = f" [{short_count(round(band.low))}, {short_count(round(band.high))}]"
            confidence = band.confidence
        shown.append(
            f"{short_count(round(value))}{between} for {short_count(round(tokens))} tokens"
        )
    grows = ""
    exponent = law.parameters.get("b")
    if exponent is not None:
        limits = ""
        if exponent.low is not None and exponent.high is not None:
            limits = f" [{exponent.low:.2f}, {exponent.high:.2f}]"
        grows = f", growing as D^{exponent.value:.2f}{limits}"
    sure = "" if confidence is None else f"; {100 * confidence:.0f} % intervals"
    return f"At a constant learning rate the best batch is {shown[0]} and {shown[1]}{grows}{sure}."
