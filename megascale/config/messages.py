"""Validation errors as lines that name the key, the value, the rule and the nearest legal value."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from megascale.errors import ConfigError

_TYPE_RULES = {
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping of keys to values",
    "model_type": "must be a section (a mapping of keys to values)",
    "model_attributes_type": "must be a section (a mapping of keys to values)",
    "finite_number": "must be finite",
    "invalid_key": "keys must be text",
}
_BOUNDS = {
    "greater_than": ("must be greater than", "gt"),
    "greater_than_equal": ("must be at least", "ge"),
    "less_than": ("must be less than", "lt"),
    "less_than_equal": ("must be at most", "le"),
}
_TRUE = {"yes", "on", "1", "true", "y"}
_FALSE = {"no", "off", "0", "false", "n"}


_BATCH = "batch.schedule (tokens, such as `0: 2M`)"
_ELSEWHERE = {
    **dict.fromkeys(("global_batch_size", "train_batch_size", "batch_size"), _BATCH),
    "gradient_accumulation_steps": f"{_BATCH}, which gives the number of micro-batches",
    "per_device_train_batch_size": "train.micro_batch_size",
    **dict.fromkeys(("learning_rate", "lr"), "lr.peak"),
    **dict.fromkeys(("min_lr", "lr_min"), "lr.final_lr"),
    **dict.fromkeys(("max_steps", "train_iters", "steps"), "train.total_tokens (tokens)"),
    **dict.fromkeys(("warmup_steps", "lr_warmup_iters"), "lr.warmup_tokens (tokens)"),
    **dict.fromkeys(("seq_len", "seq_length", "max_seq_len"), "train.sequence_length"),
    **dict.fromkeys(("save_steps", "save_interval"), "checkpoint.interval_steps"),
    **dict.fromkeys(("logging_steps", "log_interval"), "log.interval_steps"),
    **dict.fromkeys(("tensor_parallel_size", "tensor_model_parallel_size"), "parallel.tensor"),
}
"""What other trainers call keys of ours."""


def error_line(error: ErrorDetails, root: type[BaseModel]) -> str:
    """One line for one pydantic error.

    Args:
        error: an item of `ValidationError.errors()`.
        root: the model that was validated, for did-you-mean.
    """
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    path = tuple(error["loc"])
    key = ".".join(str(part) for part in path)
    if kind == "message_as_is":
        return str(context["message"])
    if kind == "extra_forbidden":
        return _unknown_key(path, root)
    if kind == "missing":
        return f"{key}: is required and not given{_meaning(path, root)}."
    if kind == "rule_broken":
        return str(ConfigError.of(key, value, context["rule"], context.get("nearest")))
    if kind == "literal_error":
        return _not_a_choice(key, value, path, root)
    if kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        limit = context[bound]
        nearest = limit if bound in ("ge", "le") else (1 if isinstance(value, int) else None)
        return str(ConfigError.of(key, value, f"{words} {limit}", nearest))
    if kind in ("too_short", "string_too_short"):
        return str(ConfigError.of(key, value, "must not be empty"))
    if kind == "string_pattern_mismatch":
        rule = f"must match {context['pattern']}{_meaning(path, root)}"
        return str(ConfigError.of(key, value, rule))
    rule = _TYPE_RULES.get(kind, error["msg"])
    return str(ConfigError.of(key, value, rule, _same_in_type(kind, value)))


def _same_in_type(kind: str, value: Any) -> Any:
    text = str(value).strip().lower()
    if kind == "bool_type" and text in _TRUE | _FALSE:
        return "true" if text in _TRUE else "false"
    if kind in ("int_type", "float_type") and not isinstance(value, bool):
        try:
            number = float(text)
        except ValueError:
            return None
        if kind == "int_type":
            return round(number) if abs(number) < 2**53 else None
        return number
    return None


def _not_a_choice(key: str, value: Any, path: tuple[Any, ...], root: type[BaseModel]) -> str:
    choices = [str(choice) for choice in _choices(_annotation_at(root, path))]
    rule = f"must be one of {', '.join(choices)}" if choices else "is not one of the choices"
    close = difflib.get_close_matches(str(value).lower(), choices, n=1, cutoff=0.4)
    return str(ConfigError.of(key, value, rule, close[0] if close else None))


def _unknown_key(path: tuple[Any, ...], root: type[BaseModel]) -> str:
    key = ".".join(str(part) for part in path)
    section = model_of(_annotation_at(root, path[:-1]))
    keys = list(section.model_fields) if section else []
    if section is root:
        keys.append("base")
    if path[:-1] == ("model",):
        keys.append("preset")
    wanted = str(path[-1])
    close = difflib.get_close_matches(wanted, keys, n=1)
    if wanted in _ELSEWHERE:
        return f"{key}: unknown key. Did you mean {_ELSEWHERE[wanted]}?"
    everywhere = dict(_all_keys(root))
    if wanted in everywhere:
        return f"{key}: unknown key. Did you mean {everywhere[wanted]}?"
    prefix = "".join(f"{part}." for part in path[:-1])
    if close:
        return f"{key}: unknown key. Did you mean {prefix}{close[0]}?"
    near = difflib.get_close_matches(wanted, everywhere, n=1, cutoff=0.75)
    if near:
        return f"{key}: unknown key. Did you mean {everywhere[near[0]]}?"
    return f"{key}: unknown key. Keys here: {', '.join(keys)}."


def _all_keys(root: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, field in root.model_fields.items():
        yield name, prefix + name
        below = model_of(field.annotation)
        if below is not None and typing.get_origin(field.annotation) not in (dict, list):
            yield from _all_keys(below, f"{prefix}{name}.")


def _meaning(path: tuple[Any, ...], root: type[BaseModel]) -> str:
    section = model_of(_annotation_at(root, path[:-1]))
    field = section.model_fields.get(str(path[-1])) if section else None
    return f" ({field.description})" if field is not None and field.description else ""


def _annotation_at(root: type[BaseModel], path: tuple[Any, ...]) -> Any:
    annotation: Any = root
    for part in path:
        section = model_of(annotation) if not _is_container(annotation) else None
        if section is not None:
            field = section.model_fields.get(str(part))
            if field is None:
                return None
            annotation = field.annotation
        elif _is_container(annotation):
            annotation = typing.get_args(_bare(annotation))[-1]
        else:
            return None
    return annotation


def _bare(annotation: Any) -> Any:
    while True:
        origin = typing.get_origin(annotation)
        if origin is typing.Annotated:
            annotation = typing.get_args(annotation)[0]
        elif origin in (typing.Union, types.UnionType):
            members = [arg for arg in typing.get_args(annotation) if arg is not type(None)]
            annotation = members[0]
        else:
            return annotation


def _is_container(annotation: Any) -> bool:
    return typing.get_origin(_bare(annotation)) in (dict, list, tuple)


def model_of(annotation: Any) -> type[BaseModel] | None:
    """The section a field holds (`X`, `X | None`, annotated), or None for any other type."""
    bare = _bare(annotation)
    return bare if isinstance(bare, type) and issubclass(bare, BaseModel) else None


def _choices(annotation: Any) -> tuple[Any, ...]:
    bare = _bare(annotation)
    return typing.get_args(bare) if typing.get_origin(bare) is typing.Literal else ()
