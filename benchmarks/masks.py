"""Which weights are zero: counted in a pruned model, and the patterns that edgekit does not make itself."""
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

Layers = Sequence[Mapping]  # of a bundle's manifest


def eligible(layers: Layers) -> list[Mapping]:
    """Layers that were pruned; the manifest gives a reason for each of the others."""
    return [x for x in layers if x["sparsity"]]


def sparsity(model: onnx.ModelProto, layers: Layers) -> float:
    """Share of zeros over the weights of those layers, counted in the model; 0 where there are none."""
    found = [numpy_helper.to_array(t) for _, t in _weights(model, layers)]
    return 1 - sum(int(np.count_nonzero(w)) for w in found) / sum(w.size for w in found) if found else 0.0


def masked(model: onnx.ModelProto, layers: Layers, keep: Callable[[np.ndarray], np.ndarray]) -> onnx.ModelProto:
    """A copy of a dense model with the weights of those layers where `keep` of (outputs, inputs) holds, else zero."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node, tensor in _weights(copy, layers):
        w = numpy_helper.to_array(tensor)
        turned = node.op_type == "MatMul" or node.op_type == "Gemm" and not _attribute(node, "transB")
        flat = w.T if turned else w.reshape(-1, w.shape[-1]) if node.op_type in ("LSTM", "GRU") else w.reshape(len(w), -1)
        kept = np.where(keep(flat), flat, np.float32(0))
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(kept.T if turned else kept.reshape(w.shape)), tensor.name))
    return copy


def filled(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose matrices have 1e-20 for 0: the same results, and nothing that could be left out."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        w = numpy_helper.to_array(tensor)
        if w.dtype == np.float32 and w.ndim > 1:
            tensor.CopyFrom(numpy_helper.from_array(np.where(w == 0, np.float32(1e-20), w), tensor.name))
    return copy


def unstructured(share: float) -> Callable[[np.ndarray], np.ndarray]:
    """Drops the least of all weights."""
    def keep(w: np.ndarray) -> np.ndarray:
        return np.abs(w) > np.quantile(np.abs(w), share)
    return keep


def neighbours(share: float, v: int = 4) -> Callable[[np.ndarray], np.ndarray]:
    """Groups of v neighbouring outputs drop the inputs of least norm, as many in each group."""
    def keep(w: np.ndarray) -> np.ndarray:
        padded = np.pad(w, ((0, -len(w) % v), (0, 0)))
        norm = np.square(padded).reshape(-1, v, w.shape[1]).sum(1)
        rank = norm.argsort(1).argsort(1)
        return np.repeat(rank >= round(share * w.shape[1]), v, 0)[:len(w)]
    return keep


def matrices(model: onnx.ModelProto) -> list[np.ndarray]:
    """The constant matrices (outputs, inputs) that a model of linear layers multiplies by, in order."""
    constants = {t.name: t for t in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if node.op_type in ("Gemm", "MatMul") and node.input[1] in constants:
            w = numpy_helper.to_array(constants[node.input[1]])
            found.append(np.ascontiguousarray(w if node.op_type == "Gemm" and _attribute(node, "transB") else w.T))
    return found


def _weights(model: onnx.ModelProto, layers: Layers) -> Iterator[tuple[onnx.NodeProto, onnx.TensorProto]]:
    """Node and tensor of each layer: named as the node, or with .W or .R behind it."""
    constants = {t.name: t for t in model.graph.initializer}
    nodes = {n.name: n for n in model.graph.node}
    for layer in layers:
        name, part = layer["name"], ""
        if name not in nodes:
            name, _, part = name.rpartition(".")
        node = nodes[name]
        places = {"W": node.input[1:2], "R": node.input[2:3]}.get(part, node.input)
        yield node, next(constants[i] for i in places if i in constants and list(constants[i].dims) == layer["shape"])


def _attribute(node: onnx.NodeProto, name: str) -> int:
    return next((a.i for a in node.attribute if a.name == name), 0)
