"""The same work done by qtasks and by other Python task queues, side by side: `scripts/bench-peers`.

`run.py` is the command, `contestants.py` says who takes part and how each is set up, `ours.py` and the
modules of `theirs/` are the apps, and docs/comparison.md has the method and the figures.
"""
