"""The clean graph being built: values with static shapes, nodes appended in order, constants computed at once.

`Builder.emit` is the only way in. It infers the output types of one node (onnx's own rules), and either computes the
node (all inputs constant) or appends it. So folding and shape inference are one forward walk, and a shape that is not
known when its node is emitted depends on the data.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekit.errors import InputError, ShapeError, UnsupportedError
from edgekit.exporters.load.evaluate import bits, evaluate, infer

OPSET = 21          # every clean graph: old enough for any ONNX runtime in use, new enough to need no legacy attribute
IR_VERSION = 10     # the one that came with opset 21
FOLD_LIMIT = 4 << 20         # a constant result larger than this, and than twice its inputs, is left to be computed
TENSOR_LIMIT = 1 << 31       # bytes of one tensor
NODE_LIMIT = 50_000          # after unrolling
RANDOM = frozenset({"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial",
                    "Bernoulli"})
# Element types of OPSET: those that Identity takes.
TYPES = frozenset(number for name, number in TensorProto.DataType.items() if f"tensor({name.lower()})" in next(
    c.allowed_type_strs for c in onnx.defs.get_schema("Identity", OPSET, "").type_constraints))


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor: ONNX element type, static shape, and its content where that is known (then it is a constant)."""

    name: str
    dtype: int
    shape: tuple[int, ...]
    data: np.ndarray | None = None


@dataclass(frozen=True)
class Graph:
    """A finished graph. types: (element type, shape) of every tensor that is not a constant. outputs: (name, value)."""

    inputs: tuple[str, ...]
    outputs: tuple[tuple[str, str], ...]
    nodes: tuple[onnx.NodeProto, ...]
    constants: dict[str, np.ndarray]
    types: dict[str, tuple[int, tuple[int, ...]]]


def where(op: str, name: str) -> str:
    return f"node {name} ({op})" if name else f"a node of type {op}"


def check_type(dtype: int, at: str) -> None:
    """UnsupportedError unless `dtype` is an element type of OPSET, text aside."""
    if dtype == TensorProto.STRING:
        raise UnsupportedError("text", where=at, fix="turn text into numbers outside of the model")
    if dtype not in TYPES:
        raise UnsupportedError(f"opset {OPSET} has no element type {dtype}", where=at, fix="use float32 there")


