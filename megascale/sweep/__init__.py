"""Studies: one question, many runs, one table. A study file names them, `megascale sweep` does."""
