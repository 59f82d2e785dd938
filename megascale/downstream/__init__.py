"""Downstream evaluation: checkpoints on the tasks of lm-evaluation-harness."""
