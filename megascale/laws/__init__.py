"""What scaling laws mean, and the files that carry them with their evidence."""
