"""Every change of meaning since opset 1: the clean model at the fixed opset gives what the old one gave."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgekit.errors import UnsupportedError
from tests.load.load_cases import FLOAT, agree, cleaned, feeds_of, model, node, ops, run

I64 = np.int64
RNG = np.random.default_rng(7)


def weights(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def one(op, opset, shape=(2, 3, 4), constants=None, outputs="y", extra="", **attrs):
    return model([node(op, f"x {extra}", outputs, **attrs)], {"x": list(shape)}, outputs, constants, opset)


CASES = {
    **{
        f"{op}-{opset}-axis{axis}": one(op, opset, axis=axis)
        for op in ("Softmax", "LogSoftmax", "Hardmax")
        for opset in (9, 11)
        for axis in (0, 1, 2)
    },
    "softmax-11-negative": one("Softmax", 11, axis=-2),
    "softmax-11-default": one("Softmax", 11),
    "softmax-13": one("Softmax", 13, axis=1),
    "clip-6": one("Clip", 9, min=-0.5, max=0.25),
    "clip-6-one-side": one("Clip", 9, min=-0.5),
    "pad-2": one("Pad", 10, pads=[0, 1, 0, 0, 0, 2], value=3.0),
    "pad-2-reflect": one("Pad", 9, pads=[0, 1, 1, 0, 0, 2], mode="reflect"),
    "slice-1": one("Slice", 9, starts=[1, 0], ends=[3, 99], axes=[1, 2]),
    "slice-1-no-axes": one("Slice", 8, starts=[0, -2], ends=[1, 3]),
    "reduce-mean-11": one("ReduceMean", 11, axes=[1], keepdims=0),
    "reduce-mean-13-all": one("ReduceMean", 13),
    "reduce-l2-13": one("ReduceL2", 13, axes=[-1]),
    "reduce-sum-11": one("ReduceSum", 11, axes=[0, 2]),
    "squeeze-11": one("Squeeze", 11, (1, 3, 1, 2), axes=[0, 2]),
    "squeeze-11-all": one("Squeeze", 11, (1, 3, 1, 2)),
    "unsqueeze-11": one("Unsqueeze", 11, axes=[0, 4]),
    "split-2": one("Split", 11, (2, 6), outputs="y z", axis=1, split=[2, 4]),
    "split-2-even": one("Split", 9, (4, 6), outputs="y z"),
    "split-13-even": one("Split", 13, (4, 6), outputs="y z", axis=1),
    "split-18-uneven": one("Split", 18, (5, 2), outputs="y z", num_outputs=2),
    "topk-1": model(
        [node("TopK", "x", "y i", k=2, axis=1)],
        {"x": [2, 5]},
        {"y": (FLOAT, None), "i": (TensorProto.INT64, None)},
        opset=9,
    ),
    "upsample-9": one("Upsample", 9, (1, 2, 3, 3), {"s": np.float32([1, 1, 2, 3])}, extra="s", mode="nearest"),
    "upsample-7-linear": one("Upsample", 8, (1, 2, 3, 3), mode="linear", scales=[1.0, 1.0, 2.0, 2.0]),
    "resize-10-nearest": one("Resize", 10, (1, 1, 4, 4), {"s": np.float32([1, 1, 2, 2])}, extra="s"),
    "resize-10-down": one("Resize", 10, (1, 1, 4, 6), {"s": np.float32([1, 1, 0.5, 0.6])}, extra="s"),
    "resize-10-linear": one("Resize", 10, (1, 1, 4, 4), {"s": np.float32([1, 1, 1.5, 2])}, extra="s", mode="linear"),
    "resize-11-sizes": one(
        "Resize",
        11,
        (1, 1, 4, 4),
        {"r": np.float32([]), "s": np.float32([]), "n": I64([1, 1, 7, 5])},
        extra="r s n",
        mode="linear",
        coordinate_transformation_mode="half_pixel",
    ),
    "resize-11-cubic": one(
        "Resize",
        11,
        (1, 1, 4, 4),
        {"r": np.float32([]), "s": np.float32([1, 1, 2, 2])},
        extra="r s",
        mode="cubic",
        coordinate_transformation_mode="align_corners",
    ),
    "batchnorm-7": one(
        "BatchNormalization",
        7,
        (2, 3, 4),
        dict(zip("abcd", [weights(3), weights(3), weights(3), abs(weights(3))])),
        extra="a b c d",
        epsilon=1e-3,
    ),
    "batchnorm-15": one(
        "BatchNormalization",
        15,
        (2, 3),
        dict(zip("abcd", [weights(3), weights(3), weights(3), abs(weights(3))])),
        extra="a b c d",
    ),
    "dropout-7": one("Dropout", 7, ratio=0.5),
    "dropout-13": one("Dropout", 13, constants={"r": np.float32(0.5), "t": np.bool_(False)}, extra="r t"),
    "gru-7": model(
        [node("GRU", "x w r", "y h", hidden_size=4)],
        {"x": [5, 1, 3]},
        "y h",
        {"w": weights(1, 12, 3), "r": weights(1, 12, 4)},
        7,
    ),
    "lstm-7": model(
        [node("LSTM", "x w r b", "y h c", hidden_size=4, direction="bidirectional")],
        {"x": [5, 1, 3]},
        "y h c",
        {"w": weights(2, 16, 3), "r": weights(2, 16, 4), "b": weights(2, 32)},
        9,
    ),
    "gemm-9": one("Gemm", 9, (2, 3), {"w": weights(3, 4), "b": weights(4)}, extra="w b", alpha=0.5, beta=2.0),
    "scatter-9": one("Scatter", 10, (3, 3), {"i": I64([[1, 0, 2]]), "u": weights(1, 3)}, extra="i u", axis=0),
    "grid-sample-16": one(
        "GridSample", 16, (1, 1, 4, 4), {"g": np.tanh(weights(1, 2, 2, 2))}, extra="g", mode="bilinear"
    ),
    "dft-17": one("DFT", 17, (1, 4, 2), axis=1),
    "group-norm-18": one(
        "GroupNormalization", 18, (1, 4, 3), {"s": weights(2), "b": weights(2)}, extra="s b", num_groups=2
    ),
    "roi-align-10": one(
        "RoiAlign",
        10,
        (1, 1, 6, 6),
        {"r": np.float32([[0, 0, 4, 4]]), "b": I64([0])},
        extra="r b",
        output_height=2,
        output_width=2,
        sampling_ratio=2,
    ),
    "average-pool-7": one("AveragePool", 7, (1, 2, 6, 6), kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    "max-pool-8": one("MaxPool", 8, (1, 2, 6, 6), kernel_shape=[2, 2], strides=[2, 2]),
    "prelu-7": one("PRelu", 7, (1, 3, 2), {"s": weights(3, 1)}, extra="s"),
    "rms-norm-23": one("RMSNormalization", 23, (2, 4), {"s": weights(4)}, extra="s"),
    "cast-24": model(
        [node("Cast", "x", "y", to=TensorProto.INT32)], {"x": [3]}, {"y": (TensorProto.INT32, None)}, opset=24
    ),
    "flatten-25": one("Flatten", 25, axis=2),
    "attention-23": model([node("Attention", "q k v", "y")], {k: [1, 2, 3, 4] for k in "qkv"}, "y", opset=23),
    "swish-24": one("Swish", 24, alpha=1.5),
}


@pytest.mark.parametrize("case", CASES)
def test_same_numbers(case):
    agree(CASES[case])


@pytest.mark.parametrize(("axis", "shape"), [(None, (4,)), (1, (3,)), (0, (2, 3)), (-2, (3,))])
def test_broadcast_before_opset_7(axis, shape):
    """onnxruntime starts at opset 7, so numpy is the reference."""
    attrs = {"broadcast": 1} | ({} if axis is None else {"axis": axis})
    b = weights(*shape)
    result = cleaned(one("Add", 6, constants={"b": b}, extra="b", **attrs))
    x = feeds_of(result)["x"]
    at = 3 - len(shape) if axis is None else axis % 3
    aligned = b.reshape((1,) * at + shape + (1,) * (3 - at - len(shape)))
    np.testing.assert_allclose(run(result, {"x": x})[0], x + aligned)


def test_values_before_opset_7():
    x = np.float32([[1, -2], [3, -4]])
    for proto, want in [
        (one("Concat", 3, (2, 2), extra="x"), np.concatenate([x, x], 1)),
        (model([node("Reshape", "x", "y", shape=[4])], {"x": [2, 2]}, "y", opset=4), x.reshape(4)),
        (one("Selu", 5, (2, 2), consumed_inputs=[0]), np.where(x > 0, 1.0507 * x, 1.0507 * 1.6732 * (np.exp(x) - 1))),
        (one("Tile", 5, (2, 2), {"t": I64(3), "a": I64(1)}, extra="t a"), np.tile(x, (1, 3))),
        (
            model([node("Cast", "x", "y", to="INT32")], {"x": [2, 2]}, {"y": (TensorProto.INT32, None)}, opset=5),
            x.astype(np.int32),
        ),
        (one("PRelu", 6, (2, 2), {"s": np.float32([0.5])}, extra="s"), np.where(x > 0, x, 0.5 * x)),
    ]:
        np.testing.assert_allclose(run(cleaned(proto), {"x": x})[0], want, rtol=1e-5)


def test_prelu_per_channel_before_opset_7():
    slope = np.float32([0.5, 2])
    result = cleaned(one("PRelu", 6, (1, 2, 2), {"s": slope}, extra="s"))
    x = np.float32([[[1, -2], [3, -4]]])
    np.testing.assert_allclose(run(result, {"x": x})[0], np.where(x > 0, x, slope[None, :, None] * x))


@pytest.mark.parametrize(
    "proto",
    [
        one("SpaceToDepth", 28, (1, 1, 4, 4), blocksize=2, mode="CRD"),
        one("CumProd", 26, constants={"a": I64(0)}, extra="a"),
        one("Upsample", 9, (1, 1, 4, 4), {"s": np.float32([1, 1, 2, 0.5])}, extra="s"),
        one(
            "Resize",
            11,
            (1, 1, 4, 4),
            {"r": np.float32([]), "s": np.float32([1, 1, 2, 2])},
            extra="r s",
            coordinate_transformation_mode="tf_half_pixel_for_nn",
        ),
    ],
    ids=["space-to-depth-crd", "cum-prod", "upsample-mixed", "resize-tf"],
)
def test_what_cannot_be_brought_over_is_named(proto):
    with pytest.raises(UnsupportedError) as caught:
        cleaned(proto)
    assert proto.graph.node[0].op_type in caught.value.where


def test_unknown_operators_are_named():
    with pytest.raises(UnsupportedError, match="Relu2"):
        cleaned(
            model([helper.make_node("Relu2", ["x"], ["y"], domain="com.acme")], {"x": [2]}, "y", domains=["com.acme"])
        )


def test_kept_operators_stay_and_others_are_expanded():
    proto = one("HardSwish", 21, (2, 3))
    assert ops(agree(proto)) == ["HardSwish"]
    assert ops(agree(proto, keep=frozenset({"HardSwish"}))) == ["HardSwish"]
    assert "HardSwish" not in ops(agree(proto, keep=frozenset({"Mul", "HardSigmoid"})))
    assert (
        ops(agree(one("LayerNormalization", 17, (2, 4), {"s": weights(4)}, extra="s", axis=-1), keep=frozenset()))[0]
        != "LayerNormalization"
    )
