"""Kernels to tune on: layers of the sizes that trained networks have, or those of a model at hand."""
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgekit.errors import InputError


@dataclass(frozen=True)
class Case:
    """A kernel with its operands. label: what it is of; times: how often a model calls it; operands: (nbytes, content, offset
    in bytes) of each argument, content None where the kernel reads activations or writes."""

    label: str
    kind: str
    kernel: Any
    times: int
    operands: tuple[tuple[int, bytes | None, int], ...]


def representative(kind: str) -> list[Case]:
    """Cases of a kind of kernel; the first ones stand for all in a first selection."""
    return [next(case for case in _cases(model, sparsity, label) if case.kind == kind) for label, model, sparsity in _MODELS[kind]()]


def kinds() -> list[str]:
    """Kinds that have cases of their own."""
    return list(_MODELS)


def of_model(model: Any, **load_options: Any) -> list[Case]:
    """Every kernel of a model, as `edgekit export` takes it, that has a schedule."""
    from edgekit.exporters.load import load
    from edgekit.exporters.lower import supported
    loaded = load(model, keep=supported(), **load_options)
    found = _lowered([(v.name, v.model) for v in loaded.variants], loaded.states, 0.0, "")
    if not found:
        raise InputError("no layer of this model has tiles to choose", where=loaded.name)
    return found


def _cases(model: Any, sparsity: float, label: str) -> list[Case]:
    from edgekit.exporters.load import load
    from edgekit.exporters.lower import supported
    loaded = load(model, keep=supported(), name="tune")
    return _lowered([(v.name, v.model) for v in loaded.variants], loaded.states, sparsity, label)


def _lowered(variants: list, states: Any, sparsity: float, label: str) -> list[Case]:
    """One case a distinct kernel, those with the most multiply-adds first."""
    from edgekit.exporters.kernels.schedule import kind_of
    from edgekit.exporters.lower import lower
    from edgekit.exporters.sparsify import prune_onnx
    pruned = prune_onnx([m for _, m in variants], sparsity=sparsity, group=8)
    plan, arrays = lower("tune", list(zip([n for n, _ in variants], pruned.models, strict=True)), states)
    steps = [(s, plan.buffers(e)) for e in plan.entries for s in e.steps if kind_of(s.kernel)]
    times = Counter(s.kernel for s, _ in steps)
    found: dict[Any, Case] = {}
    for s, buffers in sorted(steps, key=lambda pair: -pair[0].macs):
        operands = []
        for ref in s.args:
            b = buffers[ref.buffer]
            content = np.ascontiguousarray(arrays[b.name]).tobytes() if b.name in arrays else None
            operands.append((b.nbytes, content, ref.offset * np.dtype(b.dtype).itemsize))
        found.setdefault(s.kernel, Case(label or s.name, kind_of(s.kernel) or "", s.kernel, times[s.kernel], tuple(operands)))
    return [replace(c, label=f"{c.label}, kernel {k}" if sum(o.label == c.label for o in found.values()) > 1 else c.label)
            for k, c in enumerate(found.values())]


# --- the layers --------------------------------------------------------------------------------------------------------


def _conv(inputs: int, outputs: int, size: int, kernel: int = 1, stride: int = 1, group: int = 1) -> Any:
    pad = kernel // 2
    return _model("Conv", (1, inputs, size, size), {"w": (outputs, inputs // group, kernel, kernel), "b": (outputs,)},
                  kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4, group=group)


def _model(op: str, x: tuple[int, ...], constants: dict[str, tuple[int, ...]], inputs: str = "", **attributes: Any) -> Any:
    """A model of one node over x and seeded constants."""
    from onnx import TensorProto, helper, numpy_helper
    random = np.random.default_rng(0)
    arrays = [numpy_helper.from_array(random.standard_normal(s).astype(np.float32) / 8, n) for n, s in constants.items()]
    node = helper.make_node(op, ["x", *(inputs.split() or constants)], ["y"], **attributes)
    given, made = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", x), ("y", None)))
    return helper.make_model(helper.make_graph([node], "layer", [given], [made], arrays), opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _convs() -> list[tuple[str, Any, float]]:
    sizes = [("1x1 256-256 at 14", (256, 256, 14)), ("1x1 64-128 at 28", (64, 128, 28)), ("1x1 512-512 at 7", (512, 512, 7)),
             ("3x3 64-64 at 28", (64, 64, 28, 3))]
    return [(f"{name}, {s:.0%} zero" if s else name, _conv(*size), s) for s in (0.0, 0.5) for name, size in sizes]


def _depthwises() -> list[tuple[str, Any, float]]:
    sizes = [("3x3 of 128 at 28", 128, 28, 3, 1), ("3x3 of 64 at 56, stride 2", 64, 56, 3, 2), ("3x3 of 256 at 14", 256, 14, 3, 1),
             ("5x5 of 96 at 14", 96, 14, 5, 1)]
    return [(name, _conv(n, n, at, k, stride, n), 0.0) for name, n, at, k, stride in sizes]


def _linears() -> list[tuple[str, Any, float]]:
    sizes = [(1, 512, 512), (64, 128, 384), (1, 256, 64), (8, 256, 256)]
    return [(f"{i}-{o} of {n} rows" + (f", {s:.0%} zero" if s else ""), _model("Gemm", (n, i), {"w": (i, o), "b": (o,)}), s)
            for s in (0.0, 0.5) for n, i, o in sizes]


def _matmuls() -> list[tuple[str, Any, float]]:
    from onnx import TensorProto, helper
    found = []
    for heads, m, k, n in ((8, 64, 32, 64), (16, 42, 42, 8), (1, 128, 128, 128), (8, 1, 64, 256)):
        ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (
            ("a", (heads, m, k)), ("b", (heads, k, n)), ("y", None))]
        graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["y"])], "layer", ports[:2], ports[2:])
        found.append((f"{heads} of {m}x{k}x{n}", helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), 0.0))
    return found


def _recurrents() -> list[tuple[str, Any, float]]:
    return [(f"{op} {hidden} wide, {steps} steps of {batch}" + (f", {s:.0%} zero" if s else ""),
             _model(op, (steps, batch, hidden), {"w": (1, gates * hidden, hidden), "r": (1, gates * hidden, hidden)}, hidden_size=hidden), s)
            for op, gates, hidden, steps, batch, s in (("LSTM", 4, 128, 12, 1, 0.0), ("GRU", 3, 64, 12, 4, 0.0), ("LSTM", 4, 128, 12, 1, 0.5))]


_MODELS = {"conv": _convs, "depthwise": _depthwises, "linear": _linears, "matmul": _matmuls, "recurrent": _recurrents}
