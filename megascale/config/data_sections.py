"""Sections for the token stream: sources, mixtures over time, held-out sources."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator, model_validator

from megascale.config.fields import (
    Count,
    NonNegativeFloat,
    PositiveCount,
    Section,
    TokenWindows,
    rule_broken,
)


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


class SourceConfig(Section):
    """One named source of tokens."""

    path: Annotated[
        list[str],
        BeforeValidator(_listed, json_schema_input_type=str | list[str]),
        Field(min_length=1),
    ] = Field(
        description="prefix of .bin/.idx files (Megatron's format), a folder of them or a pattern "
        "such as data/*; or a list of these; relative to the working directory"
    )


class PhaseConfig(Section):
    """A mixture that holds from a token count on."""

    start_tokens: Count = Field(description="consumed tokens at which this mixture takes over")
    mixture: dict[str, NonNegativeFloat] = Field(
        description="weight of each source in tokens; the weights sum to 1"
    )


class DataConfig(Section):
    """The training data: one infinite seeded stream over weighted sources."""

    sources: dict[str, SourceConfig] = Field(
        description="named sources; every source that a mixture names", min_length=1
    )
    phases: list[PhaseConfig] = Field(
        description="mixtures over time, the first from token 0; may be left out with one source",
        min_length=1,
    )
    skip_tokens: TokenWindows = Field(
        (),
        description="windows of the run's data that are left out, as START:END in tokens consumed "
        "at the time: at START the data goes on with what would have come at END. What was "
        "consumed already cannot be left out",
    )
    validation: dict[str, SourceConfig] = Field(
        default_factory=dict, description="held-out sources, each evaluated by itself"
    )
    validation_seed: Count = Field(
        0,
        description="order in which held-out sequences are read; runs that are compared keep it, "
        "whatever their own seed",
    )
    tokenizer: str | None = Field(
        None,
        description="tokenizer file (HF tokenizer.json) the sources were made with; checked "
        "against the sources when given",
    )
    chunk_tokens: PositiveCount = Field(
        4096, description="contiguous tokens of one source before the stream may switch to another"
    )
    mixture_block_chunks: PositiveCount = Field(
        100, description="chunks within which the mixture weights hold exactly"
    )
    seed: Count | None = Field(
        None, description="seed of the data order; null takes the run's seed"
    )
    mask_documents: bool = Field(
        False, description="tokens attend only to their own document (cross-document masking)"
    )
    eos_id: Count | None = Field(
        None,
        description="token id that ends a document, for mask_documents; null takes it from the "
        "sources' .meta.json",
    )

    @field_validator("skip_tokens")
    @classmethod
    def _skips_in_order(cls, windows: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        for (first, _), (second, _) in pairwise(windows):
            if second <= first:
                raise rule_broken(
                    f"windows begin one after the other, and one at {second} follows one at {first}"
                )
        return windows

    @model_validator(mode="before")
    @classmethod
    def _one_source_needs_no_phases(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("phases") is None:
            sources = data.get("sources")
            if isinstance(sources, dict) and len(sources) == 1:
                return data | {
                    "phases": [{"start_tokens": 0, "mixture": dict.fromkeys(sources, 1)}]
                }
        return data
