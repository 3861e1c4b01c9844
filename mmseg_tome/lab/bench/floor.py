"""The floor of a forward pass: how long its memory traffic and arithmetic take at best.

`record` runs a pass once and notes, for every operator that really ran, the bytes that it has to
move and its FLOPs; `floors` turns them into milliseconds. There are two floors:

* *operators*: each operator reads its inputs once and writes its outputs once. A fused kernel can
  go below it, and so can tensors that stay in a cache.
* *fused*: each call of a part reads what it needs from outside once, parameters included, and
  writes once what others read; all that lies between stays on the chip. A part's ideal kernel.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from . import measure
from .flops import flop_counter, watch_launches
from .parts import OTHER, Call, watch
from .rates import Rates, precision_of

COLUMNS = ("floor_ms", "fused_floor_ms", "gflops", "mbytes")

_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
# Operators that do not touch every byte of what they are given. The names are without overload.
_OVERWRITE = {"copy_", "fill_", "zero_"}
_READ_ROWS = {"index_select", "gather", "index", "_unsafe_index", "embedding", "take"}
_ADD_TO_ROWS = {"index_add_", "index_reduce_", "scatter_add_", "scatter_reduce_"}
_WRITE_ROWS = {"index_copy_", "index_put_", "scatter_"}


class Access(NamedTuple):
    """``nbytes`` of a buffer of ``size`` bytes, read or written through one view of it."""

    buffer: int
    view: tuple
    nbytes: int
    size: int


class Operator(NamedTuple):
    """One operator that ran: in which call of a part, and what it has to move and compute."""

    name: str
    call: Call
    reads: list[Access]
    writes: list[Access]
    flops: int
    precision: str

    @property
    def nbytes(self) -> int:
        """Bytes moved: inputs read once, outputs written once."""
        return _total(self.reads) + _total(self.writes)


class Recorder(TorchDispatchMode):
    """Notes the operators that run inside it, as `operators`.

    Views, and operators that return what they were given, move nothing and are left out. An
    in-place operator reads and writes what it changes; ``copy_``, ``fill_`` and ``zero_`` only
    write it. A gather reads no more than it returns, an in-place scatter touches no more than it is
    given. Allocations are noted, with no bytes.

    An operator of our own counts by its arguments, and so does a Triton kernel that is launched
    outside of any operator: it writes the tensors that were allocated and not yet filled, and reads
    the others (of one that it changes in place, the writing is missed).
    """

    def __init__(self):
        super().__init__()
        self.operators: list[Operator] = []
        self.call = Call(OTHER)
        self._counter = flop_counter()
        self._buffers: dict[int, int] = {}  # address of a storage -> number of its buffer
        self._count = 0
        self._unfilled: set[int] = set()  # buffers
        self._inside = False  # an operator: its kernels are its own
        self._inner_flops = 0

    def switch(self, call: Call) -> None:
        """From now on operators belong to ``call``."""
        self.call = call

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload):
            return func(*args, **kwargs)
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), _COMPOSITE.name):
            # In inference mode composite operators (linear, reshape) come here whole. Not
            # `func.decompose`: it prefers Python versions, which resize with 50 operators.
            with self:
                return func._op_dk(_COMPOSITE, *args, **kwargs)
        self._inside, self._inner_flops = True, 0
        try:
            if func._overloadpacket in self._counter.flop_registry:
                with self._counter:
                    out = func(*args, **kwargs)
                self._inner_flops += self._counter.get_total_flops()
            else:
                out = func(*args, **kwargs)
        finally:
            self._inside = False
        self._note(func, args, kwargs, out, self._inner_flops)
        return out

    def launch(self, name: str, arguments: dict, flops: int) -> None:
        """A Triton kernel is launched, see `flops.watch_launches`."""
        if self._inside:
            self._inner_flops += flops
            return
        tensors = _tensors(arguments)
        accesses = dict.fromkeys(map(self._access, tensors))
        reads = [a for a in accesses if a.buffer not in self._unfilled]
        writes = [a for a in accesses if a.buffer in self._unfilled]
        self._add(name, reads, writes, tensors, flops)

    def buffers(self, tensors) -> set[int]:
        """The buffers of a nest of tensors."""
        return {self._buffer(t) for t in _tensors(tensors)}

    def _note(self, func, args: tuple, kwargs: dict, out, flops: int) -> None:
        name = func._schema.name.split("::")[-1]
        inputs, outputs = _tensors((args, kwargs)), _tensors(out)
        given = {_address(t) for t in inputs}
        changed, outs = _changed(func, args, kwargs)
        fresh = [t for t in outputs if _address(t) not in given]
        if not (fresh or changed) or torch.Tag.inplace_view in func.tags:
            return
        reads = dict.fromkeys(map(self._access, inputs))
        for t in changed if name in _OVERWRITE | _WRITE_ROWS else outs:
            reads.pop(self._access(t))
        if name.startswith("new_") or name.endswith("_like"):  # they ask for shape and dtype only
            reads = {}
        reads = list(reads)
        if name in _READ_ROWS:
            reads[0] = _at_most(reads[0], sum(map(_nbytes, fresh)))
        for t in fresh:  # where an earlier tensor lay that is gone by now
            self._buffers.pop(_address(t), None)
        writes = [self._access(t) for t in {_address(t): t for t in [*fresh, *changed]}.values()]
        if name in _WRITE_ROWS | _ADD_TO_ROWS:
            given_rows = max(t.numel() for t in inputs[1:]) * changed[0].element_size()
            writes[0] = _at_most(writes[0], given_rows)
        if name in _ADD_TO_ROWS:
            reads[0] = _at_most(reads[0], given_rows)
        if "empty" in name:
            writes = [access._replace(nbytes=0) for access in writes]
        self._add(name, reads, writes, inputs, flops)
        if "empty" in name:
            self._unfilled |= {access.buffer for access in writes}

    def _add(self, name: str, reads: list, writes: list, inputs: list[Tensor], flops: int) -> None:
        self._unfilled -= {access.buffer for access in writes}
        first = next((t for t in inputs if t.is_floating_point()), None)
        precision = precision_of(first.dtype, first.device, "conv" in name) if flops else ""
        self.operators.append(Operator(name, self.call, reads, writes, flops, precision))

    def _access(self, t: Tensor) -> Access:
        view = (t.storage_offset(), tuple(t.shape), tuple(t.stride()))
        return Access(self._buffer(t), view, _nbytes(t), t.untyped_storage().nbytes())

    def _buffer(self, t: Tensor) -> int:
        if _address(t) not in self._buffers:
            self._count += 1
            self._buffers[_address(t)] = self._count
        return self._buffers[_address(t)]


def record(net: nn.Module, forward: measure.Forward) -> tuple[list[Operator], set[int]]:
    """Run a pipeline's forward pass once; its operators, and the buffers that it returns."""
    recorder = Recorder()
    with watch(net, recorder.switch), watch_launches(recorder.launch), recorder:
        output = forward()
    return recorder.operators, recorder.buffers(output)


