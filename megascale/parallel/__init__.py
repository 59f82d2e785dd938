"""How one model runs on many ranks: mesh, layouts, tensor, expert and data parallelism."""
