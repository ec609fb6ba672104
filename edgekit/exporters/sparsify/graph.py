"""The layers of clean ONNX graphs as the rules see them: weights, multiply-adds, what lies before and behind."""
import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import InputError, MissingToolError
from edgekit.exporters.sparsify.rules import LEFT, TRANSPOSED, Facts, grouped

if TYPE_CHECKING:
    import onnx

GATES = ("LSTM", "GRU", "RNN")
PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", *GATES}


@dataclass(frozen=True)
class Product:
    """One multiplication of a graph. weight: the initializer, "" if there is none. layout: of the weights:

    "rows" outputs first, "columns" inputs first, "stack" a matrix of rows for each direction.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    weight: str
    layout: str
    facts: Facts


@dataclass
class Weight:
    """Weights with all their uses, in all variants of a model. places: (number of the model, initializer, layout)."""

    name: str
    op: str
    shape: tuple[int, ...]
    facts: Facts
    model: int
    places: list[tuple[int, str, str]] = field(default_factory=list)


def require_onnx() -> Any:
    """The onnx package, or MissingToolError."""
    try:
        import onnx
        import onnx.numpy_helper
        import onnx.shape_inference
    except ImportError:
        raise MissingToolError("onnx is not installed", fix="pip install 'edgekit-deploy[export]'") from None
    return onnx


def matrices(weight: np.ndarray, layout: str) -> np.ndarray:
    """Weights as a stack of matrices (count, outputs, inputs): one each direction of a recurrent layer, else one."""
    if layout == "stack":
        return weight
    return weight.T[None] if layout == "columns" else weight.reshape(1, len(weight), math.prod(weight.shape[1:]))


def restore(stack: np.ndarray, shape: tuple[int, ...], layout: str) -> np.ndarray:
    """The inverse of `matrices`."""
    return np.ascontiguousarray(stack[0].T if layout == "columns" else stack.reshape(shape))


def finite(name: str, stack: np.ndarray) -> np.ndarray:
    """The weights of the layer `name`, or InputError."""
    if not np.isfinite(stack).all():
        raise InputError("the weights are not finite", where=name, fix="train or export the model again")
    return stack


def with_values(model: "onnx.ModelProto", values: Mapping[str, np.ndarray]) -> "onnx.ModelProto":
    """A copy of the model whose initializers have these values, in their own types."""
    onnx = require_onnx()
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for t in made.graph.initializer:
        if t.name in values:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(t.data_type)
            t.CopyFrom(onnx.numpy_helper.from_array(np.asarray(values[t.name], dtype), t.name))
    return made


def weights(models: "Sequence[onnx.ModelProto]") -> list[Weight]:
    """Every product of the models, one item for weights of the same content wherever they are used.

    Facts are joined: multiply-adds are summed over the uses in the first model that has the weights; a use that makes
    the weights stay dense does so for all.
    """
    onnx = require_onnx()
    found: dict[Any, Weight] = {}
    for number, model in enumerate(models):
        arrays = {t.name: t for t in model.graph.initializer}
        keys: dict[tuple[str, str], Any] = {}
        for product in products(model):
            place = (product.weight, product.layout)
            if not product.weight:
                key: Any = ("node", product.name)
            elif place in keys:
                key = keys[place]
            else:
                array = onnx.numpy_helper.to_array(arrays[product.weight])
                stack = array if product.facts.blocked else matrices(array, product.layout)
                key = keys[place] = (hashlib.sha256(stack.tobytes()).digest(), stack.shape, str(stack.dtype))
            weight = found.get(key)
            if weight is None:
                weight = found[key] = Weight(product.name, product.op, product.shape, product.facts, number)
            else:
                weight.facts = _joined(weight.facts, product.facts, weight.model == number)
            if product.weight and (number, *place) not in weight.places:
                weight.places.append((number, *place))
    return list(found.values())


def _joined(a: Facts, b: Facts, same_model: bool) -> Facts:
    return replace(a, kind="conv" if "conv" in (a.kind, b.kind) else a.kind, macs=a.macs + b.macs * same_model,
                   first=a.first or b.first, head=a.head or b.head, blocked=a.blocked or b.blocked)


def products(model: "onnx.ModelProto") -> list[Product]:
    """The products of one graph, in its order."""
    graph = model.graph
    shapes = shapes_of(model)
    given = {v.name for v in graph.input}
    constants = {t.name: t for t in graph.initializer if t.name not in given}
    deep, head = _reach(graph, constants)
    found: list[Product] = []
    for number, node in enumerate(graph.node):
        if node.op_type in PRODUCTS and node.domain in ("", "ai.onnx"):
            first = not any(i in deep for i in node.input)
            facts = {"first": first, "head": node.output[0] in head if node.output else False}
            found += _read(node, node.name or f"{node.op_type}_{number}", constants, shapes, facts)
    return _unshared(graph, found)


def _read(node: Any, name: str, constants: dict[str, Any], shapes: dict[str, tuple[int, ...]],
          facts: dict[str, bool]) -> Iterable[Product]:
    """The products of one node: two of a recurrent one, else one."""
    attrs = {a.name: a for a in node.attribute}
    out = math.prod(shapes.get(next((o for o in node.output if o), ""), ()))
    op, inputs = node.op_type, list(node.input)

    def product(weight: str, part: str, outputs: int, fan_in: int, macs: int, blocked: str,
                layout: str = "rows") -> Product:
        kind = "recurrent" if op in GATES else "conv" if op.startswith("Conv") else "linear"
        if weight not in constants:
            blocked = blocked or "its weights are not constant"
        elif not blocked and constants[weight].data_type not in (1, 10, 11):
            blocked = "its weights are not floating-point numbers"
        return Product(name + part, op, shapes.get(weight, ()), weight if weight in constants else "", layout,
                       Facts(kind, outputs, fan_in, macs, **facts, blocked=blocked))

    if op in GATES:
        steps = math.prod(shapes.get(inputs[0], ())[:2])
        for weight, part in zip(inputs[1:3], (".W", ".R")):
            directions, outputs, fan_in = _padded(shapes.get(weight, ()), 3)
            yield product(weight, part, outputs, fan_in, steps * directions * outputs * fan_in, "", "stack")
    elif op in ("Conv", "ConvTranspose"):
        shape = shapes.get(inputs[1], ())
        outputs, fan_in = (shape[0], math.prod(shape[1:])) if shape else (0, 0)
        groups = attrs["group"].i if "group" in attrs else 1
        if op == "ConvTranspose":
            macs, blocked = math.prod(shapes.get(inputs[0], ())) * fan_in, TRANSPOSED
        else:
            macs, blocked = out * fan_in, ""
            if groups > 1:
                blocked = grouped(shape[1] if shape else 0)
        yield product(inputs[1], "", outputs, fan_in, macs, blocked)
    elif op == "Gemm":
        columns = not (attrs["transB"].i if "transB" in attrs else 0)
        shape = _padded(shapes.get(inputs[1], ()), 2)
        outputs, fan_in = shape[::-1] if columns else shape
        yield product(inputs[1], "", outputs, fan_in, out * fan_in, "", "columns" if columns else "rows")
    elif op == "MatMul":
        left, right = shapes.get(inputs[0], ()), shapes.get(inputs[1], ())
        fan_in = left[-1] if left else 1
        outputs = right[-1] if len(right) > 1 else 1
        weight = next((i for i in (inputs[1], inputs[0]) if i in constants), "")
        blocked = ("both factors are computed" if not weight else
                   LEFT if weight == inputs[0] and len(left) == 2 else
                   "its weights are a batch of matrices" if weight == inputs[0] or len(right) != 2 else "")
        if blocked == LEFT:
            outputs = left[0]
        yield product(weight, "", outputs, fan_in, out * fan_in, blocked, "rows" if blocked else "columns")
    else:
        weight = next((i for i in inputs if i in constants), "")
        macs = out * _contracted(attrs["equation"].s.decode(), [shapes.get(i, ()) for i in inputs])
        yield product(weight, "", 0, 0, macs, "it is an einsum" if weight else "both factors are computed")


def _padded(shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    return shape if len(shape) == rank else (0,) * rank


def _contracted(equation: str, shapes: list[tuple[int, ...]]) -> int:
    """Product of the extents that an einsum sums over."""
    left, _, right = equation.replace(" ", "").partition("->")
    extents: dict[str, int] = {}
    for labels, shape in zip(left.split(","), shapes):
        before, dots, behind = labels.partition("...")
        extents |= dict(zip(before, shape))
        extents |= dict(zip(reversed(behind), reversed(shape))) if dots else {}
    return math.prod(n for label, n in extents.items() if label not in right)


def _unshared(graph: Any, found: list[Product]) -> list[Product]:
    """Blocks weights that are used in two ways: by two layouts, or by a node that is no product (an embedding, say)."""
    layouts: dict[str, set[str]] = defaultdict(set)
    uses: dict[str, int] = defaultdict(int)
    for p in found:
        layouts[p.weight].add(p.layout)
        uses[p.weight] += 1
    readers: dict[str, list[str]] = defaultdict(list)
    for node in _all_nodes(graph):
        for name in node.input:
            readers[name].append(f"{node.op_type} {node.name}".strip())
    outputs = {v.name for v in graph.output}

    def reason(p: Product) -> str:
        if p.facts.blocked or not p.weight:
            return p.facts.blocked
        if len(layouts[p.weight]) > 1:
            return "its weights are used in two ways, once transposed"
        if len(readers[p.weight]) > uses[p.weight]:
            return "its weights are also used by another kind of node"
        return "its weights are an output of the model" if p.weight in outputs else ""

    return [replace(p, facts=replace(p.facts, blocked=reason(p))) for p in found]


def _all_nodes(graph: Any) -> Iterable[Any]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                yield from _all_nodes(inner)


def _reach(graph: Any, constants: dict[str, Any]) -> tuple[set[str], set[str]]:
    """deep: values with a layer before them. head: values that become an output of the model, no other layer behind.

    A gate ends the way to an output: what a GRU or LSTM cell written out multiplies with a sigmoid is no head.
    """
    deep: set[str] = set()
    gates: set[str] = set()  # values like sigmoid(z) or 1 - sigmoid(z)
    layer = []
    for node in graph.node:
        layer.append(node.op_type in GATES or node.op_type in PRODUCTS and any(i in constants for i in node.input[1:2]))
        if layer[-1] or any(i in deep for i in node.input):
            deep.update(o for o in node.output if o)
        computed = [i for i in node.input if i in deep]
        shifted = node.op_type in ("Add", "Sub", "Neg", "Split", "Slice", "Identity")
        if node.op_type in ("Sigmoid", "HardSigmoid") or shifted and computed and gates.issuperset(computed):
            gates.update(node.output)
    simple = {v.name for v in graph.output}
    inner: set[str] = set()  # values with a layer behind them
    for node, is_layer in zip(reversed(graph.node), reversed(layer)):
        if is_layer or any(o in inner for o in node.output):
            inner.update(node.input)
        if not is_layer and any(o in simple for o in node.output) and not _gates(node, deep, gates):
            simple.update(node.input)
    return deep, simple - inner


def _gates(node: Any, deep: set[str], gates: set[str]) -> bool:
    computed = [i for i in node.input if i in deep]
    if node.op_type in ("MatMul", "Einsum"):
        return len(computed) > 1
    return node.op_type == "Mul" and (len(computed) > 1 or any(i in gates for i in computed))


def shapes_of(model: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of all values; a dimension that is not known counts as 1."""
    onnx = require_onnx()

    def known(graph: Any) -> dict[str, tuple[int, ...]]:
        values = [*graph.input, *graph.output, *graph.value_info]
        found = {v.name: tuple(d.dim_value or 1 for d in v.type.tensor_type.shape.dim)
                 for v in values if v.type.tensor_type.HasField("shape")}
        return found | {t.name: tuple(t.dims) for t in graph.initializer}

    shapes = known(model.graph)
    if any(o and o not in shapes for node in model.graph.node for o in node.output):
        shapes = known(onnx.shape_inference.infer_shapes(model).graph) | shapes
    return shapes
