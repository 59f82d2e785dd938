"""Types that the sections share: counts with suffixes, batch tables, the strict section base."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import SerializationInfo

from megascale.errors import ConfigError, UserError
from megascale.schedule.points import BatchPoint, format_table, parse_table
from megascale.units import (
    COUNT_PATTERN,
    GRAMMAR,
    LARGEST_COUNT,
    CountError,
    format_count,
    read_count,
)

READABLE = {"counts": "text"}
"""Serialization context under which counts are written as `4M` instead of 4000000."""


def check_numbers(content: Any, at: tuple[str, ...] = ()) -> None:
    """Refuse whole numbers that no 64-bit field can hold, wherever they stand in a config.

    Raises:
        ConfigError: naming the key.
    """
    if isinstance(content, int) and not -LARGEST_COUNT <= content <= LARGEST_COUNT:
        legal = LARGEST_COUNT if content > 0 else -LARGEST_COUNT
        raise ConfigError.of(".".join(at), content, "must be below 2^63, or above -2^63", legal)
    if isinstance(content, dict):
        for key, value in content.items():
            check_numbers(value, (*at, str(key)))
    elif isinstance(content, (list, tuple)):
        for index, value in enumerate(content):
            check_numbers(value, (*at, str(index)))


class Section(BaseModel):
    """Base of every section: unknown keys refused, no silent conversion, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def rule_broken(rule: str, nearest: str | None = None) -> PydanticCustomError:
    """An error for use inside validators; the key and the value are added by `messages`."""
    context: dict[str, Any] = {"rule": rule}
    if nearest is not None:
        context["nearest"] = nearest
    return PydanticCustomError("rule_broken", "{rule}", context)


def message_as_is(error: UserError) -> PydanticCustomError:
    """An error whose message already names key, value and rule."""
    return PydanticCustomError("message_as_is", "{message}", {"message": str(error)})


def _validate_count(value: object) -> int:
    try:
        count = read_count(value)
    except CountError as error:
        raise rule_broken(error.rule, error.nearest) from None
    return count


def _validate_positive(value: object) -> int:
    if isinstance(value, bool):
        raise rule_broken(GRAMMAR)
    if isinstance(value, int) and value < 1:
        raise rule_broken("must be at least 1", "1")
    count = _validate_count(value)
    if count < 1:
        raise rule_broken("must be at least 1", "1")
    return count


def _serialize_count(value: int, info: SerializationInfo) -> int | str:
    if info.context != READABLE:
        return value
    text = format_count(value)
    return text if text[-1].isalpha() else value


def _count_schema(minimum: int) -> WithJsonSchema:
    return WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": minimum},
                {"type": "number", "minimum": minimum, "multipleOf": 1},
                {"type": "string", "pattern": COUNT_PATTERN},
            ]
        }
    )


Count = Annotated[
    int,
    BeforeValidator(_validate_count),
    PlainSerializer(_serialize_count),
    _count_schema(0),
]
"""A whole number >= 0, written as 4096, 2M, 125B or 4Mi."""

PositiveCount = Annotated[
    int,
    BeforeValidator(_validate_positive),
    PlainSerializer(_serialize_count),
    _count_schema(1),
]
"""A whole number >= 1, written as 4096, 2M, 125B or 4Mi."""

Ratio = Annotated[float, Field(ge=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]


def _validate_table(value: object) -> tuple[BatchPoint, ...]:
    try:
        return parse_table(value)
    except UserError as error:
        raise message_as_is(error) from None


BatchTable = Annotated[
    tuple[BatchPoint, ...],
    BeforeValidator(_validate_table),
    PlainSerializer(format_table, return_type=str),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "object",
                    "additionalProperties": {"anyOf": [{"type": "number"}, {"type": "string"}]},
                },
            ]
        }
    ),
]
"""A batch table; `megascale.schedule.points` has the grammar."""


def _validate_window(value: object) -> tuple[int, int]:
    rule = "must be a window of tokens START:END such as 12M:12.5M, with START before END"
    parts = value.split(":") if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)) or len(parts) != 2:
        raise rule_broken(rule)
    start, end = (_validate_count(part) for part in parts)
    if start >= end:
        raise rule_broken(rule, f"{format_count(start)}:{format_count(start + 1)}")
    return start, end


def _serialize_window(window: tuple[int, int]) -> str:
    return ":".join(map(format_count, window))


TokenWindow = Annotated[
    tuple[int, int],
    BeforeValidator(_validate_window),
    PlainSerializer(_serialize_window, return_type=str),
    WithJsonSchema({"type": "string"}),
]
"""Tokens from START up to END, written as START:END with counts such as 12M:12.5M."""


def _validate_windows(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


TokenWindows = Annotated[
    tuple[TokenWindow, ...],
    BeforeValidator(_validate_windows, json_schema_input_type=list[TokenWindow]),
]
