"""Zeros that a model has already, with and without a pattern, in every product that can use them."""
import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from tests.lower.graphs import check, model, plan_of

F = np.float32


def product(kind: str, rng, outputs: int, inputs: int, zero):
    """A model of one product, an input for it, and the multiply-adds of one position of its dense form. zero(w): w with zeros."""
    def weights(*shape):
        return zero(rng.standard_normal((shape[0], int(np.prod(shape[1:]))))).reshape(shape).astype(F)
    if kind == "left":
        x, node, c = (inputs, 9), helper.make_node("MatMul", ["w", "x"], ["y"], name="n"), {"w": weights(outputs, inputs)}
    elif kind == "linear":
        x, node, c = (3, inputs), helper.make_node("Gemm", ["x", "w"], ["y"], name="n", transB=1), {"w": weights(outputs, inputs)}
    elif kind == "lstm":
        x, node = (2, 1, inputs), helper.make_node("LSTM", ["x", "w", "r"], ["y"], name="n", hidden_size=outputs)
        c = {"w": weights(4 * outputs, inputs)[None], "r": weights(4 * outputs, outputs)[None]}
    else:
        k = 1 if kind == "point" else 3
        x, c = (1, inputs, 5, 4), {"w": weights(outputs, inputs, k, k)}
        node = helper.make_node("Conv", ["x", "w"], ["y"], name="n", pads=[k // 2] * 4)
    given = {"x": rng.standard_normal(x).astype(F)}
    return model([node], given, ["y"], c), given, c


@given(kind=st.sampled_from(["left", "linear", "lstm", "point", "conv"]), outputs=st.integers(1, 40), inputs=st.integers(1, 60),
       density=st.sampled_from([0, 0.02, 0.1, 0.3, 0.6]), rows=st.sampled_from([1, 2, 5, 8]), dead=st.booleans(), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_any_zeros_in_any_product(kind, outputs, inputs, density, rows, dead, seed):
    """Zeros drawn alike for `rows` neighbouring outputs: the numbers stay right, and what is stored and multiplied is no more than dense."""
    rng = np.random.default_rng(seed)

    def zero(w):
        keeps = np.repeat(rng.random((len(w), w.shape[1])) < density, rows, axis=0)[:len(w)]
        return w * keeps * (rng.random((len(w), 1)) < 0.5 if dead else 1)
    made, x, constants = product(kind, rng, outputs, inputs, zero)
    plan = check(made, x)
    for step in plan.entries[0].steps:
        assert step.macs <= step.dense_macs
        if step.group:
            assert 0 < step.sparsity <= 1 and step.macs == round(step.dense_macs * (1 - step.sparsity))
    weights = sum(c.nbytes for c in plan.constants if c.dtype == "float32")
    dense = sum(4 * (w.size + 64 * w.size // w.shape[-1] + 64 * w.shape[-1]) for w in constants.values())
    assert weights <= dense


def test_a_model_pruned_without_a_pattern_keeps_only_what_is_not_zero():
    rng = np.random.default_rng(0)
    w = rng.standard_normal((96, 400, 1, 1)).astype(F) * (rng.random((96, 400, 1, 1)) < 0.2)
    x = {"x": rng.standard_normal((1, 400, 7, 7)).astype(F)}
    plan = check(model([helper.make_node("Conv", ["x", "w"], ["y"], name="n")], x, ["y"], {"w": w}), x)
    step, = plan.entries[0].steps
    assert step.group == 1 and step.macs == np.count_nonzero(w) * 49


def test_the_adjacency_of_a_real_graph_net(shared):
    plan, _ = plan_of(onnx.load(shared("data/tgcn_los/tgcn_los.onnx")))
    steps = plan.entries[0].steps
    products = [s for s in steps if s.dense_macs == 207 * 207 * 65]
    assert len(products) == 24 and all(s.sparsity > 0.9 and s.macs < 0.1 * s.dense_macs for s in products)
    assert sum(s.macs for s in steps) < 0.4 * sum(s.dense_macs for s in steps)
