"""Trained models as files that run without this package: ONNX, `.pt2`, ExecuTorch's `.pte`.

`network` makes a config and its checkpoint a function of tensors, `tracing` holds the operations in
the form that exports, `program` traces them, `onnx_file`, `torch_file` and
`executorch_file` write, `web_page` and `ort_web` put a page around ONNX files, `metadata` says
what a file's reader has to know, `quantise` makes INT8 of it, `parity` compares, and `reader` puts
a file in the place of a config's network.
"""
