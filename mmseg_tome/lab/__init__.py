"""Measuring: benchmarks, sweeps, searches, and the paper's tables again."""
