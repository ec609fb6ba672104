"""The bytes that a layer has to move: operands once, nothing that one of its steps leaves for the next."""
import numpy as np
from onnx import helper

from edgekit.exporters.lower.traffic import Traffic, traffic
from tests.lower.graphs import model, plan_of

X = np.zeros((1, 3, 8, 8), np.float32)


def of(m):
    plan, _ = plan_of(m)
    return plan, traffic(plan, plan.entries[0])


def test_a_padded_copy_is_no_traffic_of_its_layer():
    w = np.ones((4, 3, 3, 3), np.float32)
    plan, found = of(model([helper.make_node("Conv", ["x", "w"], ["y"], name="c", pads=[1, 1, 1, 1])], {"x": X}, ["y"], {"w": w}))
    steps = plan.entries[0].steps
    assert len(steps) > 1 and {s.name for s in steps} == {"c"}
    assert sum(t.activations for t in found) == X.nbytes + 4 * 8 * 8 * 4
    assert w.nbytes + 4 * 4 <= sum(t.weights for t in found) <= w.nbytes + 4 * 4 + 64


def test_broadcast_and_sliced_operands_count_what_is_touched():
    y = np.zeros((1, 3, 1, 1), np.float32)
    _, found = of(model([helper.make_node("Slice", ["x", "a", "b", "axes"], ["s"]), helper.make_node("Mul", ["s", "y"], ["z"])],
                        {"x": X, "y": y}, ["z"], {"a": np.array([0]), "b": np.array([2]), "axes": np.array([3])}))
    assert found == (Traffic(2 * X.nbytes // 4 + 3 * 4, 0, 1),)


def test_a_recurrent_layer_goes_through_its_weights_every_step():
    x, w, r = np.zeros((5, 1, 4), np.float32), np.ones((1, 32, 4), np.float32), np.ones((1, 32, 8), np.float32)
    _, found = of(model([helper.make_node("LSTM", ["x", "w", "r"], ["", "h"], hidden_size=8)], {"x": x}, ["h"], {"w": w, "r": r}))
    (recurrent,) = [t for t in found if t.rounds > 1]
    assert recurrent.rounds == 5 and recurrent.weights >= r.nbytes
