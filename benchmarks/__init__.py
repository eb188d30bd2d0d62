"""Benchmarks: each prints a table, or one JSON object, with baselines taken in the same run."""
