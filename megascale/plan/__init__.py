"""What a run will need, before it starts: FLOPs, memory, steps. Nothing here imports torch."""
