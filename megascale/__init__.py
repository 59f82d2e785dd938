"""megascale: how large the batch and the learning rate should be, at every point of a long run."""

__version__ = "0.1.0"
