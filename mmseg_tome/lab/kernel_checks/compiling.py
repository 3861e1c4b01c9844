"""Compiling every kernel for a GPU that is not there."""

from __future__ import annotations

import os
from collections import defaultdict

import torch


def compile_for(capability: int, dtypes: tuple[torch.dtype, ...], tiny: bool) -> None:
    """Compile every kernel as it would be launched, for a few shapes."""
    os.environ.pop("TRITON_INTERPRET", None)
    import triton
    from triton.backends.compiler import GPUTarget

    from mmseg_tome.ops import (
        assignment_triton,
        attention_triton,
        depthwise_triton,
        labelling_triton,
        launching,
        local,
        local_triton,
        matching_triton,
        normalization_triton,
        resizing_triton,
        segment_triton,
    )

    class NoDriver:
        get_current_device = staticmethod(lambda: 0)
        get_current_stream = staticmethod(lambda device: 0)
        get_current_target = staticmethod(lambda: GPUTarget("cuda", capability, 32))

    shared_memory = defaultdict(dict)
    launch = triton.JITFunction.run

    def only_compile(kernel, *args, grid, warmup, **options):
        compiled = launch(kernel, *args, grid=grid, warmup=True, **options)
        shared_memory[compiled.name][compiled.hash] = compiled.metadata.shared

    launching.DIRECT = False  # where there is a GPU, what is compiled here must not run on it
    triton.runtime.driver.set_active(NoDriver())
    triton.JITFunction.run = only_compile
    shapes = [(1, 12, 1, 7), (8, 3840, 256, 320), (1, 960, 64, 512), (1, 61440, 4096, 320)]
    for dtype in dtypes:
        for batch, num_src, num_dst, channels in shapes[:2] if tiny else shapes:
            tokens, num_slots = num_src + num_dst, num_dst + num_src // 4
            x = torch.empty(batch, tokens, channels, dtype=dtype, device="meta")
            src, dst = (
                torch.empty(n, dtype=torch.int64, device="meta") for n in (num_src, num_dst)
            )
            for tf32 in (False, True):
                pairs = matching_triton.match(x, src, dst, tf32)
            matched = (*pairs, tokens - num_slots, src, dst)
            assignment_triton.assign_ordered(*matched, tokens)
            slot = assignment_triton.assign_many(*matched)
            order = segment_triton.segment_order(slot, num_slots)
            segment_triton.log_sizes(order[1], dtype)
            for hw in ((1, tokens), (3, tokens // 3)):
                for stride in ((1, 4), (2, 2), (4, 4)):
                    windows = sum(local.window_counts(hw, stride))
                    alike = local_triton.window_similarity(x, hw, stride)[:, :windows]
                    local_triton.assign_windows(alike, (1, 0, 0, 0), num_slots, hw, stride)
            if dtype != torch.float32:
                heads = x[:, :, : channels // 64 * 64].unflatten(2, (-1, 64)).transpose(1, 2)
                bias = torch.empty(batch, 1, 1, tokens, dtype=dtype, device="meta")
                if channels >= 64:
                    attention_triton.attend(heads, heads, heads, bias)
            for mean in (True, False):
                y = segment_triton.reduce(x, slot, *order, tokens, mean)
                residual = x if mean else x.float()
                segment_triton.expand(y, slot, *order, tokens, residual, False)
                segment_triton.expand(y, slot, *order, tokens, None, mean)
            y, weight = x[:, :num_slots], torch.empty(channels, dtype=dtype, device="meta")
            affine = (weight, weight, 1e-6)
            out, *saved = normalization_triton.layer_norm(x, *affine, dtype, None)
            for to in (None, slot):
                args = (x if to is None else y, to, *order, tokens, *affine, dtype)
                normalization_triton.add_layer_norm(x, *args)
            for grad in (None, x):
                normalization_triton.layer_norm_backward(out, grad, x, *saved, weight)
            kernel = torch.empty(channels, 1, 3, 3, dtype=dtype, device="meta")
            depthwise_triton.depthwise_gelu(x, kernel, weight, 1, tokens)
            depthwise_triton.depthwise_gelu_backward(x, x, kernel, weight, 1, tokens)
            image = torch.empty(batch, channels, 8, 8, dtype=dtype, device="meta")
            for count in range(4):
                resizing_triton.add_resized(image, [image[:, :, :4, :4]] * count, count == 3)
            for size in ((32, 32), (40, 50)):
                whole = [(32, 32)] * 3
                labelling_triton.label_map(image, *whole, (1, 1), (0, 0, 0, 0), size)
    for kernel, variants in sorted(shared_memory.items()):
        most = max(variants.values())
        print(f"{kernel:22}{len(variants):4} variants, at most {most:6} bytes of shared memory")
    print(f"{len(shared_memory)} kernels compile for compute capability {capability / 10}")
