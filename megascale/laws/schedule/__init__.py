"""The law of a whole schedule: histories of runs, and which form of the law predicts best."""
