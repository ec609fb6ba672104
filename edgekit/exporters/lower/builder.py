"""Walking a clean ONNX graph: values by name, constants, buffers, and the steps written so far."""
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np

from edgekit.errors import UnsupportedError
from edgekit.exporters.kernels.spec import Kernel, Map, Op, Tensor
from edgekit.exporters.lower.plan import Buffer, Ref, Step
from edgekit.exporters.lower.values import Value, combine, constant, of_view, too_long
from edgekit.exporters.lower.views import View, collapse, row_major

SHORT = 12           # operations of a body that others may join
LARGEST = 2 << 30  # bytes of a buffer
DTYPES = ("float32", "float64", "float16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")


@dataclass(frozen=True)
class Node:
    """An ONNX node: attributes as Python values (tensors as arrays), "" for inputs that are left out."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping

    def input(self, k: int) -> str:
        return self.inputs[k] if k < len(self.inputs) else ""

    def output(self, k: int) -> str:
        return self.outputs[k] if k < len(self.outputs) else ""

    def unsupported(self, why: str, fix: str = "") -> UnsupportedError:
        return UnsupportedError(f"{self.op}: {why}", where=f"node {self.name}", fix=fix)


@dataclass
class Constants:
    """Arrays that ship in the weights, each once, whoever names it."""

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    _known: dict[bytes, str] = field(default_factory=dict)

    def add(self, array: np.ndarray) -> str:
        array = np.ascontiguousarray(array)
        key = hashlib.sha256(f"{array.dtype} {array.shape}".encode() + array.tobytes()).digest()
        name = self._known.setdefault(key, f"w{len(self._known)}")
        self.arrays.setdefault(name, array)
        return name


@dataclass
class Builder:
    """State of lowering one entry. Operators read `value`, `array`, and leave results by `set`."""

    constants: Constants
    initializers: dict[str, np.ndarray]
    types: dict[str, tuple[str, tuple[int, ...]]]       # tensor -> dtype, shape
    uses: Counter
    values: dict[str, Value] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    buffers: dict[str, Buffer] = field(default_factory=dict)
    node: Node = Node("", "", (), (), {})
    products: str = "float32"                          # what products with constant weights are computed in
    joins: Mapping[str, str] = field(default_factory=dict)   # see `joins`
    joined: set[str] = field(default_factory=set)      # beginnings of such chains that stay in registers
    halves: dict[View, Value] = field(default_factory=dict)  # of tensors in memory: the same in float16

    # -- what operators ask ------------------------------------------------------------------------------------------

    def shape(self, name: str) -> tuple[int, ...]:
        return self.types[name][1]

    def dtype(self, name: str) -> str:
        return self.types[name][0]

    def array(self, name: str) -> np.ndarray | None:
        """The constant of that name, or None where the tensor is computed or left out."""
        return self.initializers.get(name)

    def value(self, name: str) -> Value:
        """The tensor as a value; one that several nodes read is in memory, so that it is computed once."""
        if name not in self.values:
            self.values[name] = self.of_array(self.initializers[name])
        v = self.values[name]
        if v.view is None and v.inputs + ((v.root,) if v.root else ()) and self.uses[name] > 1 and not self._joined(name, v):
            v = self.values[name] = of_view(self.memory(v))
        return v

    def _joined(self, name: str, value: Value) -> bool:
        """Whether all that is made of the value joins again in one body."""
        if self.joins.get(name) == name and len(value.body) <= SHORT:
            self.joined.add(name)
        return self.joins.get(name) in self.joined

    def set(self, name: str, value: Value) -> None:
        if name:
            self.values[name] = value if not too_long(value) else of_view(self.memory(value))

    # -- values to memory --------------------------------------------------------------------------------------------

    def of_array(self, array: np.ndarray) -> Value:
        dtype = str(array.dtype)
        if array.size == 1:
            return constant(array.reshape(-1)[0].item(), dtype, array.shape)
        return of_view(self.constant(array))

    def constant(self, array: np.ndarray) -> View:
        """An array of the weights as a view."""
        return View(self.constants.add(array), str(array.dtype), 0, array.shape, row_major(array.shape))

    def fresh(self, dtype: str, shape: Sequence[int], name: str = "") -> View:
        """A new buffer of the arena, row-major. UnsupportedError past `LARGEST`: kernels may count elements in 32 bits."""
        name = name or f"b{len(self.buffers)}"
        size = prod(shape) * np.dtype(dtype).itemsize
        if size > LARGEST:
            where = f"node {self.node.name}" if self.node.name else "input " + name.partition(":")[2]
            raise UnsupportedError(f"a tensor {dtype}{list(shape)} of {size / 2**30:.1f} GiB: more than {LARGEST >> 30} GiB are not compiled",
                                   where=where, fix="use a smaller batch or image")
        self.buffers[name] = Buffer(name, dtype, tuple(shape), "arena", 0, size)
        return View(name, dtype, 0, tuple(shape), row_major(shape))

    def memory(self, value: Value) -> View:
        """The value in memory, under whatever strides it has there."""
        if value.view is not None:
            return value.view
        out = self.fresh(value.dtype, value.shape)
        self.write(value, out)
        return out

    def dense(self, value: Value) -> View:
        """The value in memory, row-major."""
        if value.view is not None and value.view.contiguous:
            return replace(value.view, strides=row_major(value.shape))
        out = self.fresh(value.dtype, value.shape)
        self.write(value, out)
        return out

    def lined(self, value: Value, shape: Sequence[int]) -> View:
        """The value in memory under another shape, neighbours along the last axis side by side."""
        view = self.memory(self.reshaped(value, shape))
        return view if view.shape[-1] <= 1 or view.strides[-1] == 1 else self.dense(of_view(view))

    def write(self, value: Value, out: View) -> None:
        """Computes the value into `out`, a view of the value's shape."""
        if 0 in value.shape:
            return
        if value.root is not None:
            moved = [value.root.reshape(v) for v in (*value.inputs, out)]
            views = [v for v in moved if v is not None]
            if len(views) == len(moved):
                value.root.emit(value.body, tuple(views[:-1]), views[-1], "+".join(value.ops))
                return
            sums = self.fresh(value.root.dtype, value.shape)
            self.write(replace(value, inputs=(), body=(), dtype=value.root.dtype, ops=value.ops[:1]), sums)
            value = replace(value, root=None, inputs=(sums, *value.inputs), ops=value.ops[1:])
        by_output = sorted(range(len(out.shape)), key=lambda a: -abs(out.strides[a]))
        views = [v.transpose(by_output) for v in (*value.inputs, out)]
        shape, strides = collapse(views[-1].shape, [v.strides for v in views])
        tensors = tuple(Tensor(v.dtype, s) for v, s in zip(views, strides, strict=True))
        self.step(Map(shape, tensors[:-1], value.body, tensors[-1]), views, ops="+".join(value.ops) or "Copy")

    def step(self, kernel: Kernel, args: Sequence[View], *, node: Node | None = None, ops: str = "", macs: int = 0,
             dense_macs: int | None = None, sparsity: float = 0.0, group: int | None = None) -> None:
        """Writes a step down, named after the node that owns its arithmetic: the one at hand, unless another asked for it."""
        node = node or self.node
        self.steps.append(Step(node.name, ops or node.op, kernel, tuple(Ref(a.buffer, a.offset) for a in args),
                               macs, macs if dense_macs is None else dense_macs, sparsity, group))

    # -- elementwise -------------------------------------------------------------------------------------------------

    def apply(self, op: str, *args: Value, dtype: str, shape: Sequence[int], attrs: tuple = (), label: str = "") -> Value:
        """op over broadcast values, fused with what they are. A second product, or one that would be broadcast, goes to memory."""
        shape = tuple(shape)
        fused: list[Value] = []
        root = None
        for a in args:
            if a.root is not None and (a.shape != shape or root not in (None, a.root)):
                a = of_view(self.memory(a))
            root = root or a.root
            fused.append(a)
        out = combine(op, fused, dtype, shape, attrs, label)
        return of_view(self.memory(out)) if too_long(out) else out

    def moved(self, value: Value, move: Callable[[View], View]) -> Value:
        """The value under another indexing that every view allows, put into memory first if that is what it takes."""
        return value.moved(move) or of_view(move(self.memory(value)))

    def transposed(self, value: Value, order: Sequence[int]) -> Value:
        root = value.root
        if root is not None and root.loose:
            back = tuple(sorted(range(len(order)), key=order.__getitem__))
            turned = replace(root, reshape=lambda v: root.reshape(v.transpose(back)))
            return replace(value, shape=tuple(value.shape[a] for a in order), inputs=tuple(v.transpose(order) for v in value.inputs), root=turned)
        return self.moved(value, lambda v: v.transpose(order))

    def sliced(self, value: Value, axis: int, start: int, count: int, step: int = 1) -> Value:
        return self.moved(value, lambda v: v.slice(axis, start, count, step))

    def reshaped(self, value: Value, shape: Sequence[int]) -> Value:
        shape = tuple(shape)
        if shape == value.shape:
            return value
        out = value.moved(lambda v: v.reshape(shape))
        if out is None:
            view = self.memory(value).reshape(shape)
            out = of_view(view or replace(self.dense(value), shape=shape, strides=row_major(shape)))
        return out

    def fill(self, out: View, number) -> None:
        """A constant into a view."""
        self.write(Value(out.shape, out.dtype, (), (Op("const", (), out.dtype, (number,)),)), out)
