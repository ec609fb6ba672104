"""Runs a model on shapes: one forward walk that inlines, unrolls, folds, upgrades and infers.

Inputs are values with a static shape; every node is looked at once, in order, knowing the shapes (and contents, where
constant) of what it reads. So a function call is its body traced with the call's inputs; an If is the branch that its
constant condition takes; a Loop is its body traced once a trip; Shape is a constant; and what is left is emitted at one
opset with all shapes known (see `graph.Builder.emit`).
"""
from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto, helper, numpy_helper

from edgekit.errors import InputError, UnsupportedError
from edgekit.exporters.load import control, sequences
from edgekit.exporters.load.call import Call, Item, attribute
from edgekit.exporters.load.fits import check_fit
from edgekit.exporters.load.graph import OPSET, Builder, Graph, Value
from edgekit.exporters.load.opset import normalise
from edgekit.exporters.load.simplify import SIMPLER, batch_normalization, dropout

DEPTH_LIMIT = 64      # of calls and subgraphs in one another
Functions = Mapping[tuple[str, str, str], FunctionProto]


@dataclass(frozen=True)
class Scope:
    """Where a node stands. env: what its names mean; versions: opset of each domain; attrs: of the enclosing call."""

    env: ChainMap[str, Item]
    versions: Mapping[str, int]
    functions: Functions
    keep: frozenset[str] | None
    attrs: Mapping[str, AttributeProto] = field(default_factory=dict)
    prefix: str = ""
    depth: int = 0

    def inner(self, **changes: Any) -> Scope:
        if self.depth >= DEPTH_LIMIT:
            raise InputError(f"functions or subgraphs lie more than {DEPTH_LIMIT} deep (a function that calls itself?)",
                             where=self.prefix.rstrip("/"))
        return replace(self, depth=self.depth + 1, **changes)


def trace(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]], keep: frozenset[str] | None = None) -> Graph:
    """The model for these input shapes (one for every input that is not an initializer) as a clean graph.

    keep: operators that later parts know; any other that ONNX gives a function body is expanded. None: expand none.
    """
    proto = model.graph
    outputs = [v.name for v in proto.output]
    initial = {i.name for i in proto.initializer} | {s.values.name for s in proto.sparse_initializer}
    entry = [v for v in proto.input if v.name not in initial]
    unfolded = frozenset({"DequantizeLinear"}) if keep is None or "DequantizeLinear" in keep else frozenset()
    builder = Builder(frozenset(outputs) | {v.name for v in entry}, unfolded)
    inputs = [builder.input(v.name, v.type.tensor_type.elem_type, shapes[v.name]) for v in entry]
    functions = {(_domain(f.domain), f.name, f.overload): f for f in model.functions}
    env: ChainMap[str, Item] = ChainMap({v.name: v if prod(v.shape) else _empty(builder, v) for v in inputs})
    scope = Scope(env, _versions(model.opset_import), functions, keep)
    results = trace_graph(builder, proto, scope)
    for name, item in zip(outputs, results):
        if not isinstance(item, Value):
            raise UnsupportedError(f"output {name} is a sequence or an optional", where=f"output {name}",
                                   fix="make each of its tensors an output")
    return builder.finish(inputs, [(name, item) for name, item in zip(outputs, results) if isinstance(item, Value)])


def _empty(builder: Builder, value: Value) -> Value:
    """An input without elements holds no information: a constant stands for it."""
    return builder.constant(np.zeros(value.shape, helper.tensor_dtype_to_np_dtype(value.dtype)), f"{value.name}_empty")


def trace_graph(builder: Builder, graph: GraphProto, scope: Scope) -> list[Item]:
    """The outputs of a graph whose inputs `scope.env` already holds."""
    for tensor in graph.initializer:
        scope.env[tensor.name] = builder.constant(array(tensor, scope.prefix + tensor.name), tensor.name)
    for sparse in graph.sparse_initializer:
        name = sparse.values.name
        scope.env[name] = builder.constant(dense(sparse, scope.prefix + name), name)
    _trace_nodes(builder, graph.node, scope)
    return [_look_up(scope, value.name, f"output {value.name}") for value in graph.output]


def _trace_nodes(builder: Builder, nodes: Iterable[NodeProto], scope: Scope) -> None:
    for number, node in enumerate(nodes):
        name = scope.prefix + (node.name or f"{node.op_type}_{number}")
        at = f"node {name} ({node.op_type})"
        inputs = tuple(_look_up(scope, i, at) if i else None for i in node.input)
        attrs = {p.name: scope.attrs[p.ref_attr_name] if p.ref_attr_name else p for p in node.attribute
                 if not p.ref_attr_name or p.ref_attr_name in scope.attrs}
        outputs = tuple(node.output)
        results = _trace_node(builder, node, inputs, attrs, outputs, name, scope)
        for output, item in zip(outputs, results):
            if output:
                scope.env[output] = item


