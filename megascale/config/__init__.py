"""The run's configuration: one YAML document, checked whole before anything starts."""

from megascale.config.dump import dump_yaml
from megascale.config.load import build_config, load_config
from megascale.config.sections import RunConfig

__all__ = ["RunConfig", "build_config", "dump_yaml", "load_config"]
