"""Small ONNX models for the tests of load, and what a clean model promises."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from edgekit.exporters.load.clean import clean
from edgekit.exporters.load.graph import OPSET

FLOAT = TensorProto.FLOAT


def node(op, inputs, outputs, **attrs):
    return helper.make_node(op, inputs.split(), outputs.split(), **attrs)


def model(nodes, inputs, outputs, constants=None, opset=OPSET, functions=(), domains=(), ir=8, name="tested"):
    """inputs: {name: shape or (type, shape)}; outputs: names or {name: (type, shape)}; constants: {name: array}."""

    def info(key, kind):
        kind = (
            kind
            if isinstance(kind, tuple) and len(kind) == 2 and isinstance(kind[1], (list, type(None)))
            else (FLOAT, kind)
        )
        return helper.make_tensor_value_info(key, *kind)

    outs = outputs if isinstance(outputs, dict) else {o: (FLOAT, None) for o in outputs.split()}
    graph = helper.make_graph(
        list(nodes),
        name,
        [info(k, v) for k, v in inputs.items()],
        [info(k, v) for k, v in outs.items()],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()],
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)],
        functions=list(functions),
        ir_version=ir,
    )


def run(proto, feeds):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {i.name: feeds[i.name] for i in session.get_inputs()})


def cleaned(proto, shapes=None, keep=None):
    """The one variant, checked for cleanliness."""
    ((_, result),) = clean(proto, shapes, keep)
    is_clean(result)
    return result


def feeds_of(proto, seed=0):
    rng = np.random.default_rng(seed)
    result = {}
    for value in proto.graph.input:
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        if dtype == np.bool_:
            result[value.name] = rng.integers(0, 2, shape).astype(bool)
        elif np.issubdtype(dtype, np.integer):
            result[value.name] = rng.integers(0, 3, shape).astype(dtype)
        else:
            result[value.name] = rng.standard_normal(shape).astype(dtype)
    return result


def agree(proto, shapes=None, keep=None, tolerance=1e-5):
    """The clean model, once it gave what onnxruntime gives for the original."""
    result = cleaned(proto, shapes, keep)
    for seed in range(2):
        feeds = feeds_of(result, seed)
        for want, got in zip(run(proto, feeds), run(result, feeds), strict=True):
            assert want.shape == got.shape and want.dtype == got.dtype
            np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
    return result


def ops(proto):
    return [n.op_type for n in proto.graph.node]


def is_clean(proto):
    """The promise of `edgekit.exporters.load.Variant`."""
    onnx.checker.check_model(proto, full_check=True)
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", OPSET)]
    assert not proto.functions
    graph = proto.graph
    names = [n.name for n in graph.node]
    assert all(names) and len(set(names)) == len(names)
    assert not {"Constant", "Dropout", "BatchNormalization", "Shape", "Size"} & {n.op_type for n in graph.node}
    assert all(
        a.type not in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) and not a.ref_attr_name
        for n in graph.node
        for a in n.attribute
    )
    assert {i.name for i in graph.initializer} <= {i for n in graph.node for i in n.input}
    infos = {v.name: v for v in [*graph.input, *graph.output, *graph.value_info]}
    for name in [o for n in graph.node for o in n.output if o] + [v.name for v in graph.input]:
        tensor = infos[name].type.tensor_type
        assert tensor.elem_type and all(d.HasField("dim_value") for d in tensor.shape.dim), name
    contents = [(i.data_type, tuple(i.dims), numpy_helper.to_array(i).tobytes()) for i in graph.initializer]
    assert len(set(contents)) == len(contents)
