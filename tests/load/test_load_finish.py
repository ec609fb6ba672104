"""Batch normalisation and other affine steps go into the layer before; equal constants are shared."""

import numpy as np
import pytest

from tests.load.load_cases import agree, model, node, ops

RNG = np.random.default_rng(3)
F32 = np.float32


def w(*shape):
    return RNG.standard_normal(shape).astype(F32)


def normalised(layer, shape, constants, channels, opset=15):
    constants = constants | {"g": w(channels), "h": w(channels), "m": w(channels), "v": abs(w(channels)) + F32(0.1)}
    return model([layer, node("BatchNormalization", "t g h m v", "y")], {"x": list(shape)}, "y", constants, opset)


LAYERS = {
    "conv": (node("Conv", "x w b", "t", pads=[1, 1, 1, 1]), (1, 4, 5, 5), {"w": w(6, 4, 3, 3), "b": w(6)}, 6),
    "conv-no-bias": (node("Conv", "x w", "t"), (1, 4, 5), {"w": w(6, 4, 3)}, 6),
    "depthwise": (node("Conv", "x w", "t", group=4), (1, 4, 5, 5), {"w": w(8, 1, 3, 3)}, 8),
    "transposed": (node("ConvTranspose", "x w b", "t"), (1, 4, 5, 5), {"w": w(4, 6, 3, 3), "b": w(6)}, 6),
    "transposed-groups": (node("ConvTranspose", "x w", "t", group=2), (1, 4, 5), {"w": w(4, 3, 3)}, 6),
    "gemm": (node("Gemm", "x w b", "t", alpha=0.5, beta=2.0), (2, 4), {"w": w(4, 6), "b": w(6)}, 6),
    "gemm-transposed": (node("Gemm", "x w", "t", transB=1), (2, 4), {"w": w(6, 4)}, 6),
    "gemm-scalar-bias": (node("Gemm", "x w b", "t", beta=0.5), (2, 4), {"w": w(4, 6), "b": w(1)}, 6),
}


@pytest.mark.parametrize("name", LAYERS)
def test_batch_normalisation_vanishes_into_the_layer(name):
    layer, shape, constants, channels = LAYERS[name]
    assert ops(agree(normalised(layer, shape, constants, channels), tolerance=1e-4)) == [layer.op_type]


def test_a_matmul_takes_the_product_and_leaves_the_sum():
    proto = normalised(node("MatMul", "x w", "t"), (2, 4), {"w": w(4, 6)}, 6)
    assert ops(agree(proto, tolerance=1e-4)) == ["MatMul", "Add"]


def test_batch_normalisation_alone_is_a_product_and_a_sum():
    proto = normalised(node("Relu", "x", "t"), (2, 4, 3), {}, 4)
    assert ops(agree(proto)) == ["Relu", "Mul", "Add"]


def test_parameters_from_inputs_are_computed():
    proto = model(
        [node("BatchNormalization", "x g h m v", "t"), node("Abs", "t", "y")],
        {"x": [2, 4, 3], "g": [4], "h": [4], "m": [4]},
        "y",
        {"v": abs(w(4))},
        15,
    )
    agree(proto, tolerance=1e-4)


def test_an_output_that_others_read_is_not_changed():
    layer, shape, constants, channels = LAYERS["conv"]
    proto = normalised(layer, shape, constants, channels)
    proto.graph.node.append(node("Relu", "t", "z"))
    proto.graph.output.append(proto.graph.output[0])
    proto.graph.output[1].name = "z"
    assert ops(agree(proto, tolerance=1e-4)) == ["Conv", "Mul", "Add", "Relu"]


def test_shared_weights_under_different_scales():
    c = {"w": w(3, 3, 1, 1), "p": w(3, 1, 1), "q": w(3, 1, 1)}
    proto = model(
        [
            node("Conv", "x w", "a"),
            node("Mul", "a p", "b"),
            node("Conv", "x w", "c"),
            node("Mul", "c q", "d"),
            node("Conv", "x w", "e"),
            node("Add", "b d", "f"),
            node("Add", "e f", "y"),
        ],
        {"x": [1, 3, 2, 2]},
        "y",
        c,
        13,
    )
    assert ops(agree(proto, tolerance=1e-4)) == ["Conv", "Conv", "Conv", "Add", "Add"]


@pytest.mark.parametrize(
    ("op", "constant"),
    [
        ("Mul", w(1, 1, 5)),
        ("Add", w(2, 1, 1, 1)),
        ("Div", np.zeros((3, 1, 1), F32)),
        ("Mul", np.full((3, 1, 1), np.inf, F32)),
    ],
    ids=["along-width", "along-batch", "by-zero", "infinite"],
)
def test_what_is_no_step_per_channel_stays(op, constant):
    proto = model(
        [node("Conv", "x w", "t"), node(op, "t c", "y")],
        {"x": [2, 3, 5, 5]},
        "y",
        {"w": w(3, 3, 1, 1), "c": constant},
        13,
    )
    assert ops(agree(proto)) == ["Conv", op]


@pytest.mark.parametrize(("op", "first"), [("Sub", True), ("Div", True), ("Add", False), ("Mul", False)])
def test_other_steps_per_channel(op, first):
    proto = model(
        [node("Conv", "x w b", "t"), node(op, "t c" if first else "c t", "y")],
        {"x": [1, 3, 2, 2]},
        "y",
        {"w": w(4, 3, 1, 1), "b": w(4), "c": w(4, 1, 1) + F32(3)},
        13,
    )
    assert ops(agree(proto, tolerance=1e-4)) == ["Conv"]
    backwards = model(
        [node("Conv", "x w b", "t"), node("Sub", "c t", "y")],
        {"x": [1, 3, 2, 2]},
        "y",
        {"w": w(4, 3, 1, 1), "b": w(4), "c": w(4, 1, 1)},
        13,
    )
    assert ops(agree(backwards)) == ["Conv", "Sub"]


def test_zeros_of_pruned_weights_stay_zeros():
    layer, shape, constants, channels = LAYERS["conv"]
    pruned = constants["w"] * (RNG.random(constants["w"].shape) < 0.5)
    result = agree(normalised(layer, shape, constants | {"w": pruned}, channels), tolerance=1e-4)
    from onnx import numpy_helper

    weight = next(numpy_helper.to_array(i) for i in result.graph.initializer if len(i.dims) == 4)
    np.testing.assert_array_equal(weight == 0, pruned == 0)


def test_equal_constants_are_one():
    same = w(4, 4)
    proto = model(
        [node("MatMul", "x a", "t"), node("MatMul", "t b", "u"), node("MatMul", "u c", "y")],
        {"x": [2, 4]},
        "y",
        {"a": same, "b": same.copy(), "c": same.T.copy()},
        13,
    )
    assert len(agree(proto, tolerance=1e-3).graph.initializer) == 2
