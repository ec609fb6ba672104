"""Dynamic dimensions, shape variants, states and entry names."""

import numpy as np
import pytest
from onnx import TensorProto

from edgekit.errors import InputError, ShapeError
from edgekit.exporters.load import load
from edgekit.exporters.load.bind import bindings, calculate
from tests.load.load_cases import agree, is_clean, model, node

F32 = np.float32


def dynamic():
    """Two inputs over a batch n and a time t."""
    return model(
        [node("MatMul", "x w", "a"), node("ReduceMean", "h", "m", axes=[1], keepdims=1), node("Add", "a m", "y")],
        {"x": ["n", "t", 3], "h": ["n", "t", 4]},
        {"y": (1, ["n", "t", 4])},
        {"w": np.ones((3, 4), F32)},
        13,
        name="net",
    )


def shapes(loaded):
    return {
        v.name: [tuple(d.dim_value for d in i.type.tensor_type.shape.dim) for i in v.model.graph.input]
        for v in loaded.variants
    }


def test_dimensions_by_name_and_by_input():
    assert shapes(load(dynamic(), input_shapes={"n": 2, "t": 5})) == {"run": [(2, 5, 3), (2, 5, 4)]}
    assert shapes(load(dynamic(), input_shapes={"x": (2, 5, 3)})) == {"run": [(2, 5, 3), (2, 5, 4)]}
    agree(dynamic(), {"n": 1, "t": 7})


def test_variants_of_a_named_dimension():
    loaded = load(dynamic(), input_shapes={"n": (2, 4, 8), "t": 5})
    assert shapes(loaded) == {f"n{n}": [(n, 5, 3), (n, 5, 4)] for n in (2, 4, 8)}
    for variant in loaded.variants:
        is_clean(variant.model)
        assert variant.model.graph.name == variant.name
    assert shapes(load({"encode": dynamic()}, input_shapes={"n": [1, 3], "t": 5})) == {
        f"encode_n{n}": [(n, 5, 3), (n, 5, 4)] for n in (1, 3)
    }


@pytest.mark.parametrize(
    ("given", "what", "fix"),
    [
        (None, "input x has the dynamic dimensions n, t (n, t, 3)", "--input-shape n=1 --input-shape t=1"),
        ({"n": 2}, "input x has the dynamic dimension t (n, t, 3)", "--input-shape t=1"),
        ({"n": 2, "t": 5, "z": 1}, "no input and no dimension named 'z'", "x (n, t, 3); h (n, t, 4); dimensions: n, t"),
        ({"x": (2, 5)}, "input x has 3 dimensions (n, t, 3), not 2", "--input-shape x=1,1,3"),
        ({"x": (2, 5, 4)}, "axis 2 of input x is 3 in the model, not 4", "--input-shape x=1,1,3"),
        ({"x": (2, 5, 3), "n": 3}, "dimension n is 3 and, by axis 0 of x, 2", "one value"),
        ({"x": (2, 5, 3), "h": (4, 5, 4)}, "dimension n is 2 and, by axis 0 of h, 4", "one value"),
        ({"n": 0, "t": 1}, "n=0 is no shape", "from 1"),
        ({"n": -1, "t": 1}, "n=-1 is no shape", "--input-shape"),
        ({"n": 1.5, "t": 1}, "n=1.5 is no shape", "--input-shape"),
        ({"n": True, "t": 1}, "n=True", "--input-shape"),
        ({"n": (2, 4), "t": (1, 2)}, "both n and t have several values", "one value"),
        ({"n": (2, 2), "t": 1}, "dimension n has a value twice", "once"),
    ],
)
def test_what_does_not_bind(given, what, fix):
    with pytest.raises(ShapeError) as caught:
        load(dynamic(), input_shapes=given)
    assert what in caught.value.what
    assert fix in caught.value.fix or fix in caught.value.what


def test_dimensions_without_a_name():
    proto = model([node("Relu", "x", "y")], {"x": [None, 3]}, "y", opset=13)
    with pytest.raises(ShapeError, match="without a name") as caught:
        load(proto)
    assert caught.value.fix == "--input-shape x=1,3"
    assert shapes(load(proto, input_shapes={"x": (4, 3)})) == {"run": [(4, 3)]}


def test_an_input_without_a_rank():
    with pytest.raises(ShapeError, match="not even a rank"):
        load(model([node("Relu", "x", "y")], {"x": None}, "y", opset=13))


def test_expressions_of_dimensions():
    assert calculate("2*n + 1", {"n": 4}) == 9 and calculate("n//3", {"n": 7}) == 2
    assert (
        calculate("n", {}) is None and calculate("__import__('os')", {}) is None and calculate("n//0", {"n": 1}) is None
    )
    assert calculate("9**9**9", {}) is None
    (bound,) = bindings({"x": ("n", 3), "y": ("2*n",)}, {"n": 4})
    assert bound.shapes == {"x": (4, 3), "y": (8,)}
    with pytest.raises(ShapeError, match="is 8 in the model, not 9"):
        bindings({"x": ("n",), "y": ("2*n",)}, {"n": 4, "y": (9,)})
    with pytest.raises(ShapeError, match="has the length -1"):
        bindings({"x": ("n - 4",)}, {"n": 3})


