"""Every published law in one list."""

from __future__ import annotations

import difflib

from megascale.errors import ConfigError
from megascale.laws.published import batch, learning_rate, loss
from megascale.laws.published.law import PublishedLaw, Quantity

LAWS: tuple[PublishedLaw, ...] = (
    *learning_rate.LAWS,
    *batch.LAWS,
    *loss.LAWS,
)
"""All laws; those of one quantity stand together."""


def laws_of(quantity: Quantity) -> tuple[PublishedLaw, ...]:
    """Return the laws that give `quantity`."""
    return tuple(law for law in LAWS if law.quantity == quantity)


def published_law(key: str) -> PublishedLaw:
    """Return the law called `key`.

    Raises:
        ConfigError: there is none; the nearest keys are named.
    """
    by_key = {law.key: law for law in LAWS}
    if key not in by_key:
        nearest = difflib.get_close_matches(key, by_key, n=2, cutoff=0.4) or list(by_key)
        raise ConfigError.of("law", key, "no published law has this key", nearest)
    return by_key[key]
