"""The walk over the graphs: operators by name, inputs, states and outputs, and the memory of each entry."""
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from edgekit.errors import EdgekitError, InputError, UnsupportedError
from edgekit.exporters.kernels.spec import WinogradInput
from edgekit.exporters.lower import (
    convolution,
    einsum,
    elementwise,
    matmul,
    movement,
    quantized,
    recurrent,
    reductions,
    resize,
    sampling,
    selection,
    windows,
)
from edgekit.exporters.lower.arena import Need, aligned, place
from edgekit.exporters.lower.builder import DTYPES, Builder, Constants, Node
from edgekit.exporters.lower.joins import joins
from edgekit.exporters.lower.plan import Buffer, Entry, Plan, Port, State, Step
from edgekit.exporters.lower.values import of_view
from edgekit.exporters.lower.views import View, row_major

if TYPE_CHECKING:
    import onnx

OPERATORS = {**elementwise.OPERATORS, **movement.OPERATORS, **selection.OPERATORS, **matmul.OPERATORS, **convolution.OPERATORS,
             **reductions.OPERATORS, **recurrent.OPERATORS, **resize.OPERATORS, **quantized.OPERATORS, **windows.OPERATORS, **sampling.OPERATORS,
             **einsum.OPERATORS}


def supported() -> frozenset[str]:
    """ONNX operators that are lowered as they are."""
    return frozenset(OPERATORS)


def lower(name: str, variants: Sequence[tuple[str, "onnx.ModelProto"]], states: Sequence[tuple[str, str]] = (),
          products: str = "float32") -> tuple[Plan, dict[str, np.ndarray]]:
    """Clean graphs (see `load`), one an entry, to a plan and its constants by buffer name.

    states: (input, output) pairs: what one call leaves in the output, the next finds as the input, whichever entries have them.
    products: dtype of products with constant weights, float32 or float16: of their inputs, weights and sums. All else stays what it is.
    Raises UnsupportedError naming the node where something cannot be compiled.
    """
    constants = Constants()
    built = [(entry, *_walk(model, constants, dict(states), products=products)) for entry, model in variants]

    kept = _states(built, [source for source, _ in states])
    at, state_buffers = 0, []
    for source, (dtype, shape) in kept.items():
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        state_buffers.append(Buffer(_state_buffer(source), dtype, shape, "arena", at, size))
        at = aligned(at + size)
    state_bytes = at

    used = {r.buffer for _, b, _, _, _ in built for s in b.steps for r in s.args}
    weight_buffers, at = [], 0
    for key, array in constants.arrays.items():
        if key in used:
            weight_buffers.append(Buffer(key, str(array.dtype), array.shape, "weights", at, array.nbytes))
            at = aligned(at + array.nbytes)
    entries, end = [], 0
    for entry, b, inputs, outputs, pairs in built:
        buffers, top = _memory(b, inputs, outputs, pairs, state_bytes)
        end = max(end, top)
        entries.append(Entry(entry, inputs, outputs, tuple(b.steps), buffers, tuple((_state_buffer(s), view.buffer) for s, view in pairs)))
    plan = Plan(name, tuple(entries), tuple(weight_buffers), tuple(State(s, d, shape, _state_buffer(s)) for s, (d, shape) in kept.items()),
                tuple(state_buffers), end, state_bytes, at)
    return plan, {f.name: constants.arrays[f.name] for f in weight_buffers}


def survey(model: "onnx.ModelProto") -> tuple[list[tuple[str, str, str, str]], dict[str, str]]:
    """(node, operator, reason, fix) of every node that cannot be lowered, the walk going on past each; and `densely` of
    the others."""
    found: list[tuple[str, str, str, str]] = []

    def note(node: Node, error: EdgekitError) -> None:
        found.append((node.name, node.op, error.what, error.fix))
    b, *_ = _walk(model, Constants(), {}, note)
    return found, densely(b.steps)


def densely(steps: Sequence[Step]) -> dict[str, str]:
    """Nodes of which no product uses zeros, and how they are computed."""
    sparse = {s.name for s in steps if s.group}
    tiled = {s.name for s in steps if isinstance(s.kernel, WinogradInput)}
    return {s.name: "computed densely" + (" by Winograd's filtering" if s.name in tiled else "") + ", which is faster"
            for s in steps if s.macs and s.name not in sparse}


