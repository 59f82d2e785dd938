"""Laws of tokens and steps to a loss, and the best batch they give."""
