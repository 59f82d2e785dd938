"""What a run under way may still choose: its batches and its decay from the present token on."""

from __future__ import annotations

import math
from dataclasses import replace

from megascale.errors import ConfigError
from megascale.propose.replan import Standing
from megascale.propose.schedule_plan import SchedulePlan
from megascale.schedule.lr import LRSchedule
from megascale.schedule.points import parse_table
from megascale.units import parse_count

KEY = "--then"
NEAREST = "'keep', '0:512, 200K:1Ki' or '512; decay 200K; final 0.1'"


def choice_of(text: str, at: Standing, plan: SchedulePlan) -> SchedulePlan:
    """A run's whole schedule if it goes on as a text says.

    Args:
        text: `keep` for the batch that runs now, one batch, or a table of batches by tokens
            consumed from now on; after it, with semicolons, `decay D` for a final decay over D
            tokens and `final R` for its last learning rate over the peak.
        at: where the run stands.
        plan: the run as it is configured.

    Raises:
        ConfigError: not this grammar, a batch or a decay that does not fit into what is left, or
            a learning rate that has begun to fall.
    """
    batches, *rest = [part.strip() for part in text.split(";")]
    past = [(point.start_tokens, point.batch_tokens) for point in at.history]
    past = [one for one in past if one[0] < max(at.tokens, 1)]
    left = plan.total_tokens - at.tokens
    ahead = _ahead(batches, past[-1][1], left, text)
    whole = list(past)
    for start, size in ahead:
        if size != whole[-1][1]:
            whole.append((at.tokens + start, size))
    return replace(plan, batches=tuple(whole), lr=_rate(rest, plan, at.tokens, text))


def _ahead(batches: str, now: int, left: int, text: str) -> list[tuple[int, int]]:
    """(tokens from now on, batch) of what comes."""
    if batches == "keep":
        return [(0, now)]
    table = batches if ":" in batches else f"0:{batches}"
    points = [(point.start_tokens, point.batch_tokens) for point in parse_table(table, KEY)]
    if points[0][0] != 0:
        points.insert(0, (0, now))
    if points[-1][0] >= left:
        raise ConfigError.of(KEY, text, f"goes beyond the {left:,} tokens that are left", NEAREST)
    return points


def _rate(rest: list[str], plan: SchedulePlan, now: int, text: str) -> LRSchedule:
    """The learning rate with the decay that is asked for."""
    lr = plan.lr
    asked: dict[str, float] = {}
    for part in rest:
        word, _, value = part.partition(" ")
        if word == "decay":
            asked[word] = parse_count(value, KEY)
        elif word == "final":
            try:
                asked[word] = float(value)
            except ValueError:
                asked[word] = math.nan
        else:
            raise ConfigError.of(KEY, text, f"{part!r} is none of decay D and final R", NEAREST)
    if not asked:
        return lr
    if lr.kind not in ("wsd", "constant") or (lr.decay_tokens and now > lr.decay_start_tokens):
        rule = "a decay is chosen while the learning rate is constant (kind wsd or constant)"
        raise ConfigError.of(KEY, text, rule, "keep")
    decay = round(asked.get("decay", lr.decay_tokens))
    room = plan.total_tokens - max(now, lr.warmup_tokens)
    if not 0 < decay <= room:
        raise ConfigError.of(KEY, text, f"a decay takes 1 to {room:,} tokens", f"decay {room}")
    ratio = asked.get("final", plan.final_ratio if lr.decay_tokens else 0.1)
    if not 0 <= ratio <= 1:
        raise ConfigError.of(KEY, text, "the last learning rate is 0 to 1 of the peak", "final 0.1")
    return replace(lr, kind="wsd", decay_tokens=decay, final=lr.peak * ratio)
