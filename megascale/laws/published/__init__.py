"""Published laws as data, and what they say about a run."""
