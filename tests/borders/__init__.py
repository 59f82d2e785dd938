"""Fuzzing of every border at which the program reads what others wrote."""
