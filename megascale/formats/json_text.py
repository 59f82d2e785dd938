"""JSON from outside, with bounds: size, depth, whole numbers, text that can be written again.

Every file of JSON that is read whole goes through `read_json`; lines of logs, and files that come
as bytes, through `parse_json`. The kind of error is the caller's.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from megascale.errors import DataError, UserError

MOST_JSON_BYTES = 2**30
MOST_JSON_LEVELS = 100
"""Bounds of a document: its size, and how deep it nests."""
_BLOCK_BYTES = 1 << 20
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class JsonTextError(ValueError):
    """Why a text is not JSON that can be used, in a few words."""


def parse_json(data: bytes | str) -> Any:
    """Read one JSON document.

    Args:
        data: text, or bytes in UTF-8 (with or without a byte-order mark).

    Raises:
        JsonTextError: not JSON, a key given twice, nested deeper than `MOST_JSON_LEVELS`, a number
            too long to convert, or half a surrogate pair.
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        raise JsonTextError(f"not UTF-8 at byte {failure.start:,}") from None
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except JsonTextError:
        raise
    except RecursionError:
        raise JsonTextError(f"nested deeper than {MOST_JSON_LEVELS} levels") from None
    except json.JSONDecodeError as failure:
        raise JsonTextError(
            f"not valid JSON: {failure.msg} (line {failure.lineno}, column {failure.colno})"
        ) from None
    except ValueError:
        raise JsonTextError("a whole number has too many digits") from None
    if text.count("[") + text.count("{") > MOST_JSON_LEVELS:
        _check_levels(value)
    if _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise JsonTextError("a text holds half a surrogate pair") from None
    return value


def read_json(
    path: str | Path,
    key: str,
    *,
    error: type[UserError] = DataError,
    most_bytes: int = MOST_JSON_BYTES,
) -> Any:
    """Read a file that holds one JSON document.

    Args:
        path: the file.
        key: what the file is, for the message.
        error: the kind of error to raise.
        most_bytes: a larger file is refused unread.

    Raises:
        UserError: of the kind `error`; the file cannot be read, is too large, or `parse_json`
            refuses it.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(_BLOCK_BYTES)
            while len(data) <= most_bytes and (block := file.read(len(data))):
                data += block
    except (OSError, ValueError) as failure:
        reason = getattr(failure, "strerror", None) or failure
        raise error.of(key, str(path), f"cannot be read: {reason}") from None
    if len(data) > most_bytes:
        raise error.of(key, str(path), f"larger than {most_bytes:,} bytes: not read")
    try:
        return parse_json(data)
    except JsonTextError as failure:
        raise error.of(key, str(path), str(failure)) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise JsonTextError(f"key {key[:80]!r} is given twice")
            seen.add(key)
    return found


def _check_levels(value: Any) -> None:
    level = [value]
    for _ in range(MOST_JSON_LEVELS):
        level = [
            child
            for item in level
            if isinstance(item, (list, dict))
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, (list, dict))
        ]
        if not level:
            return
    raise JsonTextError(f"nested deeper than {MOST_JSON_LEVELS} levels")
