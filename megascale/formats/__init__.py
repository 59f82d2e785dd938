"""Files that the trainer and the offline half share: run log, law file and its band, YAML."""
