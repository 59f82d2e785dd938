"""The Qwen3 and Qwen3-MoE models: shape, counts, layers, and hub files in and out."""
