"""What may look at the running code: compilers, transforms of `torch.func`, dispatch modes."""

import torch
from torch.autograd import forward_ad

is_compiling = torch.compiler.is_compiling
is_dynamo_compiling = torch.compiler.is_dynamo_compiling


def is_transformed() -> bool:
    """Whether `torch.func`, forward-mode gradients or `torch.jit.trace` follow what runs.

    A kernel is opaque to all three: tangents and recorded operations would be lost without a word.
    """
    return (
        torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
        or torch.jit.is_tracing()
    )


def is_watched() -> bool:
    """Whether a dispatch mode, such as that of fake tensors, sees every operation that runs."""
    return torch._C._len_torch_dispatch_stack() > 0


_FAKING = ("FAKE", "PROXY", "FUNCTIONAL")


def is_faked() -> bool:
    """Whether one of torch's own modes makes tensors that stand for others, as fake ones do."""
    kinds = (getattr(torch._C._TorchDispatchModeKey, name) for name in _FAKING)
    return any(torch._C._get_dispatch_mode(kind) is not None for kind in kinds)
