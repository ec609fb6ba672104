"""Proof that removal was right: the narrower model in onnxruntime against the given one, in which every sum over removed
channels leaves them out, and layer normalisation over them takes the others alone."""
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import InputError, MissingToolError, VerificationError
from edgekit.exporters.sparsify.channels.coupling import Graph
from edgekit.exporters.sparsify.channels.remove import Removal
from edgekit.exporters.sparsify.graph import require_onnx

if TYPE_CHECKING:
    import onnx

# Where normal numbers make no finite ones, those between 0 and 1 prove more; whole numbers up to 1, else 0.
DRAWS = (("standard_normal", 2), ("random", 2), ("standard_normal", 1), ("random", 1))
TOLERANCE = 1e-3  # of the largest value: sums in another order, through a whole net


def verify(graph: Graph, class_of: np.ndarray, gone: set[int], narrow: "onnx.ModelProto") -> None:
    """VerificationError where the models differ on drawn inputs by more than TOLERANCE, InputError where they do not run."""
    masked = without(graph, class_of, gone)
    given = [i for i in masked.graph.input if i.name not in graph.constants]
    failed: Exception | None = None
    for numbers, most in DRAWS:
        rng = np.random.default_rng(0)
        inputs = {i.name: _drawn(rng, numbers, most, i.type.tensor_type) for i in given}
        try:
            expected = _run(masked, inputs)
        except Exception as error:  # noqa: BLE001 - onnxruntime has no common error class; whole numbers may be indices
            failed = error
            continue
        _compare(masked, expected, _run(narrow, inputs))
        if all(np.isfinite(e).all() for e in expected if e.dtype.kind == "f"):
            return
        failed = None
    if failed:
        raise InputError(f"onnxruntime cannot run the model: {failed}", where=graph.model.graph.name, fix="check the model with onnxruntime")


def _compare(masked: Any, expected: list[np.ndarray], got: list[np.ndarray]) -> None:
    for name, e, n in zip((o.name for o in masked.graph.output), expected, got):
        if e.dtype.kind != "f":
            continue  # may jump where sums in another order differ in the last bit
        near = TOLERANCE * np.abs(e[np.isfinite(e)]).max(initial=0)
        if e.shape != n.shape or not np.allclose(n, e, 0, near, equal_nan=True):
            raise VerificationError("without its channels the model makes other numbers than with them left out",
                                    where=f"{masked.graph.name}, output {name}",
                                    fix="use another pattern, and please report this with the model")


def without(graph: Graph, class_of: np.ndarray, gone: set[int]) -> "onnx.ModelProto":
    """The given model with the removed channels left out of every sum."""
    onnx = require_onnx()
    helper, to_tensor = onnx.helper, onnx.numpy_helper.from_array
    r = Removal(graph, class_of, gone)
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    del model.graph.value_info[:]
    types = _types(graph.model)
    for tensor in model.graph.initializer:
        for axis in (a for name, a in graph.columns if name == tensor.name):
            w = np.moveaxis(graph.constants[tensor.name].copy(), axis, 0)
            w[~r.kept(graph.axes(tensor.name)[axis])] = 0
            tensor.CopyFrom(to_tensor(np.ascontiguousarray(np.moveaxis(w, 0, axis)), tensor.name))
    nodes = []
    for number, original in enumerate(graph.model.graph.node):
        node = onnx.NodeProto()
        node.CopyFrom(original)
        for _, operand, axis in (s for s in graph.sums if s[0] == number):
            name = original.input[operand]
            labels = graph.axes(name)
            if r.loses(labels[axis]):
                mask = r.kept(labels[axis]).reshape([-1 if k == axis else 1 for k in range(len(labels))])
                new = f"{node.output[0]}_{operand}_{axis}_masked"
                model.graph.initializer.append(to_tensor(mask.astype(types[name]), f"{new}_by"))
                nodes.append(helper.make_node("Mul", [node.input[operand], f"{new}_by"], [new]))
                node.input[operand] = new
        kept = r.kept(graph.axes(original.input[0])[-1]) if node.op_type == "LayerNormalization" else np.ones(1, bool)
        nodes += [node] if kept.all() else _normalised(model, node, kept, {n: graph.constants[n] for n in node.input[1:] if n})
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _normalised(model: Any, node: Any, kept: np.ndarray, constants: dict[str, np.ndarray]) -> list[Any]:
    """Layer normalisation of the kept indices of the last axis; the others hold a number that no sum reads."""
    onnx = require_onnx()
    out = node.output[0]
    place = np.where(kept, np.cumsum(kept) - 1, 0)
    new = {f"{out}_kept": np.flatnonzero(kept), f"{out}_place": place,
           **{f"{out}_{n}": a[kept] for n, a in constants.items()}}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(np.ascontiguousarray(a), n) for n, a in new.items())
    make, x = onnx.helper.make_node, node.input[0]
    for k, name in enumerate(node.input[1:], 1):
        node.input[k] = f"{out}_{name}" if name else ""
    node.input[0], node.output[0] = f"{out}_few", f"{out}_normal"
    return [make("Gather", [x, f"{out}_kept"], [f"{out}_few"], axis=-1), node,
            make("Gather", [f"{out}_normal", f"{out}_place"], [out], axis=-1)]


def _types(model: Any) -> dict[str, np.dtype]:
    onnx = require_onnx()
    inferred = onnx.shape_inference.infer_shapes(model).graph
    found = {v.name: v.type.tensor_type.elem_type for v in (*inferred.input, *inferred.output, *inferred.value_info)}
    found |= {t.name: t.data_type for t in model.graph.initializer}
    return {n: onnx.helper.tensor_dtype_to_np_dtype(t) for n, t in found.items() if t}


def _run(model: Any, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    try:
        import onnxruntime
    except ImportError:
        raise MissingToolError("onnxruntime is not installed", fix="pip install 'edgekit-deploy[export]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def _drawn(rng: np.random.Generator, numbers: str, most: int, kind: Any) -> np.ndarray:
    dtype = require_onnx().helper.tensor_dtype_to_np_dtype(kind.elem_type)
    shape = [d.dim_value or 1 for d in kind.shape.dim]
    return np.asarray(getattr(rng, numbers)(shape) if dtype.kind == "f" else rng.integers(0, most, shape), dtype)
