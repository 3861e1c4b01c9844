"""How a network runs: CUDA graphs, precision, and where merging pays."""
