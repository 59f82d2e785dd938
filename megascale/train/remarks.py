"""What is legal in a config and perhaps not meant: told by --explain and in the log."""

from __future__ import annotations

from megascale.config import RunConfig
from megascale.schedule.batch import BatchSchedule
from megascale.units import format_count


def sequence_lengths(config: RunConfig, schedule: BatchSchedule) -> list[int]:
    """Every sequence length that a run computes with, evaluations included, ascending."""
    lengths = {segment.sequence_length for segment in schedule.segments}
    if config.data.validation:
        lengths.add(config.train.eval_sequence_length or config.train.sequence_length)
    return sorted(lengths)


def remarks(config: RunConfig, schedule: BatchSchedule) -> list[str]:
    """Sentences about a config; none where there is nothing to say.

    Args:
        config: of the run, sound.
        schedule: its batch schedule.
    """
    found = []
    lr = config.lr
    default = type(lr).model_fields["final_ratio"].default
    ends = lr.kind == "cosine" or lr.decay_tokens > 0
    if lr.kind == "wsd" and not ends:
        found.append(
            "lr.kind = wsd without lr.decay_tokens never decays: the last checkpoint is one of the "
            "stable phase, whose loss lies above that of a decayed run (megascale train "
            "--branch-decay decays from it)"
        )
    if lr.final_ratio != default and not ends:
        found.append(
            f"lr.final_ratio = {lr.final_ratio:g} has no effect: no decay leads to it "
            f"(lr.kind = {lr.kind}, lr.decay_tokens = {format_count(lr.decay_tokens)})"
        )
    lengths = sequence_lengths(config, schedule)
    if config.train.compile == "blocks" and len(lengths) > 1:
        found.append(
            f"train.compile = blocks compiles once for each of {len(lengths)} sequence lengths: "
            "the first step at each takes longer"
        )
    return found
