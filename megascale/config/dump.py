"""The resolved configuration as YAML that loads back to itself."""

from __future__ import annotations

from collections.abc import Callable

import yaml

from megascale.config.fields import READABLE
from megascale.config.sections import RunConfig


def dump_yaml(config: RunConfig, batch_table: Callable[[str], str] | None = None) -> str:
    """Every key with its value, defaults included, counts written as `4M`.

    Loading the text gives an equal config with an equal digest.

    Args:
        config: the run.
        batch_table: shortens the text of a batch table for a screen; where it does, the text no
            longer loads.
    """
    content = config.model_dump(mode="json", context=READABLE)
    for key in ("schedule", "megatron_steps"):
        if batch_table is not None and content["batch"][key] is not None:
            content["batch"][key] = batch_table(content["batch"][key])
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
