"""Readers of run logs: one module per format, all giving rows of one table.

`megascale.runs.table.load_runs` is the way in; docs/readers.md describes every format.
"""
