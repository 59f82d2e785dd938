"""Batch size, learning rate and weight decay as pure functions of consumed tokens."""