def _trace_node(builder: Builder, node: NodeProto, inputs: tuple[Item, ...], attrs: dict[str, AttributeProto],
                outputs: tuple[str, ...], name: str, scope: Scope) -> list[Item]:
    domain = _domain(node.domain)
    at = f"node {name} ({node.op_type})"
    function = scope.functions.get((domain, node.op_type, node.overload))
    if function is not None:
        return _inline(builder, function, inputs, attrs, outputs, f"{name}/", scope)
    if domain:
        raise UnsupportedError(f"operator {node.op_type} of domain {domain}", where=at,
                               fix="export the model with standard operators only (before any runtime optimises it)")
    version = scope.versions.get("", 0)
    call = Call(node.op_type, inputs, {k: attribute(p) for k, p in attrs.items()}, outputs, name, version)
    if call.op in STRUCTURAL:
        return STRUCTURAL[call.op](builder, call, scope)
    try:
        schema = onnx.defs.get_schema(call.op, version, "")
    except onnx.defs.SchemaError:
        raise UnsupportedError(f"operator {call.op} is not in ONNX opset {version}", where=at,
                               fix="export the model with standard ONNX operators only") from None
    if not _exists(call.op, OPSET) and call.op not in RENAMED or call.op in BY_BODY and version < BY_BODY[call.op]:
        return _expand(builder, call, schema, attrs, scope, must=True)
    done = normalise(builder, call)
    if isinstance(done, list):
        return list(done)
    check_fit(done)
    foldable = all(v is None or v.data is not None for v in done.tensors())
    if scope.keep is not None and done.op not in scope.keep and done.op not in SIMPLER and not foldable:
        schema = onnx.defs.get_schema(done.op, OPSET, "")
        if schema.has_function or schema.has_context_dependent_function:
            protos = {k: onnx.helper.make_attribute(k, v, attr_type=schema.attributes[k].type.value)
                      for k, v in done.attrs.items()}
            return _expand(builder, done, schema, protos, scope, must=False)
    simpler = SIMPLER.get(done.op)
    result = simpler(builder, done) if simpler else None
    return list(done.emit(builder)) if result is None else result


def _inline(builder: Builder, function: FunctionProto, inputs: tuple[Item, ...], attrs: Mapping[str, AttributeProto],
            outputs: tuple[str, ...], prefix: str, scope: Scope) -> list[Item]:
    """The body of a function with the call's inputs in place of its own. Names inside get `prefix`.

    outputs: the call's; the body may lack those that are '' or not there.
    """
    env: ChainMap[str, Item] = ChainMap(dict(zip(function.input, (*inputs, *[None] * len(function.input)))))
    defaults = {p.name: p for p in function.attribute_proto}
    inner = scope.inner(env=env, versions=_versions(function.opset_import) or scope.versions,
                        attrs={**defaults, **attrs}, prefix=prefix)
    _trace_nodes(builder, function.node, inner)
    return [_look_up(inner, made, f"function {function.name}") if wanted else None
            for wanted, made in zip(outputs, function.output)]


def _expand(builder: Builder, call: Call, schema: onnx.defs.OpSchema, attrs: Mapping[str, AttributeProto], scope: Scope,
            must: bool) -> list[Item]:
    """An operator by the function body that ONNX gives for it. must: there is no other way to express it."""
    body = _body(call, schema, attrs)
    if body is None:
        if must:
            raise UnsupportedError(f"{call.op} is not in opset {OPSET} and has no body of standard operators",
                                   where=call.where, fix=f"export the model with opset {OPSET} or older")
        return list(call.emit(builder))
    defaults = {k: a.default_value for k, a in schema.attributes.items() if a.default_value.name}
    return _inline(builder, body, call.inputs, {**defaults, **attrs}, call.outputs, f"{call.name}/", scope)


def _body(call: Call, schema: onnx.defs.OpSchema, attrs: Mapping[str, AttributeProto]) -> FunctionProto | None:
    result = FunctionProto()
    if schema.has_context_dependent_function:
        names = [f"i{k}" if v is not None else "" for k, v in enumerate(call.inputs)]
        node = helper.make_node(call.op, names, [o or f"o{k}" for k, o in enumerate(call.outputs)])
        node.attribute.extend(attrs.values())
        types = [helper.make_tensor_type_proto(v.dtype, v.shape) if v is not None else onnx.TypeProto()
                 for v in call.tensors()]
        for version in sorted(schema.context_dependent_function_opset_versions, reverse=True):
            if version <= call.version:
                text = schema.get_context_dependent_function_with_opset_version(
                    version, node.SerializeToString(), [t.SerializeToString() for t in types])
                if text:
                    result.ParseFromString(text)
                    return result
    if schema.has_function:
        for version in sorted(schema.function_opset_versions, reverse=True):
            if version <= call.version:
                result.ParseFromString(schema.get_function_with_opset_version(version))
                return result
    return None


