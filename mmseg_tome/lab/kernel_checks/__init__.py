"""What `tools/check_kernels.py` is made of: problems for the kernels, and compiling them."""
