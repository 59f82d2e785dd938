"""Laws of grids of final losses over learning rate and batch."""