def floors(
    operators: Iterable[Operator], returned: set[int], rates: Rates
) -> dict[str, dict[str, float]]:
    """Both floors (ms), the FLOPs (10^9) and bytes (10^6) of every part that ran an operator.

    Args:
        operators: What ran, in order.
        returned: Buffers that somebody reads after the pass.
        rates: What the device can do.
    """
    operators = list(operators)
    parts: dict[str, dict[str, float]] = {}
    for op in operators:
        row = parts.setdefault(op.call.part, dict.fromkeys(COLUMNS, 0.0))
        row["floor_ms"] += _milliseconds(op.nbytes, {op.precision: op.flops}, rates)
        row["gflops"] += op.flops / 1e9
        row["mbytes"] += op.nbytes / 1e6
    flops: dict[Call, Counter] = defaultdict(Counter)
    for op in operators:
        flops[op.call][op.precision] += op.flops
    for call, nbytes in fused_bytes(operators, returned).items():
        parts[call.part]["fused_floor_ms"] += _milliseconds(nbytes, flops[call], rates)
    return parts


def fused_bytes(operators: Iterable[Operator], returned: set[int]) -> dict[Call, int]:
    """Bytes that each call of a part exchanges with what is outside of it, each byte once."""
    operators = list(operators)
    readers: dict[int, set[Call | None]] = defaultdict(set)
    for op in operators:
        for access in op.reads:
            readers[access.buffer].add(op.call)
    for buffer in returned:
        readers[buffer].add(None)
    reads: dict[Call, set[Access]] = defaultdict(set)
    writes: dict[Call, set[Access]] = defaultdict(set)
    made: set[tuple[Call, int]] = set()
    for op in operators:
        reads[op.call] |= {a for a in op.reads if (op.call, a.buffer) not in made}
        writes[op.call] |= {a for a in op.writes if readers[a.buffer] - {op.call}}
        made |= {(op.call, a.buffer) for a in op.writes}
    return {call: _total(reads[call]) + _total(writes[call]) for call in list(reads)}


def _total(accesses: Iterable[Access]) -> int:
    """Bytes of all accesses; views of one buffer overlap, but hold no more than all of it."""
    buffers: dict[tuple[int, int], int] = Counter()
    for access in accesses:
        buffers[access.buffer, access.size] += access.nbytes
    return sum(min(nbytes, size) for (_, size), nbytes in buffers.items())


def _milliseconds(nbytes: int, flops: dict[str, int], rates: Rates) -> float:
    return 1e3 * max(nbytes / rates.copy, rates.seconds(flops))


def _tensors(nest) -> list[Tensor]:
    return [t for t in tree_flatten(nest)[0] if isinstance(t, Tensor) and t.numel()]


def _changed(func, args: tuple, kwargs: dict) -> tuple[list[Tensor], list[Tensor]]:
    """The arguments that an operator writes, and those of them that are ``out=``."""
    changed, outs = [], []
    for i, argument in enumerate(func._schema.arguments):
        value = kwargs.get(argument.name, args[i] if i < len(args) else None)
        if argument.alias_info is not None and argument.alias_info.is_write:
            changed += _tensors(value)
            outs += _tensors(value) if argument.kwarg_only else []
    return changed, outs


def _address(t: Tensor) -> int:
    return t.untyped_storage().data_ptr()


def _nbytes(t: Tensor) -> int:
    """Bytes of a tensor, those of an expanded one once."""
    sizes = zip(t.shape, t.stride(), strict=True)
    return math.prod(size for size, stride in sizes if stride) * t.element_size()


def _at_most(access: Access, nbytes: int) -> Access:
    return access._replace(nbytes=min(access.nbytes, nbytes))
