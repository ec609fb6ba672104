"""A clean ONNX graph as a torch module: any values of it from any others."""
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from edgekit.errors import InputError
from edgekit.exporters.sparsify.torch_graph import elementwise, movement, products, recurrent, reductions, sampling
from edgekit.exporters.sparsify.torch_graph.node import Node, NotInTorch
from edgekit.exporters.sparsify.torch_graph.reference import reference

OPERATORS = {**elementwise.OPERATORS, **movement.OPERATORS, **products.OPERATORS, **recurrent.OPERATORS, **reductions.OPERATORS,
             **sampling.OPERATORS}
DTYPES = {TensorProto.FLOAT: torch.float32, TensorProto.DOUBLE: torch.float64, TensorProto.FLOAT16: torch.float16,
          TensorProto.BFLOAT16: torch.bfloat16, TensorProto.BOOL: torch.bool, TensorProto.INT8: torch.int8,
          TensorProto.INT16: torch.int16, TensorProto.INT32: torch.int32, TensorProto.INT64: torch.int64, TensorProto.UINT8: torch.uint8}
LIVE_BYTES = 128 << 20  # values of a batch that are alive at once where no gradient is asked for


class Graph(nn.Module):
    """A graph as `exporters/load` gives it; floating-point initializers are its parameters.

    inputs, outputs: {name: shape}, without cases. shapes: of every value. layers of a recurrent node NODE have names of
    their own for what their weights multiply: see `recurrent.hidden_names`.
    """

    def __init__(self, model: onnx.ModelProto):
        super().__init__()
        graph = model.graph
        arrays = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
        kinds = {v.name: v.type.tensor_type for v in (*graph.input, *graph.value_info, *graph.output)}
        types = {n: t.elem_type for n, t in kinds.items()}
        self.shapes = {n: tuple(d.dim_value for d in t.shape.dim) for n, t in kinds.items()} | {n: a.shape for n, a in arrays.items()}
        self.inputs = {v.name: self.shapes[v.name] for v in graph.input if v.name not in arrays}
        self.outputs = {v.name: self.shapes[v.name] for v in graph.output}
        self.nodes = tuple(_read(n, k, arrays, self.shapes, types) for k, n in enumerate(graph.node))
        self.initializers = tuple(arrays)
        self.values, self._constants = nn.Module(), nn.Module()
        for name, array in arrays.items():
            tensor = _tensor(array)
            if tensor.is_floating_point():
                self.values.register_parameter(quoted(name), nn.Parameter(tensor))
            else:
                self._constants.register_buffer(quoted(name), tensor, persistent=False)
        self._plans: dict[tuple[frozenset[str], tuple[str, ...]], list[tuple[Node, tuple[str, ...]]]] = {}

    def weight(self, name: str) -> Tensor:
        """The floating-point initializer `name`, as parametrisations leave it."""
        return getattr(self.values, quoted(name))

    def is_weight(self, name: str) -> bool:
        """Whether `name` is a floating-point initializer."""
        return hasattr(self.values, quoted(name))

    def forward(self, **given: Tensor) -> dict[str, Tensor]:
        """All outputs by name from all inputs by name; axis 0 is the case."""
        return self.run(given, tuple(self.outputs))

    def run(self, given: Mapping[str, Tensor], want: Sequence[str], weights: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The values `want` from the values `given`; only the nodes between them run.

        given: (cases, *shape of the value) each. weights: instead of initializers of these names. Returns (cases, *shape)
        each. A value is freed at its last use. Where no gradient is recorded the cases go in batches of `LIVE_BYTES`.
        InputError for unknown names, wrong shapes, and values that `want` needs and `given` lacks.
        """
        plan = self._plan(given, tuple(want))
        cases = self._cases(given)
        names, tensors = list(given), [given[n] for n in given]
        constants = {**self._weights(), **(weights or {})}

        def one(*values: Tensor) -> tuple[Tensor, ...]:
            found = self._evaluate(plan, constants, dict(zip(names, values)))
            return tuple(found[n] for n in want)
        recorded = torch.is_grad_enabled() and any(t.requires_grad for t in (*tensors, *constants.values()))
        size = cases if recorded else min(cases, self.batch(given, want, LIVE_BYTES))
        parts = [torch.vmap(one, randomness="error")(*(t[k:k + size] for t in tensors)) for k in range(0, cases, size)]
        joined = parts[0] if len(parts) == 1 else [torch.cat(p) for p in zip(*parts)]
        return dict(zip(want, joined))

    def batch(self, given: Mapping[str, Any] | Sequence[str], want: Sequence[str], limit: int, gradient: bool = False) -> int:
        """How many cases fit in `limit` bytes of values: those alive at once, or all of them where a gradient needs them."""
        sizes = {n: 4 * prod(self.shapes.get(n, ())) for n in given}
        live = most = sum(sizes.values())
        for node, dead in self._plan(given, tuple(want)):
            for name, shape in zip(node.outputs, node.shapes):
                sizes[name] = 4 * prod(shape)
                live += sizes[name]
            most = max(most, live)
            live -= 0 if gradient else sum(sizes.get(n, 0) for n in dead)
        return max(1, limit // max(most, 1))

    def _weights(self) -> dict[str, Tensor]:
        return {n: self.weight(n) if self.is_weight(n) else getattr(self._constants, quoted(n)) for n in self.initializers}

    def _plan(self, given: Mapping[str, Any] | Sequence[str], want: tuple[str, ...]) -> list[tuple[Node, tuple[str, ...]]]:
        """The nodes to run in order, each with the values that nobody reads after it."""
        key = (frozenset(given), want)
        if key not in self._plans:
            self._plans[key] = list(self._planned(*key))
        return self._plans[key]

    def _planned(self, given: frozenset[str], want: tuple[str, ...]) -> Iterator[tuple[Node, tuple[str, ...]]]:
        known = given | set(self.initializers)
        unknown = [n for n in (*given, *want) if n not in self.shapes]
        if unknown:
            raise InputError(f"the graph has no value {unknown[0]!r}", fix="name inputs, outputs or values of the clean graph")
        needed, nodes = {n for n in want if n not in known}, []
        for node in reversed(self.nodes):
            if needed.intersection(node.outputs):
                nodes.append(node)
                needed.update(i for i in node.inputs if i and i not in known)
        made = {o for node in nodes for o in node.outputs}
        missing = sorted(needed - made)
        if missing:
            raise InputError(f"{want[0]!r} depends on {missing[0]!r}, which is not given", fix="give all of: " + ", ".join(missing))
        last: dict[str, Node] = {}
        for node in nodes:
            for name in (*node.inputs, *node.outputs):
                last.setdefault(name, node)
        dead: dict[Node, list[str]] = {node: [] for node in nodes}
        for name, node in last.items():
            if name and name not in self.initializers and name not in want:
                dead[node].append(name)
        for node in reversed(nodes):
            yield node, tuple(dead[node])

    def _cases(self, given: Mapping[str, Tensor]) -> int:
        counts = set()
        for name, tensor in given.items():
            if tuple(tensor.shape[1:]) != self.shapes[name] or tensor.ndim == 0:
                raise InputError(f"{name!r} has the shape {list(tensor.shape)}", where=name,
                                 fix=f"give cases along axis 0: (cases, {', '.join(map(str, self.shapes[name]))})")
            counts.add(len(tensor))
        if len(counts) != 1 or 0 in counts:
            raise InputError("the given values hold different numbers of cases, or none", fix="give each the same cases, at least one")
        return counts.pop()

    def _evaluate(self, plan: list[tuple[Node, tuple[str, ...]]], constants: Mapping[str, Tensor], values: dict[str, Tensor]
                  ) -> dict[str, Tensor]:
        for node, dead in plan:
            inputs = [None if not i else values[i] if i in values else constants[i] for i in node.inputs]
            found = self._node(node, inputs)
            values.update((n, t) for n, t in zip(node.outputs, found) if n)
            for name in dead:
                del values[name]
        return {**constants, **values}

    def _node(self, node: Node, inputs: Sequence[Tensor | None]) -> Sequence[Tensor]:
        run = OPERATORS.get(node.op)
        plain = all(t is None or t.dtype in DTYPES.values() for t in inputs) and None not in node.dtypes
        if run is not None and plain:
            try:
                found = run(node, *inputs)
                return found if isinstance(found, tuple) else (found,)
            except NotInTorch:
                pass
        return reference(node, inputs)


def quoted(name: str) -> str:
    """A name without dots, which torch keeps for submodules."""
    return name.replace("%", "%25").replace(".", "%2E") or "%"


def _tensor(array: np.ndarray) -> Tensor:
    """A copy; types that numpy borrows from others (bfloat16) by way of float32."""
    array = np.array(array)
    if array.dtype.kind not in "fiub":
        wide = torch.from_numpy(array.astype(np.float32))
        return wide.to(torch.bfloat16) if array.dtype.name == "bfloat16" else wide
    return torch.from_numpy(array)


def _read(proto: onnx.NodeProto, number: int, arrays: Mapping[str, np.ndarray], shapes: dict[str, tuple[int, ...]],
          types: dict[str, int]) -> Node:
    attrs = {}
    for a in proto.attribute:
        value = helper.get_attribute_value(a)
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        elif isinstance(value, list):
            value = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in value]
        attrs[a.name] = value
    name, outputs = proto.name or f"{proto.op_type}_{number}", tuple(proto.output)
    if proto.op_type in recurrent.DEFAULTS:
        own = 3 if proto.op_type == "LSTM" else 2
        steps, batch = shapes[proto.input[0]][:2][::-1 if attrs.get("layout", 0) else 1]
        directions, _, hidden = shapes[proto.input[2]]
        extra = recurrent.hidden_names(proto.op_type, name, attrs)
        shapes.update((n, (steps, directions, batch, hidden)) for n in extra)
        types.update((n, types.get(proto.input[0], TensorProto.FLOAT)) for n in extra)
        outputs = (*outputs, *[""] * (own - len(outputs)), *extra)
    kinds = tuple(types.get(o, TensorProto.FLOAT) for o in outputs)
    return Node(name, proto.op_type, tuple(proto.input), outputs, attrs, tuple(arrays.get(i) for i in proto.input),
                tuple(shapes.get(o, ()) for o in outputs), kinds, tuple(DTYPES.get(k) for k in kinds))
