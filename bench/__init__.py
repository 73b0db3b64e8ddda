"""Benchmarks: this engine against a loop as the usual codebases write it; python -m bench."""
