"""A model without some channels: constants sliced, and the nodes mended that state sizes or numbers of channels."""
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.exporters.sparsify.channels.coupling import Graph
from edgekit.exporters.sparsify.channels.rules import GATES, attribute, slices
from edgekit.exporters.sparsify.graph import require_onnx

if TYPE_CHECKING:
    import onnx


class Removal:
    """gone: classes of labels that are removed; class_of: the class of each label."""

    def __init__(self, graph: Graph, class_of: np.ndarray, gone: set[int]):
        self.graph, self._class_of, self._gone = graph, class_of, np.array(sorted(gone), int)

    def kept(self, labels: np.ndarray) -> np.ndarray:
        """Boolean: which indices of an axis stay."""
        return ~np.isin(self._class_of[labels], self._gone)

    def loses(self, labels: np.ndarray) -> bool:
        return not self.kept(labels).all()

    def sizes(self, name: str) -> list[int]:
        """The new shape of a value."""
        return [int(self.kept(a).sum()) for a in self.graph.axes(name)]


def removed(graph: Graph, class_of: np.ndarray, gone: set[int]) -> "onnx.ModelProto":
    """A copy of the graph's model without the channels."""
    onnx = require_onnx()
    r = Removal(graph, class_of, gone)
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    for tensor in model.graph.initializer:
        axes = graph.values.get(tensor.name, [])
        if any(r.loses(a) for a in axes):
            small = graph.constants[tensor.name][np.ix_(*map(r.kept, axes))]
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(small), tensor.name))
    for node in model.graph.node:
        for operand, values in _stated(r, node).items():
            name = f"{node.output[0]}_kept_{operand}"
            while len(node.input) <= operand:
                node.input.append("")
            node.input[operand] = name
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(values, np.int64), name))
    used = {i for node in model.graph.node for i in node.input} | {o.name for o in model.graph.output}
    unused = [t for t in model.graph.initializer if t.name not in used and "_kept_" not in t.name]
    for tensor in unused if not _has_inner(model) else []:
        model.graph.initializer.remove(tensor)
    del model.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(model)


def _has_inner(model: Any) -> bool:
    return any(a.HasField("g") or a.graphs for node in model.graph.node for a in node.attribute)


def _stated(r: Removal, node: Any) -> dict[int, Any]:
    """Operands of a node that state sizes or indices, as they are without the channels; attributes are set in place."""
    g, x = r.graph, r.graph.axes(node.input[0]) if node.input and node.input[0] else []
    if node.op_type == "Conv" and attribute(node, "group", 1) > 1 and r.loses(x[1]):
        _set(node, "group", int(r.kept(x[1]).sum()))
    elif node.op_type in GATES and node.output and r.loses(g.axes(node.input[2])[2]):
        _set(node, "hidden_size", int(r.kept(g.axes(node.input[2])[2]).sum()))
    elif node.op_type in ("Reshape", "Expand") and any(r.loses(a) for a in g.axes(node.output[0])):
        return {1: r.sizes(node.output[0])}
    elif node.op_type == "Resize" and len(node.input) > 3 and node.input[3] and any(r.loses(a) for a in x):
        return {3: r.sizes(node.output[0])}
    elif node.op_type == "Gather" and node.input[1] in g.constants and g.constants[node.input[1]].ndim == 1:
        kept = r.kept(x[attribute(node, "axis", 0) % len(x)])
        index = g.constants[node.input[1]].astype(int) % len(kept)
        return {} if kept.all() else {1: (np.cumsum(kept) - 1)[index[kept[index]]]}
    elif node.op_type == "Slice" and any(r.loses(a) for a in x):
        parts = slices(g, node) or []
        before = [np.concatenate([[0], np.cumsum(r.kept(x[axis]))]) if step == 1 else np.arange(len(x[axis]) + 1) for axis, _, _, step in parts]
        return {1: [b[start] for b, (_, start, _, _) in zip(before, parts)], 2: [_end(b, *p) for b, p in zip(before, parts)],
                3: [p[0] for p in parts], 4: [p[3] for p in parts]}
    elif node.op_type == "Split":
        axis = attribute(node, "axis", 0) % len(x)
        if r.loses(x[axis]):
            sizes = [r.sizes(o)[axis] for o in node.output]
            for a in [a for a in node.attribute if a.name in ("split", "num_outputs")]:
                node.attribute.remove(a)
            if g.opset >= 13:
                return {1: sizes}
            node.attribute.append(require_onnx().helper.make_attribute("split", sizes))
    return {}


def _end(before: np.ndarray, axis: int, start: int, end: int, step: int) -> int:
    return int(before[end]) if end >= 0 else -len(before)  # past the first one, backwards


def _set(node: Any, name: str, value: int) -> None:
    for a in [a for a in node.attribute if a.name == name]:
        node.attribute.remove(a)
    node.attribute.append(require_onnx().helper.make_attribute(name, value))
