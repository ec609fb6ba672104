"""What is too large for 32 bits is refused before anything is compiled."""
import re

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, shape_inference

from edgekit import targets
from edgekit.errors import UnsupportedError
from edgekit.exporters.emit import Compiled, emit_target
from edgekit.exporters.lower.plan import Plan
from tests.lower.graphs import OPSET, plan_of


def of_zeros(shape, nodes, constants):
    """A model of one input and one output that nobody runs: no array of that shape is made."""
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
                              [numpy_helper.from_array(a, n) for n, a in constants.items()])
    graph.output[0].type.tensor_type.ClearField("shape")
    return shape_inference.infer_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10), data_prop=True)


def test_an_input_of_more_than_2_gib():
    model = of_zeros((1, 64, 8000, 8000), [helper.make_node("ReduceSum", ["x"], ["y"], name="total")], {})
    with pytest.raises(UnsupportedError, match=r"15\.3 GiB") as refused:
        plan_of(model)
    assert refused.value.where == "input x"


def test_a_padded_copy_of_more_than_2_gib_names_its_node():
    """Input and output fit; the image with its border does not."""
    w = np.ones((1, 16, 3, 3), np.float32)
    model = of_zeros((1, 16, 5790, 5790), [helper.make_node("Conv", ["x", "w"], ["y"], name="wide", pads=[4] * 4)], {"w": w})
    with pytest.raises(UnsupportedError, match=r"2\.0 GiB") as refused:
        plan_of(model)
    assert refused.value.where == "node wide"


def test_less_than_2_gib_is_planned():
    model = of_zeros((1, 1, 20000, 20000), [helper.make_node("Relu", ["x"], ["y"])], {})
    plan, _ = plan_of(model)
    assert plan.arena_bytes > 3e9
    with pytest.raises(UnsupportedError, match=re.escape("GiB of memory")):
        emit_target(Plan(**{**vars(plan), "arena_bytes": 5 << 30}), [Compiled((), {})], targets.load("wasm"), None)
