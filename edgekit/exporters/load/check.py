"""Refuses models that are broken, before anything walks them: each with where and what to do."""
from __future__ import annotations

from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor  # type: ignore[import-untyped]
from google.protobuf.message import Message  # type: ignore[import-untyped]
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, numpy_helper

from edgekit.errors import InputError

AGAIN = "export the model again"
FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16})
# Operators and the first of their inputs that are weights: there, infinity is damage (in a mask it is meant).
WEIGHTED = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 0, "LSTM": 1, "GRU": 1, "RNN": 1, "PRelu": 1,
            "BatchNormalization": 1, "InstanceNormalization": 1, "LayerNormalization": 1, "GroupNormalization": 1,
            "RMSNormalization": 1}


def check(model: onnx.ModelProto) -> None:
    """InputError for anything that onnx's checker refuses, cycles, missing values, and NaN or infinite weights."""
    _text(model)
    _versions(model)
    graph = model.graph
    if not graph.output:
        raise InputError("the model has no outputs" + ("" if graph.node else " and no nodes"), fix=AGAIN)
    _order(graph)
    for value in graph.output:          # what is declared of outputs is not used: shapes are inferred
        if not value.type.WhichOneof("value"):
            value.type.tensor_type.elem_type = TensorProto.FLOAT
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # noqa: BLE001 - ValidationError, and what else its C++ part throws
        text = " ".join(str(error).split())
        if "is deprecated in domain_version" not in text:       # the tracer knows what came after those
            raise InputError(f"invalid ONNX: {text[:400]}", fix=AGAIN) from None
    _finite(model)


def _text(message: Message) -> None:
    """Looks at every text: where one is not UTF-8, protobuf fails here (or gives bytes) rather than deep inside."""
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_STRING:
            for text in [value] if isinstance(value, (str, bytes)) else value:
                if not isinstance(text, str):
                    raise InputError("a name in it is not UTF-8", fix=AGAIN)
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in [value] if isinstance(value, Message) else value:
                _text(inner)


def _versions(model: onnx.ModelProto) -> None:
    if model.ir_version > onnx.IR_VERSION:
        raise InputError(f"IR version {model.ir_version} is newer than {onnx.IR_VERSION}, the newest that onnx "
                         f"{onnx.__version__} knows", fix="pip install -U onnx, or export it with an older opset")
    newest = onnx.defs.onnx_opset_version()
    versions = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    if model.ir_version < 1 or not model.opset_import:
        raise InputError("the model does not say which ONNX version and opset it has: it is damaged or no ONNX model",
                         fix=AGAIN)
    for version in versions:
        if not 1 <= version <= newest:
            raise InputError(f"opset {version} is not one of 1 to {newest}, those that onnx {onnx.__version__} knows",
                             fix=f"pip install -U onnx, or export the model with opset {newest} or older")


def _order(graph: GraphProto) -> None:
    """Sorts the nodes if they are not sorted. InputError: a cycle, a value made twice, or one that nothing makes."""
    outside = {v.name for v in graph.input} | {i.name for i in graph.initializer}
    outside |= {s.values.name for s in graph.sparse_initializer}
    inputs, outputs = [v.name for v in graph.input], [v.name for v in graph.output]
    for name in inputs + outputs:
        if (inputs + outputs).count(name) > 1:
            raise InputError(f"{name!r} names two of the inputs and outputs", where=f"graph {graph.name}",
                             fix="give every input and output a name of its own")
    maker: dict[str, int] = {}
    for number, node in enumerate(graph.node):
        for output in filter(None, node.output):
            if output in maker or output in outside:
                raise InputError(f"{output!r} is produced twice", where=_at(node), fix=AGAIN)
            maker[output] = number
    wanted: dict[int, list[int]] = {}
    for number, node in enumerate(graph.node):
        wanted[number] = []
        for name in _reads(node):
            if name in maker:
                wanted[number].append(maker[name])
            elif name not in outside:
                raise InputError(f"{name!r} is used but nothing produces it", where=_at(node), fix=AGAIN)
    for value in graph.output:
        if value.name not in maker and value.name not in outside:
            raise InputError("nothing produces it", where=f"output {value.name!r}", fix=AGAIN)
    if all(before < number for number, befores in wanted.items() for before in befores):
        return
    try:
        order = list(TopologicalSorter(wanted).static_order())
    except CycleError as error:
        names = " -> ".join(graph.node[k].name or graph.node[k].op_type for k in error.args[1])
        raise InputError(f"the graph has a cycle: {names}", fix=AGAIN) from None
    nodes = [graph.node[k] for k in order]
    del graph.node[:]
    graph.node.extend(nodes)


def _reads(node: NodeProto, depth: int = 0) -> set[str]:
    """Names that a node takes from around it, those of its subgraphs included."""
    if depth > 64:
        raise InputError("subgraphs lie more than 64 deep", where=_at(node), fix=AGAIN)
    names = set(filter(None, node.input))
    for graph in _subgraphs(node):
        local = {v.name for v in graph.input} | {i.name for i in graph.initializer}
        local |= {s.values.name for s in graph.sparse_initializer} | {o for n in graph.node for o in n.output}
        reads = set().union(*(_reads(n, depth + 1) for n in graph.node)) | {o.name for o in graph.output}
        names |= reads - local
    return names


def _subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _finite(model: onnx.ModelProto) -> None:
    weights = {name for node in model.graph.node if node.op_type in WEIGHTED
               for name in node.input[WEIGHTED[node.op_type]:]}
    stack: list[GraphProto] = [model.graph]
    while stack:
        graph = stack.pop()
        for tensor in graph.initializer:
            finite(tensor, tensor.name, tensor.name in weights)
        for node in graph.node:
            stack.extend(_subgraphs(node))
            for attribute in node.attribute:
                if attribute.type == AttributeProto.TENSOR and node.op_type == "Constant" and node.output:
                    finite(attribute.t, node.output[0], node.output[0] in weights)


def finite(tensor: TensorProto, name: str, weight: bool) -> None:
    """InputError if a constant holds NaN, or a weight infinity."""
    if tensor.data_type not in FLOATS:
        return
    try:
        data = numpy_helper.to_array(tensor)
    except Exception as error:  # noqa: BLE001 - whatever a damaged tensor raises
        raise InputError(f"its content does not fit its type and shape ({error})", where=f"weight {name}",
                         fix="the model is damaged: " + AGAIN) from None
    data = data.astype(np.float32) if tensor.data_type == TensorProto.BFLOAT16 else data
    bad = int(np.isnan(data).sum())
    what = "NaN"
    if not bad and weight:
        bad, what = int(np.isinf(data).sum()), "infinite"
    if bad:
        raise InputError(f"{bad} of {data.size} values are {what}", where=f"weight {name}",
                         fix="train or export the model again: these weights cannot give usable numbers")


def _at(node: NodeProto) -> str:
    return f"node {node.name} ({node.op_type})" if node.name else f"a node of type {node.op_type}"
