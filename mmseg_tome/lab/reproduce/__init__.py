"""What `tools/reproduce.py` is made of: the paper's tables, a plan to measure them, its running."""
