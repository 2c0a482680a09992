"""Benchmarks, run by `scripts/bench`; no test asserts on wall-clock speed.

`run.py` starts a process for each measurement (`session.py`): a kind of figure, of which each module has
some, at a home from `homes.py`. `bars.py` and `report.py` tell what came of it.
"""
