"""One model with every kind of kernel, exported for every target at once: what runs here is verified, the rest links."""
import numpy as np
import pytest
from onnx import helper

import edgekit as ek
from edgekit import targets
from edgekit.runtimes.abi import symbols
from edgekit.runtimes.abi.names import library_names
from tests.lower.graphs import model

RNG = np.random.default_rng(0)
ELF = ("host", "arm64", "android-arm64", "android-x64", "linux-musl", "x64")


def n(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def every_kind():
    """Convolutions, LSTM, attention products, softmax, norm, reductions, gathers, elementwise."""
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv", pads=[1] * 4, strides=[2, 2]), helper.make_node("Tanh", ["c"], ["t"], name="tanh"),
        helper.make_node("Conv", ["t", "d"], ["e"], name="depthwise", pads=[1] * 4, group=16), helper.make_node("Reshape", ["e", "s"], ["f"], name="rows"),
        helper.make_node("LSTM", ["f", "lw", "lr"], ["", "h"], name="lstm", hidden_size=16), helper.make_node("Transpose", ["f"], ["ft"], name="turn", perm=[1, 2, 0]),
        helper.make_node("Transpose", ["f"], ["fq"], name="turn2", perm=[1, 0, 2]), helper.make_node("MatMul", ["fq", "ft"], ["q"], name="scores"),
        helper.make_node("Softmax", ["q"], ["p"], name="softmax"), helper.make_node("ReduceMax", ["p"], ["m"], name="top", keepdims=0),
        helper.make_node("LayerNormalization", ["h", "g"], ["k"], name="norm"), helper.make_node("Gemm", ["kk", "v"], ["y0"], name="head"),
        helper.make_node("Squeeze", ["k", "z"], ["kk"], name="squeeze"), helper.make_node("Gather", ["y0", "i"], ["y1"], name="pick", axis=1),
        helper.make_node("Mul", ["y1", "m"], ["y"], name="scale")]
    nodes = [*nodes[:11], nodes[12], nodes[11], *nodes[13:]]
    constants = {"w": n(16, 3, 3, 3), "b": n(16), "d": n(16, 1, 3, 3), "s": np.asarray([16, 1, 16]), "lw": n(1, 64, 16), "lr": n(1, 64, 16), "g": n(16),
                 "v": n(16, 12), "z": np.asarray([0]), "i": np.asarray([7, 0, 3])}
    return model(nodes, {"x": n(1, 3, 8, 8)}, ["y"], constants)


@pytest.mark.slow
def test_a_model_with_every_kind_of_kernel_for_every_target(tmp_path):
    bundle = ek.export(every_kind(), targets=targets.names(), output=tmp_path / "m.ekb", name="every")
    found = bundle.manifest["targets"]
    assert {t for t in found if found[t]["verified"]} == {t for t in targets.names() if targets.load(t).runner} >= {"host", "arm64", "wasm"}
    for name in targets.names():
        shared, static = library_names(targets.load(name), "every")
        for library in filter(None, (shared, static)):
            assert (tmp_path / "m.ekb" / name / library).stat().st_size > 1000
        if name in ELF:
            inside = symbols.read((tmp_path / "m.ekb" / name / static).read_bytes())
            assert all(s.startswith("every_") for s in inside.defined) and inside.undefined <= {"memcpy", "memset", "memmove", "memcmp"}
            assert not symbols.read((tmp_path / "m.ekb" / name / shared).read_bytes()).undefined
