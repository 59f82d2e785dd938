"""Loss against consumed tokens: placement, smoothing, reaching a loss, crossings, comparison."""