def test_a_name_of_a_dimension_that_is_an_input_too():
    (bound,) = bindings({"n": ("n", 2)}, {"n": 3})
    assert bound.shapes == {"n": (3, 2)}
    (bound,) = bindings({"n": ("n", 2)}, {"n": (5, 2)})
    assert bound.shapes == {"n": (5, 2)}


def test_wrong_static_shapes_inside_are_named():
    proto = model(
        [node("Reshape", "x s", "a"), node("Relu", "a", "y")], {"x": ["n", 3]}, "y", {"s": np.int64([2, 3])}, 13
    )
    load(proto, input_shapes={"n": 2})
    with pytest.raises(InputError, match="Reshape"):
        load(proto, input_shapes={"n": 3})


# ---- states


def recurrent(h=("n", 4), out=None, dtype=1):
    nodes = [
        node("Gemm", "x w", "a"),
        node("Add", "a h", "h_out"),
        node("Tanh", "h_out", "y"),
        node("Cast", "h_out", "i", to=6),
    ]
    return model(
        nodes,
        {"x": ["n", 3], "h": list(h)},
        {"y": (1, None), "h_out": (1, None), "i": (TensorProto.INT32, None)},
        {"w": np.ones((3, 4), F32)},
        13,
    )


def test_states_are_pairs_of_input_and_output():
    assert load(recurrent(), input_shapes={"n": 1}, states={"h": "h_out"}).states == (("h", "h_out"),)


@pytest.mark.parametrize(
    ("states", "part"),
    [
        ({"ghost": "h_out"}, "no input ghost"),
        ({"h": "ghost"}, "no output ghost"),
        ({"h": "i"}, "float [1, 4], the output int32"),
        ({"x": "h_out"}, "float [1, 3], the output float [1, 4]"),
        ({"h": "h_out", "x": "h_out"}, "next value of two states"),
    ],
)
def test_what_is_no_state(states, part):
    with pytest.raises(InputError) as caught:
        load(recurrent(), input_shapes={"n": 1}, states=states)
    assert part in caught.value.what and caught.value.fix


def test_states_are_checked_in_every_variant():
    with pytest.raises(ShapeError, match="another entry") as caught:
        load(recurrent(), input_shapes={"n": (1, 2)}, states={"h": "h_out"})
    assert caught.value.where == "entry n2"
    grows = recurrent(h=(1, 4))  # h is [1, 4] whatever n is, but h_out grows with it
    assert load(grows, input_shapes={"n": 1}, states={"h": "h_out"}).states
    with pytest.raises(ShapeError, match=r"the input is float \[1, 4\], the output float \[2, 4\]"):
        load(grows, input_shapes={"n": 2}, states={"h": "h_out"})


def test_an_encoder_may_write_what_a_decoder_reads():
    encode = model([node("Relu", "x", "h_out")], {"x": [1, 4]}, "h_out", opset=13)
    decode = model([node("Tanh", "h", "y")], {"h": [1, 4]}, "y", opset=13)
    assert load({"encode": encode, "decode": decode}, states={"h": "h_out"}).states == (("h", "h_out"),)


# ---- entries and names


def static(*shape, name="net"):
    return model([node("Relu", "x", "y")], {"x": list(shape)}, "y", opset=13, name=name)


def test_entries_of_a_dict_keep_their_names():
    loaded = load({"encode": static(2), "decode": static(3)}, name="My model 2!")
    assert [v.name for v in loaded.variants] == ["encode", "decode"] and loaded.name == "My_model_2"
    assert loaded.source["kind"] == "several"


def test_a_list_is_named_by_what_differs():
    assert shapes(load([static(2, 3), static(4, 3)])) == {"n2": [(2, 3)], "n4": [(4, 3)]}
    assert [v.name for v in load([static(2, 3), static(4, 5)]).variants] == ["x_2x3", "x_4x5"]
    assert [v.name for v in load([static(2)]).variants] == ["run"]


@pytest.mark.parametrize(
    ("models", "part"),
    [
        ([], "no model"),
        ({}, "no model"),
        ([static(2), static(2)], "same input shapes"),
        ([static(2), static(2, 2)], "differ in name or rank"),
        ({"two words": static(2)}, "cannot name an entry"),
        ({"1st": static(2)}, "cannot name"),
        ({3: static(2)}, "cannot name"),
        (3, "int is no model"),
        ({"a": static(2), "b": None}, "NoneType is no model"),
    ],
)
def test_what_is_no_set_of_entries(models, part):
    with pytest.raises(InputError, match=part):
        load(models)


def test_names_of_files_and_graphs_become_identifiers(tmp_path):
    path = tmp_path / "3d-net.v2.onnx"
    path.write_bytes(static(2).SerializeToString())
    assert load(path).name == "m3d_net_v2" and load(static(1, name="é!")).name == "model"
