"""`tools/benchmark.py --as-typed`: `session` times runs of the tools beside stock, see there."""
