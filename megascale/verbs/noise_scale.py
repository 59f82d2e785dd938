"""The gradient noise scale of a run in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megascale.units import short_count


def noise_scale_sentence(found: Mapping[str, Any]) -> str:
    """What a run's last noise scale says, in tokens and in sequences, with its interval.

    Args:
        found: keys of a metrics record, as `runs.readers.own.last_noise_scale` returns them.
    """
    scale, where = found.get("noise_scale"), short_count(found["tokens"])
    low, high = found.get("noise_scale_low"), found.get("noise_scale_high")
    count = found.get("noise_scale_measurements")
    if scale is None and low is None:
        return f"cannot tell at {where} tokens: the gradient's norm is lost in its noise"
    size = "-" if scale is None else f"{scale:,.0f}"
    if low is None:
        interval = f"no interval yet: {count} measurements"
    else:
        upper = "no upper limit" if high is None else f"{high:,.0f}"
        interval = f"95 % {low:,.0f} to {upper}; {count} measurements"
    sequences = found.get("noise_scale_sequences")
    inside = "" if sequences is None else f" = {sequences:,.1f} sequences"
    text = f"{size} tokens{inside} at {where} tokens ({interval})"
    for part in ("dense", "experts"):
        value = found.get(f"noise_scale_{part}")
        if value is not None:
            text += f", {part} {value:,.0f}"
    return text
