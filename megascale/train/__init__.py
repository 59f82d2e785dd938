"""The trainer: from a config to a run directory."""
