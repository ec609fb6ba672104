"""Passes over a finished graph: affine steps into the layer before, equal constants shared, unused parts dropped."""
from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace

import numpy as np
import onnx

from edgekit.exporters.load.graph import OPSET, Graph

FLOATS = (np.float16, np.float32, np.float64)


def drop_unused(graph: Graph) -> Graph:
    """Without nodes and constants that no output needs, and without results that nobody reads at a node's end."""
    needed = {value for _, value in graph.outputs}
    nodes = []
    for node in reversed(graph.nodes):
        if needed.intersection(node.output):
            kept = onnx.NodeProto()
            kept.CopyFrom(node)
            least = onnx.defs.get_schema(kept.op_type, OPSET, "").min_output
            least = len(kept.output) if kept.op_type == "Split" else least
            while len(kept.output) > least and kept.output[-1] not in needed:
                kept.output.pop()
            needed.update(i for i in node.input if i)
            nodes.append(kept)
    made = {o for node in nodes for o in node.output} | set(graph.inputs)
    return replace(graph, nodes=tuple(nodes[::-1]), constants={k: v for k, v in graph.constants.items() if k in needed},
                   types={k: v for k, v in graph.types.items() if k in made})


def share_constants(graph: Graph) -> Graph:
    """Constants of the same type, shape and bytes become one."""
    first: dict[tuple[str, tuple[int, ...], bytes], str] = {}
    same = {name: first.setdefault((str(a.dtype), a.shape, hashlib.sha256(a.tobytes()).digest()), name)
            for name, a in graph.constants.items()}
    nodes = []
    for node in graph.nodes:
        new = onnx.NodeProto()
        new.CopyFrom(node)
        new.input[:] = [same.get(i, i) for i in node.input]
        nodes.append(new)
    outputs = tuple((name, same.get(value, value)) for name, value in graph.outputs)
    return replace(graph, nodes=tuple(nodes), outputs=outputs)


def fold_affine(graph: Graph) -> Graph:
    """Products and sums with a constant per output channel go into the Conv, ConvTranspose, Gemm or MatMul before them.

    Only where nothing else reads that layer's output. This is what becomes of batch normalisation after a layer. A
    MatMul takes products only (it has no bias). Computed in float64, stored in the weights' type.
    """
    constants, types = dict(graph.constants), dict(graph.types)
    uses = Counter(i for node in graph.nodes for i in node.input)
    uses.update(value for _, value in graph.outputs)
    producer: dict[str, onnx.NodeProto] = {}
    nodes: list[onnx.NodeProto] = []
    for original in graph.nodes:
        node = onnx.NodeProto()
        node.CopyFrom(original)
        source, constant = _operands(node, constants)
        layer = producer.get(source) if source and uses[source] == 1 else None
        factor = _per_channel(constants[constant], types[source][1], layer) if layer is not None else None
        if layer is not None and factor is not None and _absorb(layer, node.op_type, factor, constants):
            result = node.output[0]
            layer.output[0] = result
            producer[result] = layer
            continue
        nodes.append(node)
        producer.update((o, node) for o in node.output)
    return replace(graph, nodes=tuple(nodes), constants=constants)


def _operands(node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> tuple[str, str]:
    """(the varying operand, the constant operand) of a foldable Mul, Div, Add or Sub; ('', '') of any other node."""
    if node.op_type not in ("Mul", "Add", "Div", "Sub") or len(node.input) != 2:
        return "", ""
    a, b = node.input
    if b in constants and a not in constants:
        return a, b
    if a in constants and b not in constants and node.op_type in ("Mul", "Add"):
        return b, a
    return "", ""


def _per_channel(constant: np.ndarray, shape: tuple[int, ...], layer: onnx.NodeProto) -> np.ndarray | None:
    """The constant as one float64 value an output channel of `layer`; None if it varies otherwise, or is not finite."""
    axis = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": len(shape) - 1}.get(layer.op_type)
    if axis is None or axis < 0 or constant.ndim > len(shape) or constant.dtype.type not in FLOATS:
        return None
    full = constant.reshape((1,) * (len(shape) - constant.ndim) + constant.shape)
    varies = any(n not in (1, shape[k] if k == axis else 1) for k, n in enumerate(full.shape))
    if varies or not np.isfinite(full).all():
        return None
    return np.broadcast_to(full.reshape(-1).astype(np.float64), (shape[axis],))


def _absorb(layer: onnx.NodeProto, op: str, c: np.ndarray, constants: dict[str, np.ndarray]) -> bool:
    """Changes `layer` so that it computes `op` with c as well. False, and no change, where it cannot."""
    inputs = list(layer.input)
    weight = constants.get(inputs[1])
    bias = constants.get(inputs[2]) if len(inputs) > 2 and inputs[2] else None
    attrs = {a.name: onnx.helper.get_attribute_value(a) for a in layer.attribute}
    if weight is None or weight.dtype.type not in FLOATS or (len(inputs) > 2 and inputs[2] and bias is None):
        return False
    product = op in ("Mul", "Div")
    if layer.op_type == "MatMul" and (not product or weight.ndim < 1 or weight.shape[-1] != len(c)):
        return False
    if op == "Div" and not c.all():
        return False
    c = 1 / c if op == "Div" else -c if op == "Sub" else c

    def store(index: int, array: np.ndarray, wish: str) -> None:
        name, number = wish, 0
        while name in constants:
            number += 1
            name = f"{wish}_{number}"
        constants[name] = array.astype(weight.dtype)
        while len(layer.input) <= index:
            layer.input.append("")
        layer.input[index] = name

    if product:
        wide = weight.astype(np.float64)
        if layer.op_type == "Conv":
            wide *= c.reshape((-1, *[1] * (weight.ndim - 1)))
        elif layer.op_type == "ConvTranspose":
            groups = attrs.get("group", 1)
            wide *= np.repeat(c.reshape(groups, 1, -1), weight.shape[0] // groups, axis=1
                              ).reshape(weight.shape[0], -1, *[1] * (weight.ndim - 2))
        elif layer.op_type == "Gemm" and attrs.get("transB", 0):
            wide *= c[:, None]
        else:
            wide *= c
        store(1, wide, inputs[1])
    if bias is None and product:
        return True
    wide_bias = np.zeros(1) if bias is None else bias.astype(np.float64)
    if layer.op_type == "Gemm":
        wide_bias = wide_bias * attrs.get("beta", 1.0)
        for attribute in [a for a in layer.attribute if a.name == "beta"]:
            layer.attribute.remove(attribute)
    store(2, wide_bias * c if product else wide_bias + c, inputs[2] if bias is not None else f"{layer.name}_bias")
    return True
