"""Functions, control flow, sequences and constants disappear; numbers stay."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.errors import InputError, ShapeError, UnsupportedError
from edgekit.exporters.load.clean import clean
from tests.load.load_cases import FLOAT, agree, cleaned, feeds_of, model, node, ops, run

I64, F32 = np.int64, np.float32
INT64, BOOL = TensorProto.INT64, TensorProto.BOOL


def body(nodes, inputs, outputs, name="body", constants=None):
    info = [helper.make_tensor_value_info(k, *v) for k, v in inputs.items()]
    outs = [helper.make_tensor_value_info(k, *v) for k, v in outputs.items()]
    return helper.make_graph(
        nodes, name, info, outs, [numpy_helper.from_array(v, k) for k, v in (constants or {}).items()]
    )


def test_shape_arithmetic_is_constant():
    proto = model(
        [
            node("Shape", "x", "s"),
            node("Gather", "s i", "n"),
            node("Concat", "n m", "t", axis=0),
            node("Reshape", "x t", "r"),
            node("Size", "x", "z"),
            node("Cast", "z", "zf", to=FLOAT),
            node("Add", "r zf", "y"),
        ],
        {"x": [2, 3, 4]},
        "y",
        {"i": I64([0]), "m": I64([-1])},
        13,
    )
    assert ops(agree(proto)) == ["Reshape", "Add"]


def test_nothing_that_does_nothing_is_left():
    proto = model(
        [
            node("Identity", "x", "a"),
            node("Cast", "a", "b", to=FLOAT),
            node("Transpose", "b", "c", perm=[0, 1]),
            node("Reshape", "c s", "d"),
            node("Pad", "d p", "e"),
            node("Slice", "e lo hi", "f"),
            node("Expand", "f s", "g"),
            node("Concat", "g", "h", axis=0),
            node("Sum", "h", "i"),
            node("Dropout", "i", "j"),
            node("Relu", "j", "y"),
        ],
        {"x": [2, 3]},
        "y",
        {"s": I64([2, 3]), "p": I64([0] * 4), "lo": I64([0, 0]), "hi": I64([9, 9])},
        13,
    )
    assert ops(agree(proto)) == ["Relu"]


def test_a_reversing_slice_is_not_nothing():
    proto = model(
        [node("Slice", "x a b c d", "y")],
        {"x": [3]},
        "y",
        {"a": I64([2]), "b": I64([-9]), "c": I64([0]), "d": I64([-1])},
        13,
    )
    assert ops(agree(proto)) == ["Slice"]


def test_outputs_that_are_inputs_constants_or_the_same_tensor():
    proto = model(
        [
            node("Identity", "x", "same"),
            node("Add", "c c", "constant"),
            node("Relu", "x", "one"),
            node("Identity", "one", "two"),
        ],
        {"x": [2]},
        "same constant one two",
        {"c": F32([1, 2])},
    )
    assert ops(agree(proto)) == ["Relu", "Identity", "Identity", "Identity"]


def test_functions_are_inlined_with_their_attributes_and_defaults():
    leaky = helper.make_node("LeakyRelu", ["a"], ["t"])
    attribute = leaky.attribute.add()
    attribute.name, attribute.ref_attr_name, attribute.type = "alpha", "slope", 1
    inner = helper.make_function(
        "own",
        "Inner",
        ["a"],
        ["b"],
        [leaky, node("Softmax", "t", "b", axis=1)],
        [helper.make_opsetid("", 18)],
        attribute_protos=[helper.make_attribute("slope", 0.5)],
    )
    outer = helper.make_function(
        "own",
        "Outer",
        ["a"],
        ["b", "unused"],
        [
            helper.make_node("Inner", ["a"], ["m"], domain="own"),
            helper.make_node("Inner", ["m"], ["n"], domain="own", slope=0.1),
            node("Add", "m n", "b"),
            node("Neg", "b", "unused"),
        ],
        [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)],
    )
    proto = model(
        [
            helper.make_node("Outer", ["x"], ["u"], domain="own", name="first"),
            helper.make_node("Outer", ["u"], ["y"], domain="own", name="second"),
        ],
        {"x": [2, 3, 2]},
        "y",
        functions=[inner, outer],
        domains=["own"],
        opset=18,
        ir=10,
    )
    result = cleaned(proto)
    x = feeds_of(result)["x"]

    def softmax(v):
        e = np.exp(v - v.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    def call(v):
        m = softmax(np.where(v > 0, v, 0.5 * v))
        return m + softmax(np.where(m > 0, m, 0.1 * m))

    np.testing.assert_allclose(run(result, {"x": x})[0], call(call(x)), rtol=1e-5)
    assert result.graph.node[0].name.startswith("first/") and "Neg" not in ops(result)


def test_a_function_that_calls_itself_is_refused():
    endless = helper.make_function(
        "own", "F", ["a"], ["b"], [helper.make_node("F", ["a"], ["b"], domain="own")], [helper.make_opsetid("own", 1)]
    )
    with pytest.raises(InputError):
        cleaned(
            model(
                [helper.make_node("F", ["x"], ["y"], domain="own")],
                {"x": [1]},
                "y",
                functions=[endless],
                domains=["own"],
                ir=10,
            )
        )


def conditional(condition, nodes=(), shape=(2,), other=(2,), inputs=None):
    then = body([node("Add", "x one", "t")], {}, {"t": (FLOAT, list(shape))}, "then")
    otherwise = body([node("Mul", "x two", "e")], {}, {"e": (FLOAT, list(other))}, "else")
    return model(
        [*nodes, helper.make_node("If", [condition], ["y"], then_branch=then, else_branch=otherwise)],
        {"x": [2], **(inputs or {})},
        "y",
        {
            "one": F32(1),
            "two": F32([2] * other[0]).reshape(other),
            "yes": np.bool_(True),
            "zero": I64(0),
            "three": I64(3),
        },
        13,
    )


def test_if_takes_the_branch_of_a_constant_condition():
    assert ops(agree(conditional("yes"))) == ["Add"]
    shape = [node("Shape", "x", "s"), node("Gather", "s zero", "n"), node("Greater", "n three", "big")]
    assert ops(agree(conditional("big", shape))) == ["Mul"]


def test_if_on_data_computes_both_and_picks():
    proto = conditional("c", inputs={"c": (BOOL, [])})
    assert sorted(ops(agree(proto))) == ["Add", "Mul", "Where"]
    assert "Where" in ops(agree(conditional("c", inputs={"c": (BOOL, [1])})))
    with pytest.raises(UnsupportedError, match="condition of If") as caught:
        cleaned(conditional("c", other=(2, 1), inputs={"c": (BOOL, [])}))
    assert "If" in caught.value.where


def looping(trips="m", condition="", inner_condition=None, constants=None, inputs=None):
    nodes = [
        inner_condition or node("Identity", "c", "go"),
        node("Cast", "i", "f", to=FLOAT),
        node("Add", "h f", "s"),
        node("Mul", "s outer", "next"),
        node("Add", "next next", "scanned"),
    ]
    inside = body(
        nodes,
        {"i": (INT64, []), "c": (BOOL, []), "h": (FLOAT, [2])},
        {"go": (BOOL, []), "next": (FLOAT, [2]), "scanned": (FLOAT, [2])},
    )
    loop = helper.make_node("Loop", [trips, condition, "x"], ["last", "all"], body=inside)
    return model(
        [node("Identity", "k", "outer"), loop],
        {"x": [2], **(inputs or {})},
        "last all",
        {"m": I64(4), "k": F32([0.5, 2]), "two": I64(2), **(constants or {})},
        13,
    )


def test_loops_of_known_length_are_unrolled():
    assert "Loop" not in ops(agree(looping()))
    assert ops(agree(looping(), tolerance=1e-6)).count("Concat") == 1


def test_loops_end_by_their_condition():
    until = node("Less", "i two", "go")
    result = agree(looping(inner_condition=until, constants={"m": I64(9)}))
    assert ops(result).count("Unsqueeze") == 3
    assert ops(agree(looping(trips="", inner_condition=until, condition="t", constants={"t": np.bool_(True)})))


def test_loops_of_no_trips():
    agree(looping(constants={"m": I64(0)}))


@pytest.mark.parametrize(
    ("proto", "text"),
    [
        (looping(inputs={"n": (INT64, [])}, trips="n"), "trip count"),
        (looping(inner_condition=node("Greater", "first k", "go"), constants={"first": F32(0)}), "not one value"),
        (looping(constants={"m": I64(10**9)}), "1000000000 times"),
        (looping(trips="", constants={"t": np.bool_(True)}, condition="t"), "nodes once loops are unrolled|within"),
    ],
    ids=["trips-from-data", "wide-condition", "too-long", "endless"],
)
@pytest.mark.filterwarnings("ignore")
def test_other_loops_are_refused(proto, text, monkeypatch):
    monkeypatch.setattr("edgekit.exporters.load.control.TRIP_LIMIT", 50)
    with pytest.raises(InputError, match=text) as caught:
        cleaned(proto)
    assert "Loop" in caught.value.where


@pytest.mark.parametrize(
    "attrs",
    [
        {},
        {"scan_input_directions": [1], "scan_output_directions": [1]},
        {"scan_input_axes": [1], "scan_output_axes": [1]},
    ],
)
def test_scan_is_unrolled(attrs):
    columns = "scan_input_axes" in attrs
    inside = body(
        [node("Add", "h part", "sum"), node("Identity", "sum", "next"), node("Relu", "sum", "out")],
        {"h": (FLOAT, [3]), "part": (FLOAT, [3])},
        {"next": (FLOAT, [3]), "out": (FLOAT, [3])},
    )
    proto = model(
        [helper.make_node("Scan", ["h0", "x"], ["last", "all"], body=inside, num_scan_inputs=1, **attrs)],
        {"h0": [3], "x": [3, 5] if columns else [5, 3]},
        "last all",
        opset=13,
    )
    assert "Scan" not in ops(agree(proto))


def test_sequences_vanish():
    proto = model(
        [
            node("SplitToSequence", "x", "s", axis=0, keepdims=0),
            node("SequenceAt", "s one", "a"),
            node("SequenceErase", "s one", "r"),
            node("SequenceInsert", "r a", "t"),
            node("SequenceLength", "t", "n"),
            node("ConcatFromSequence", "t", "y", axis=1, new_axis=1),
        ],
        {"x": [3, 2]},
        {"y": (FLOAT, None), "n": (INT64, None)},
        {"one": I64(1)},
        13,
    )
    result = agree(proto)
    assert not any("Sequence" in op for op in ops(result))
    uneven = model(
        [node("SplitToSequence", "x two", "s", axis=1), node("SequenceAt", "s last", "y")],
        {"x": [3, 5]},
        "y",
        {"two": I64(2), "last": I64(-1)},
        13,
    )
    assert ops(agree(uneven)) == ["Split"]
    with pytest.raises(InputError, match="outside its sequence of 3"):
        cleaned(
            model(
                [node("SplitToSequence", "x", "s"), node("SequenceAt", "s far", "y")],
                {"x": [3]},
                "y",
                {"far": I64(7)},
                13,
            )
        )


def test_large_constants_are_left_to_be_computed():
    proto = model(
        [
            node("ConstantOfShape", "s", "z"),
            node("Expand", "c s", "e"),
            node("Add", "z e", "w"),
            node("Add", "x w", "y"),
        ],
        {"x": [2]},
        "y",
        {"s": I64([2048, 1024, 2]), "c": F32([1, 2])},
        13,
    )
    result = agree(proto)
    assert "ConstantOfShape" in ops(result) and result.ByteSize() < 1 << 20
    small = model([node("ConstantOfShape", "s", "z"), node("Add", "x z", "y")], {"x": [2]}, "y", {"s": I64([2])}, 13)
    assert ops(agree(small)) == ["Add"]


def test_tensors_beyond_memory_are_refused():
    with pytest.raises(InputError, match="over 2 GB"):
        cleaned(
            model(
                [node("ConstantOfShape", "s", "z"), node("Add", "x z", "y")],
                {"x": [1]},
                "y",
                {"s": I64([10**6, 10**6])},
                13,
            )
        )


def test_random_operators_are_not_folded():
    proto = model(
        [helper.make_node("RandomNormal", [], ["r"], shape=[2]), node("Add", "x r", "y")], {"x": [2]}, "y", opset=13
    )
    assert ops(cleaned(proto)) == ["RandomNormal", "Add"]


def test_dequantised_weights_stay_eight_bits_unless_nobody_knows_the_operator():
    proto = model(
        [node("DequantizeLinear", "w s", "f"), node("MatMul", "x f", "y")],
        {"x": [1, 3]},
        "y",
        {"w": np.int8([[1, -2], [3, 4], [5, 6]]), "s": F32(0.1)},
        13,
    )
    assert ops(agree(proto)) == ["DequantizeLinear", "MatMul"]
    assert ops(agree(proto, keep=frozenset({"MatMul"}))) == ["MatMul"]


@pytest.mark.parametrize("op", ["NonZero", "Unique"])
def test_shapes_that_depend_on_data_are_named(op):
    with pytest.raises(ShapeError, match="depends on the data") as caught:
        cleaned(
            model([helper.make_node(op, ["x"], ["y"], name="where_is_it")], {"x": [4]}, {"y": (INT64, None)}, opset=13)
        )
    assert "where_is_it" in caught.value.where and caught.value.fix


def test_training_mode_is_named_with_its_mend():
    parameters = {k: np.ones(3, F32) for k in "abcd"}
    for proto in (
        model([node("BatchNormalization", "x a b c d", "y e f", training_mode=1)], {"x": [2, 3]}, "y", parameters, 15),
        model([node("Dropout", "x r t", "y")], {"x": [2]}, "y", {"r": F32(0.5), "t": np.bool_(True)}, 13),
    ):
        with pytest.raises(UnsupportedError, match="training mode") as caught:
            cleaned(proto)
        assert "eval()" in caught.value.fix


def test_initializers_that_are_also_inputs_are_constants_and_sparse_ones_become_dense():
    proto = model(
        [node("Mul", "x w", "t"), node("Add", "t s", "y")], {"x": [4], "w": [4]}, "y", {"w": F32([1, 2, 3, 4])}, 13
    )
    values = numpy_helper.from_array(F32([5, 6]), "s")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, numpy_helper.from_array(I64([0, 3])), [4]))
    result = cleaned(proto)
    assert [i.name for i in result.graph.input] == ["x"]
    np.testing.assert_allclose(run(result, {"x": np.ones(4, F32)})[0], [6, 2, 3, 10])


def test_names_are_unique_and_kept():
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="layer"),
        helper.make_node("Relu", ["a"], ["b"], name="layer"),
        helper.make_node("Neg", ["b"], ["y"]),
    ]
    result = cleaned(model(nodes, {"x": [1]}, "y", opset=13))
    assert [n.name for n in result.graph.node] == ["layer", "layer_1", "Neg_2"]


def test_a_local_name_may_hide_an_outer_one_and_outputs_keep_theirs():
    """The If bodies reuse the names `t` and `y`; the graph's own y must come out as y."""
    then = body([node("Relu", "x", "t")], {}, {"t": (FLOAT, [2])}, "then")
    proto = model(
        [
            node("Neg", "x", "t"),
            helper.make_node("If", ["yes"], ["u"], then_branch=then, else_branch=then),
            node("Add", "t u", "y"),
        ],
        {"x": [2]},
        "y",
        {"yes": np.bool_(True)},
        13,
    )
    for k, branch in enumerate(("t1", "t2")):
        graph = proto.graph.node[1].attribute[k].g
        graph.node[0].output[0] = graph.output[0].name = branch
    result = agree(proto)
    assert [o.name for o in result.graph.output] == ["y"]


def test_the_model_given_is_not_changed():
    proto = model([node("Softmax", "x", "y", axis=1)], {"x": ["n", 2, 2]}, {"y": (FLOAT, ["n", 2, 2])}, opset=11)
    before = proto.SerializeToString(deterministic=True)
    from edgekit.exporters.load import load

    load(proto, input_shapes={"n": 3})
    assert proto.SerializeToString(deterministic=True) == before
    assert len(clean(proto, {"n": (1, 2)})) == 2
