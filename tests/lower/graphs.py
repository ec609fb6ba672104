"""Small ONNX models for tests, and the way from a model to the plan's numbers in numpy."""
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from edgekit.exporters.load import load
from edgekit.exporters.lower import lower, supported
from tests.reference import Machine

OPSET = 21


def model(nodes, inputs: dict, outputs, constants: dict | None = None) -> onnx.ModelProto:
    """nodes: helper.make_node results. inputs: name -> array that shows dtype and shape. outputs: names."""
    graph = helper.make_graph(
        list(nodes), "g",
        [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.UNDEFINED, None) for n in outputs],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in (constants or {}).items()])
    for o in graph.output:
        o.type.Clear()
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    inferred = onnx.shape_inference.infer_shapes(made, strict_mode=True, data_prop=True)
    return inferred


def reference(m: onnx.ModelProto, inputs: dict) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [o.name for o in m.graph.output]
    return dict(zip(names, session.run(names, inputs), strict=True))


def plan_of(m, **how):
    loaded = load(m, keep=supported(), name="m", **how)
    return lower("m", [(v.name, v.model) for v in loaded.variants], loaded.states)


def check(m: onnx.ModelProto, inputs: dict, tolerance: float = 2e-5):
    """The plan of m, run in numpy, agrees with onnxruntime; the plan."""
    plan, weights = plan_of(m)
    got = Machine(plan, weights).run(plan.entries[0], inputs)
    for name, expected in reference(m, inputs).items():
        assert got[name].shape == expected.shape and got[name].dtype == expected.dtype, name
        scale = np.abs(expected.astype(np.float64)).max(initial=1e-6)
        assert np.allclose(got[name], expected, rtol=tolerance, atol=tolerance * scale, equal_nan=True), \
            f"{name}: {np.abs(got[name] - expected).max()} of {scale}"
    return plan
