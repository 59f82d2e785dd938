"""A whole file as one JSON document."""

from __future__ import annotations

import json
from typing import Any

from megascale.errors import DataError
from megascale.runs.readers.base import Source


def document(source: Source, name: str) -> Any:
    """Return the parsed file.

    Raises:
        DataError: it is no JSON; the message says where.
    """
    try:
        return json.loads(source.data)
    except json.JSONDecodeError as failure:
        place = f"{source.path}:{failure.lineno}"
        raise DataError.of(name, place, f"not a JSON document: {failure.msg}") from None
    except (ValueError, RecursionError):
        raise DataError.of(name, str(source.path), "not a JSON document") from None


def mapping(value: Any) -> dict[str, Any]:
    """Return `value` if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}
