"""One operator at a time: the types of its outputs (onnx's inference) and, on constants, their values (onnxruntime)."""
from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekit.errors import InputError, UnsupportedError

Typed = tuple[int, tuple[int, ...], "np.ndarray | None"]
SHAPE_DATA = 4096      # elements; larger constants are weights and never decide a shape
# Function operators that come without an inference rule; their first output is like their first input.
LIKE_INPUT = frozenset({"GroupNormalization", "MeanVarianceNormalization"})

POOLS = frozenset({"AveragePool", "LpPool", "MaxPool"})


def bits(dtype: int) -> int:
    """Bits of one element."""
    if dtype == TensorProto.STRING:
        return 8
    if dtype in (TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1):
        return 4
    return helper.tensor_dtype_to_np_dtype(dtype).itemsize * 8


def infer(op: str, inputs: Sequence[Typed | None], attrs: dict[str, Any], outputs: int, opset: int,
          where: str) -> list[tuple[int, tuple[int, ...] | None]]:
    """(element type, shape) of each output; shape None where it depends on data. InputError: inputs do not fit."""
    from edgekit.exporters.load.graph import make_node

    if op in LIKE_INPUT and inputs and inputs[0] is not None:
        return [(inputs[0][0], inputs[0][1])]
    if op == "Range":               # function bodies of ONNX's own give it tensors of one element
        inputs = [(v[0], (), v[2] if v[2] is None else v[2].reshape(())) if v and prod(v[1]) == 1 else v
                  for v in inputs]
    if op == "STFT":                # whose inference takes another default than its definition
        attrs = {"onesided": 1, **attrs}
    names = [f"i{k}" if v is not None else "" for k, v in enumerate(inputs)]
    node = make_node(op, names, [f"o{k}" for k in range(outputs)], attrs, "")
    types = {n: helper.make_tensor_type_proto(v[0], v[1]) for n, v in zip(names, inputs) if v is not None}
    data = {n: numpy_helper.from_array(v[2], n) for n, v in zip(names, inputs)
            if v is not None and v[2] is not None and v[2].size <= SHAPE_DATA}
    try:
        found = onnx.shape_inference.infer_node_outputs(
            onnx.defs.get_schema(op, opset, ""), node, types, data, opset_imports=[helper.make_opsetid("", opset)])
    except Exception as error:  # noqa: BLE001 - InferenceError, ValidationError, RuntimeError...
        if "unsupported type" in str(error):
            raise UnsupportedError(f"opset {opset} has no {op} of this element type ({_short(error)})", where=where,
                                   fix="use float32 there") from None
        raise InputError(f"{op} does not accept its inputs: {_short(error)}", where=where,
                         fix="the model is not valid ONNX: check it with onnx.checker and export it again") from None
    result: list[tuple[int, tuple[int, ...] | None]] = []
    for k in range(outputs):
        kind = found.get(f"o{k}")
        if kind is None or not kind.HasField("tensor_type"):
            raise InputError(f"the type of output {k} of {op} is not known", where=where)
        dims = kind.tensor_type.shape.dim
        known = kind.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dims)
        result.append((kind.tensor_type.elem_type, tuple(d.dim_value for d in dims) if known else None))
    if op in POOLS and attrs.get("ceil_mode", 0) and inputs[0] is not None:
        result = [(dtype, shape and _inside(shape, inputs[0][1], attrs)) for dtype, shape in result]
    return result


def _inside(shape: tuple[int, ...], image: tuple[int, ...], attrs: dict[str, Any]) -> tuple[int, ...]:
    """The shape of a pool without windows that start behind the image, which inference before opset 22 counts."""
    r = len(shape) - 2
    strides, pads = attrs.get("strides", [1] * r), attrs.get("pads", [0] * 2 * r)
    return (*shape[:2], *(n - ((n - 1) * s >= have + before)
                          for n, s, have, before in zip(shape[2:], strides, image[2:], pads)))


def evaluate(op: str, inputs: Sequence[np.ndarray | None], attrs: dict[str, Any],
             types: Sequence[tuple[int, tuple[int, ...] | None]], opset: int) -> list[np.ndarray] | None:
    """The outputs of `op` on constants by onnxruntime, else by onnx's reference evaluator; None if neither can."""
    from edgekit.exporters.load.graph import make_node

    if op == "Range":
        inputs = [v.reshape(()) if v is not None and v.size == 1 else v for v in inputs]
    names = [f"i{k}" if v is not None else "" for k, v in enumerate(inputs)]
    feed = {n: v for n, v in zip(names, inputs) if v is not None}
    node = make_node(op, names, [f"o{k}" for k in range(len(types))], attrs, op)
    graph = helper.make_graph(
        [node], "node",
        [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for n, v in feed.items()],
        [helper.make_tensor_value_info(f"o{k}", dtype, shape) for k, (dtype, shape) in enumerate(types)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    # onnxruntime ends the process on some operators (GRU) given nothing at all.
    empty = any(v.size == 0 for v in feed.values())
    for run in (_reference,) if empty else (_onnxruntime, _reference):
        try:
            found = [np.asarray(array) for array in run(model, feed)]
        except Exception:  # noqa: BLE001, S112 - an operator or type that it lacks: the next one may know it
            continue
        if all(a.shape == shape and helper.np_dtype_to_tensor_dtype(a.dtype) == dtype
               for a, (dtype, shape) in zip(found, types)):
            return found
    return None


def _onnxruntime(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feed)


def _reference(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[Any]:
    import onnx.reference

    with np.errstate(all="ignore"):
        return onnx.reference.ReferenceEvaluator(model).run(None, feed)


def _short(error: Exception) -> str:
    """The last useful line of a message of onnx's C++ part."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__).removeprefix("[ShapeInferenceError]").strip()[:300]
