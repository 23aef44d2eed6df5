"""Ours and its peers in one run, turn by turn, on one network; see `__main__` for how to run it."""
