"""A run on disk: its log, read and written, and what the console and dashboards show of it."""