def _states(built, names: Sequence[str]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """dtype and shape of every state that an entry reads or writes; InputError where two entries differ."""
    kept: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name in names:
        for entry, b, _, _, pairs in built:
            read = b.buffers.get(_state_buffer(name))
            for one in (*([read] if read else []), *(view for source, view in pairs if source == name)):
                kind = (one.dtype, one.shape)
                if kept.setdefault(name, kind) != kind:
                    raise InputError(f"state {name!r} is {kept[name]} in one entry and {kind} in {entry!r}",
                                     fix="give the entries the same state, or other names")
    return kept


def _state_buffer(name: str) -> str:
    return f"state:{name}"


def _walk(model, constants: Constants, states, failed=None, products: str = "float32"):
    """One graph through the operators: the builder, input ports, output ports, and (state input, new value) pairs."""
    from onnx import numpy_helper
    graph = model.graph
    initializers = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    types = {**{n: (str(a.dtype), a.shape) for n, a in initializers.items()}, **_types(graph)}
    nodes = [_node(n) for n in graph.node]
    uses = Counter(name for n in nodes for name in n.inputs)
    uses.update(o.name for o in graph.output)
    scalars = {name for name, array in initializers.items() if array.size == 1}
    joined = joins(nodes, uses, lambda name: types[name][1], elementwise.OPERATORS, scalars)
    b = Builder(constants, initializers, types, uses, products=products, joins=joined)
    inputs, pairs = [], []
    written = {target: source for source, target in states.items()}
    for value in graph.input:
        if value.name in initializers:
            continue
        dtype, shape = types[value.name]
        _check_dtype(value.name, dtype)
        state = value.name in states
        view = b.fresh(dtype, shape, _state_buffer(value.name) if state else f"in:{value.name}")
        b.values[value.name] = of_view(view)
        if not state:
            inputs.append(Port(value.name, dtype, shape, view.buffer))
    for node in nodes:
        b.node = node
        try:
            if node.op not in OPERATORS:
                raise UnsupportedError(f"operator {node.op} is not supported", where=f"node {node.name}",
                                       fix="replace it by supported operators, or cut the model before it")
            for name in node.outputs:
                if name:
                    _check_dtype(name, types[name][0])
            OPERATORS[node.op](b, node)
        except EdgekitError as e:
            if failed is None:
                raise
            failed(node, e)
            for name in node.outputs:  # pretend, so that the rest can be looked at
                if name:
                    b.values[name] = of_view(b.fresh(types[name][0] if types[name][0] in DTYPES else "float32", types[name][1]))
    outputs: list[Port] = []
    taken: set[str] = set()
    b.node = Node("outputs", "Copy", (), (), {})
    for value in graph.output:
        if value.name in written:
            pairs.append((written[value.name], _own(b, value.name, taken)))
        else:
            view = _own(b, value.name, taken)
            outputs.append(Port(value.name, *types[value.name], view.buffer))
    return b, tuple(inputs), tuple(outputs), pairs


def _own(b: Builder, name: str, taken: set[str]) -> View:
    """The tensor in a buffer of its own, row-major from its start."""
    value = b.value(name)
    view = value.view
    if view is not None and view.contiguous and view.offset == 0 and view.buffer in b.buffers and view.buffer not in taken:
        buffer = b.buffers[view.buffer]
        if buffer.shape and int(np.prod(buffer.shape)) == int(np.prod(view.shape)) and not buffer.name.startswith(("in:", "state:")):
            taken.add(buffer.name)
            return replace(view, strides=row_major(view.shape))
    out = b.fresh(value.dtype, value.shape)
    b.write(value, out)
    taken.add(out.buffer)
    return out


def _memory(b: Builder, inputs, outputs, pairs, base: int) -> tuple[tuple[Buffer, ...], int]:
    """Every buffer of an entry that is touched, with its place."""
    first, last = {p.buffer: -1 for p in inputs}, {p.buffer: -1 for p in inputs}
    for k, step in enumerate(b.steps):
        for ref in step.args:
            first.setdefault(ref.buffer, k)
            last[ref.buffer] = k
    for buffer in [p.buffer for p in outputs] + [v.buffer for _, v in pairs]:
        first.setdefault(buffer, len(b.steps))
        last[buffer] = len(b.steps)
    own = {n: f for n, f in b.buffers.items() if n in first and not n.startswith("state:")}
    offsets, end = place([Need(n, f.nbytes, first[n], last[n]) for n, f in own.items()], base)
    return tuple(replace(f, offset=offsets[n]) for n, f in own.items()), end


def _check_dtype(name: str, dtype: str) -> None:
    if dtype not in DTYPES:
        raise UnsupportedError(f"dtype {dtype} is not compiled", where=f"tensor {name}", fix="convert the model to float32")


def _types(graph) -> dict[str, tuple[str, tuple[int, ...]]]:
    from onnx import TensorProto, helper
    out = {}
    for v in (*graph.input, *graph.value_info, *graph.output):
        kind = v.type.tensor_type
        try:
            dtype = str(np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)))
        except (KeyError, TypeError):
            dtype = TensorProto.DataType.Name(kind.elem_type).lower()
        out[v.name] = (dtype, tuple(d.dim_value for d in kind.shape.dim))
    return out


def _node(n) -> Node:
    from onnx import helper, numpy_helper
    attrs = {}
    for a in n.attribute:
        value = helper.get_attribute_value(a)
        if a.type == a.TENSOR:
            value = numpy_helper.to_array(value)
        elif isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        attrs[a.name] = value
    return Node(n.name, n.op_type, tuple(n.input), tuple(n.output), attrs)
