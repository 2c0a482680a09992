"""Benchmarks, run by `scripts/bench`; no test asserts on wall-clock speed."""