@dataclass
class Builder:
    """Collects nodes and constants. reserved: names that only graph inputs and outputs may carry."""

    reserved: frozenset[str] = frozenset()
    unfolded: frozenset[str] = frozenset()          # operators kept even if all their inputs are constants
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)
    _taken: set[str] = field(default_factory=set)
    _counter: Counter[str] = field(default_factory=Counter)

    def fresh(self, wish: str) -> str:
        """A name nobody has yet: `wish` itself, or with a number behind it."""
        name = wish
        while name in self._taken or name in self.reserved or not name:
            self._counter[wish] += 1
            name = f"{wish}_{self._counter[wish]}"
        self._taken.add(name)
        return name

    def constant(self, data: Any, name: str = "constant") -> Value:
        data = np.asarray(data)
        value = Value(self.fresh(name), helper.np_dtype_to_tensor_dtype(data.dtype), data.shape, data)
        self.values[value.name] = value
        return value

    def input(self, name: str, dtype: int, shape: tuple[int, ...]) -> Value:
        check_type(dtype, f"input {name}")
        self._taken.add(name)
        value = Value(name, dtype, shape)
        self.values[name] = value
        return value

    def emit(self, op: str, inputs: Sequence[Value | None], attrs: dict[str, Any] | None = None,
             outputs: Sequence[str] = ("",), name: str = "") -> list[Value]:
        """Appends one operator of OPSET, or computes it. outputs: wished names. ShapeError: data-dependent shape."""
        attrs = attrs or {}
        name = name or op
        ins = list(inputs)
        while ins and ins[-1] is None:
            ins.pop()
        types: list[tuple[int, tuple[int, ...]]] = []
        given = [None if v is None else (v.dtype, v.shape, v.data) for v in ins]
        for dtype, shape in infer(op, given, attrs, len(outputs), OPSET, where(op, name)):
            check_type(dtype, where(op, name))
            if shape is None:
                raise ShapeError(f"the output shape of {op} depends on the data", where=where(op, name),
                                 fix="edgekit compiles static shapes: pad to a fixed size and mask in the model")
            if min(shape, default=1) < 0:
                raise ShapeError(f"{op} would have the output shape {list(shape)}", where=where(op, name),
                                 fix="check the shapes of its inputs")
            if prod(shape) * bits(dtype) // 8 > TENSOR_LIMIT:
                raise InputError(f"{op} makes a tensor of shape {list(shape)}, over 2 GB", where=where(op, name),
                                 fix="edgekit is for small nets: make the input or the model smaller")
            types.append((dtype, shape))
        wishes = [wish or f"{name}_out" for wish in outputs]
        if all(prod(shape) == 0 for _, shape in types):
            return [self.constant(np.zeros(shape, helper.tensor_dtype_to_np_dtype(dtype)), wish)
                    for (dtype, shape), wish in zip(types, wishes)]
        arrays = [v.data for v in ins if v is not None and v.data is not None]
        if len(arrays) == sum(v is not None for v in ins) and op not in RANDOM | self.unfolded:
            grown = sum(prod(shape) * bits(dtype) // 8 for dtype, shape in types)
            if grown <= max(FOLD_LIMIT, 2 * sum(a.nbytes for a in arrays)):
                found = evaluate(op, [None if v is None else v.data for v in ins], attrs, types, OPSET)
                if found is not None:
                    return [self.constant(array, wish) for array, wish in zip(found, wishes)]
        if len(self.nodes) >= NODE_LIMIT:
            raise InputError(f"the graph has more than {NODE_LIMIT} nodes once loops are unrolled",
                             where=where(op, name), fix="edgekit unrolls loops: make them shorter")
        results = [Value(self.fresh(wish), dtype, shape) for (dtype, shape), wish in zip(types, wishes)]
        self.values.update((v.name, v) for v in results)
        names = ["" if v is None else v.name for v in ins]
        self.nodes.append(make_node(op, names, [v.name for v in results], attrs, name))
        return results

    def finish(self, inputs: Sequence[Value], outputs: Sequence[tuple[str, Value]]) -> Graph:
        constants = {v.name: v.data for v in self.values.values() if v.data is not None}
        types = {v.name: (v.dtype, v.shape) for v in self.values.values() if v.data is None}
        return Graph(tuple(v.name for v in inputs), tuple((name, v.name) for name, v in outputs),
                     tuple(self.nodes), constants, types)


def make_node(op: str, inputs: Sequence[str], outputs: Sequence[str], attrs: dict[str, Any],
              name: str) -> onnx.NodeProto:
    """helper.make_node, with attribute types from the schema (an empty list has no type of its own)."""
    node = helper.make_node(op, inputs, outputs, name=name)
    known = onnx.defs.get_schema(op, OPSET, "").attributes
    for key, value in sorted(attrs.items()):
        kind = known[key].type.value if key in known else None
        node.attribute.append(helper.make_attribute(key, value, attr_type=kind))
    return node


def to_model(graph: Graph, name: str) -> onnx.ModelProto:
    """Serialises a graph: unique node names, value_info for every tensor, outputs under their given names.

    An Identity node is made only for an output that is a graph input, a constant, or the same tensor as another output.
    """
    nodes = []
    renamed: dict[str, str] = {}
    produced = {output for node in graph.nodes for output in node.output}
    copies = []
    for output, value in graph.outputs:
        if value in produced and value not in renamed:
            renamed[value] = output
        else:
            copies.append((output, value))
    for node in graph.nodes:
        new = onnx.NodeProto()
        new.CopyFrom(node)
        new.input[:] = [renamed.get(i, i) for i in node.input]
        new.output[:] = [renamed.get(o, o) for o in node.output]
        nodes.append(new)
    nodes += [helper.make_node("Identity", [renamed.get(value, value)], [output], name=f"{output}_copy")
              for output, value in copies]
    _name_nodes(nodes)
    outputs = dict(graph.outputs)

    def info(tensor: str, value: str) -> onnx.ValueInfoProto:
        if value in graph.constants:
            data = graph.constants[value]
            return helper.make_tensor_value_info(tensor, helper.np_dtype_to_tensor_dtype(data.dtype), data.shape)
        return helper.make_tensor_value_info(tensor, *graph.types[value])

    used = {i for node in nodes for i in node.input}
    inner = [renamed.get(o, o) for node in graph.nodes for o in node.output if o]
    proto = helper.make_graph(
        nodes, name,
        [info(i, i) for i in graph.inputs],
        [info(output, value) for output, value in graph.outputs],
        [numpy_helper.from_array(data, key) for key, data in graph.constants.items() if key in used],
        value_info=[info(tensor, value) for value in (o for n in graph.nodes for o in n.output if o)
                    for tensor in (renamed.get(value, value),) if tensor not in outputs])
    assert len(set(inner)) == len(inner)
    return helper.make_model(proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION,
                             producer_name="edgekit")


def _name_nodes(nodes: list[onnx.NodeProto]) -> None:
    taken: set[str] = set()
    for node in nodes:
        wish, number = node.name or node.op_type, 0
        node.name = wish
        while node.name in taken:
            number += 1
            node.name = f"{wish}_{number}"
        taken.add(node.name)


def element_name(dtype: int) -> str:
    return TensorProto.DataType.Name(dtype).lower()
