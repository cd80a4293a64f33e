"""Benchmarks: generate, score, report."""
