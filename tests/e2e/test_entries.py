"""Several functions in one bundle: an encoder leaves the state that a decoder goes on with; weights are shared."""
import numpy as np
import pytest
from onnx import helper

import edgekit as ek
from tests.lower.graphs import model

RNG = np.random.default_rng(0)
W = {"w": RNG.standard_normal((16, 16)).astype(np.float32), "v": RNG.standard_normal((16, 16)).astype(np.float32)}


def encode():
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"], name="a"), helper.make_node("Tanh", ["a"], ["h_out"], name="b"),
             helper.make_node("ReduceMax", ["a"], ["top"], name="c", keepdims=0)]
    return model(nodes, {"x": np.zeros((1, 16), np.float32)}, ["h_out", "top"], {"w": W["w"]})


def decode():
    nodes = [helper.make_node("MatMul", ["h_in", "w"], ["a"], name="a"), helper.make_node("Add", ["a", "u"], ["s"], name="s"),
             helper.make_node("Tanh", ["s"], ["h_out"], name="t"), helper.make_node("MatMul", ["h_out", "v"], ["y"], name="y")]
    zeros = np.zeros((1, 16), np.float32)
    return model(nodes, {"u": zeros, "h_in": zeros}, ["y", "h_out"], W)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("entries") / "m.ekb"
    return ek.export({"encode": encode(), "decode": decode()}, targets=["host", "wasm"], states={"h_in": "h_out"}, output=path, name="both")


@pytest.mark.parametrize("target", ["host", "wasm", "onnx"])
def test_the_decoder_goes_on_where_the_encoder_stopped(bundle, target):
    x = RNG.standard_normal((1, 16)).astype(np.float32)
    top, = bundle.run(x, entry="encode", target=target)
    h = np.tanh(x @ W["w"])
    assert np.allclose(top, (x @ W["w"]).max(), atol=1e-4)
    for _ in range(3):
        u = RNG.standard_normal((1, 16)).astype(np.float32)
        y, = bundle.run(u, entry="decode", target=target)
        h = np.tanh(h @ W["w"] + u)
        assert np.allclose(y, h @ W["v"], atol=1e-4)
    bundle.reset()
    zero = np.zeros((1, 16), np.float32)
    assert np.allclose(bundle.run(zero, entry="decode", target=target)[0], 0, atol=1e-6)


def test_weights_are_stored_once(bundle):
    assert bundle.manifest["weights_bytes"] < sum(w.nbytes for w in W.values()) + 1024


def test_states_are_told(bundle):
    encode, decode = bundle.manifest["entries"]
    assert [(s["name"], s["input"], s["output"]) for s in encode["states"] + decode["states"]] == [("h_in", False, "h_out"), ("h_in", True, "h_out")]