def _constant(builder: Builder, call: Call, scope: Scope) -> list[Item]:
    """Constant in all its spellings."""
    kinds: dict[str, Callable[[Any], np.ndarray]] = {
        "value": lambda v: array(v, call.outputs[0]), "sparse_value": lambda v: dense(v, call.outputs[0]),
        "value_float": lambda v: np.asarray(v, np.float32), "value_floats": lambda v: np.asarray(v, np.float32),
        "value_int": lambda v: np.asarray(v, np.int64), "value_ints": lambda v: np.asarray(v, np.int64)}
    for key, value in call.attrs.items():
        if key in kinds:
            return [builder.constant(kinds[key](value), call.outputs[0])]
    raise UnsupportedError("Constant holds text, or nothing", where=call.where)


def _identity(builder: Builder, call: Call, scope: Scope) -> list[Item]:
    return [call.item(0)]


def _shape(builder: Builder, call: Call, scope: Scope) -> list[Item]:
    shape = call.value(0).shape
    start, end = call.attrs.get("start", 0), call.attrs.get("end", len(shape))
    return [builder.constant(np.asarray(shape[start:end], np.int64), call.outputs[0])]


def _size(builder: Builder, call: Call, scope: Scope) -> list[Item]:
    return [builder.constant(np.asarray(np.prod(call.value(0).shape, dtype=np.int64)), call.outputs[0])]


def _controlled(rule: Callable[[Builder, Call, control.Run], list[Item]]
                ) -> Callable[[Builder, Call, Scope], list[Item]]:
    """A rule that traces subgraphs: they see the names around them."""
    def apply(builder: Builder, call: Call, scope: Scope) -> list[Item]:
        def run(body: GraphProto, given: dict[str, Item], prefix: str) -> list[Item]:
            return trace_graph(builder, body, scope.inner(env=ChainMap(given, *scope.env.maps), prefix=prefix))
        return rule(builder, call, run)
    return apply


def _plain(rule: Callable[[Builder, Call], list[Item]]) -> Callable[[Builder, Call, Scope], list[Item]]:
    return lambda builder, call, scope: rule(builder, call)


# Operators that are not emitted as they are, whatever their opset.
STRUCTURAL: dict[str, Callable[[Builder, Call, Scope], list[Item]]] = {
    "Constant": _constant, "Identity": _identity, "Shape": _shape, "Size": _size,
    "Dropout": _plain(dropout), "BatchNormalization": _plain(batch_normalization),
    "If": _controlled(control.branch), "Loop": _controlled(control.loop), "Scan": _controlled(control.scan),
    **{op: _plain(rule) for op, rule in sequences.RULES.items()},
}
RENAMED = frozenset({"Upsample", "Scatter"})       # gone from OPSET, and brought to their successors by a rule
BY_BODY = {"GroupNormalization": 21}               # before that opset it meant something else, which its old body says


def _exists(op: str, version: int) -> bool:
    try:
        return not onnx.defs.get_schema(op, version, "").deprecated
    except onnx.defs.SchemaError:
        return False


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _versions(imports: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    return {_domain(o.domain): o.version for o in imports}


def _look_up(scope: Scope, name: str, at: str) -> Item:
    if name not in scope.env:
        raise InputError(f"{name!r} is used but nothing produces it", where=at,
                         fix="the model is damaged: export it again")
    return scope.env[name]


def array(tensor: TensorProto, name: str) -> np.ndarray:
    """A tensor's content. InputError: fewer or more bytes than its shape needs; UnsupportedError: text."""
    if tensor.data_type == TensorProto.STRING:
        raise UnsupportedError("a tensor of strings", where=f"constant {name}", fix="remove text from the model")
    try:
        return numpy_helper.to_array(tensor)
    except Exception as error:  # noqa: BLE001 - whatever a damaged tensor raises
        raise InputError(f"its content does not fit its type and shape ({error})", where=f"constant {name}",
                         fix="the model is damaged: export it again") from None


def dense(sparse: onnx.SparseTensorProto, name: str) -> np.ndarray:
    """A sparse tensor (values, and flat or per-axis indices) as an array."""
    values, indices = array(sparse.values, name), array(sparse.indices, name)
    shape = tuple(sparse.dims)
    try:
        result = np.zeros(shape, values.dtype)
        if indices.ndim == 1:
            result.reshape(-1)[indices] = values
        else:
            result[tuple(indices.T)] = values
    except (IndexError, ValueError, MemoryError) as error:
        raise InputError(f"a sparse tensor does not fit its shape ({error})", where=f"constant {name}") from None
    return result
