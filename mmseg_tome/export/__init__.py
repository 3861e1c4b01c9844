"""Trained models as files that run without this package: ONNX, and torch's own `.pt2`.

`network` makes a config and its checkpoint a function of tensors, `tracing` holds the operations in
the form that exports, `program` traces them, `onnx_file` and `torch_file` write, `metadata` says
what a file's reader has to know, `quantise` makes INT8 of it, `parity` compares, and `reader` puts
a file in the place of a config's network.
"""
