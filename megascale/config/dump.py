"""The resolved configuration as YAML that loads back to itself."""

from __future__ import annotations

import yaml

from megascale.config.fields import READABLE
from megascale.config.sections import RunConfig


def dump_yaml(config: RunConfig) -> str:
    """Every key with its value, defaults included, counts written as `4M`.

    Loading the text gives an equal config with an equal digest.
    """
    content = config.model_dump(mode="json", context=READABLE)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
