"""Forecasts: the work of kernels, costs found from it, what they say of nets, and how well counting bears that out."""
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit import targets
from edgekit.errors import InputError
from edgekit.exporters.kernels.schedule import machine_of
from edgekit.exporters.load import load
from edgekit.exporters.lower import lower, supported
from edgekit.exporters.sparsify import find_groups, prune_onnx
from edgekit.predict import calibrate as calibration
from edgekit.predict import forecast, measure
from edgekit.predict.costs import Costs, costs_of, parsed, text_of, works
from edgekit.predict.samples import masked, samples
from edgekit.predict.work import past, work

LEVELS = (0.3, 0.5, 0.7, 0.9)
random = np.random.default_rng(0)


def net(nodes, x: tuple[int, ...], **constants: np.ndarray):
    """A loaded model from x to y; nodes: (operator, inputs, output, attributes)."""
    made = [helper.make_node(op, inputs.split(), [out], name=out, **attributes) for op, inputs, out, attributes in nodes]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", x), ("y", None))]
    arrays = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(made, "net", ports[:1], ports[1:], arrays)
    return load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), keep=supported())


def n(*shape: int) -> np.ndarray:
    return random.standard_normal(shape).astype(np.float32)


def chain(*widths: int):
    """Linear layers with ReLU between them."""
    nodes = []
    for k in range(1, len(widths)):
        out, last = f"layer{k}", k == len(widths) - 1
        nodes.append(("Gemm", f"{'x' if k == 1 else f'r{k - 1}'} w{k}", "y" if last else out, {}))
        if not last:
            nodes.append(("Relu", out, f"r{k}", {}))
    return net(nodes, (1, widths[0]), **{f"w{k}": n(*widths[k - 1:k + 1]) for k in range(1, len(widths))})


def planned(loaded, sparsity: float = 0.0):
    models = prune_onnx([v.model for v in loaded.variants], sparsity=sparsity, group="auto").models
    return lower("net", [(v.name, m) for v, m in zip(loaded.variants, models, strict=True)], loaded.states)


@pytest.mark.parametrize("target", ["host", "arm64", "wasm"])
def test_the_products_of_a_kernel_are_counted_in_vectors(target):
    lanes = targets.load(target).here[0].lanes
    square = net([("Conv", "x a", "h", {}), ("Relu", "h", "r", {}), ("Conv", "r b", "y", {})], (1, 16, 16, 16), a=n(32, 16, 1, 1), b=n(64, 32, 1, 1))
    for loaded in (square, chain(64, 128, 64)):
        plan, _ = planned(loaded)
        for step, (_, parts) in zip(plan.entries[0].steps, works(plan, plan.entries[0], targets.load(target).here[0], {}), strict=True):
            assert parts["fma"] * lanes == step.macs > 0


def test_half_of_the_inputs_are_half_of_the_products():
    loaded, machine = chain(256, 256, 8), machine_of(targets.load("host"))
    (dense, *_), (half, *_) = (planned(loaded, s)[0].entries[0].steps for s in (0, 0.5))
    (_, whole), (_, part) = work(dense.kernel, 256 * 256, machine, {}), work(half.kernel, 128 * 256, machine, {})
    assert part["fma"] == whole["fma"] / 2 and part["indexed"] and not whole["indexed"]


def test_what_caches_hold_costs_nothing():
    assert [past(size, 1000) for size in (0, 500, 750, 1000, 1250, 9000)] == [0, 0, 0, 0.5, 1, 1]


def test_masks_keep_as_much_in_every_group_and_are_found_again():
    for permute in (False, True):
        w = masked(np.ones((64, 40), np.float32), 8, 10, np.random.default_rng(1), permute)
        assert (w.sum(1) == 10).all()
        groups = find_groups(w)
        assert groups is not None and groups.v == 8 and groups.kept == 10
        assert np.array_equal(groups.order, np.arange(64)) is not permute


def test_samples_are_the_same_again_and_compile():
    found = list(samples(7))
    for (name, model), (again, other) in zip(found, samples(7), strict=True):
        assert name == again and model.SerializeToString() == other.SerializeToString()
        plan, _ = planned(load(model, keep=supported(), name="sample"))
        assert len(works(plan, plan.entries[0], targets.load("wasm").here[0], {})) == len(plan.entries[0].steps)


def test_costs_are_found_in_spite_of_outliers():
    true = {"fma": 2e-9, "load": 0.0, "call": 3e-7}
    rows = []
    for k in range(80):
        parts = {"fma": float(random.integers(10, 10000)), "load": float(random.integers(1, 300)), "call": 1.0}
        cost = sum(true[name] * amount for name, amount in parts.items()) * (1 + 0.02 * random.standard_normal())
        rows.append(("conv", parts, cost * (3 if k % 20 == 0 else 1)))
    found = calibration.fitted(rows, 1e-9)
    assert found["fma"] == pytest.approx(2e-9, rel=0.05) and found["call"] == pytest.approx(3e-7, rel=0.1)
    assert found.get("load", 0.0) * 150 < 0.05 * 2e-9 * 5000


def test_a_table_is_written_and_read_again():
    costs = Costs("some", "seconds", "a processor", {"L2": 1 << 20}, {"conv": {"fma": 2.5e-10}, "map": {"vector": 1e-9}})
    assert parsed("some", text_of(costs, "head")) == costs
    for text in ("unit = 3", 'unit = "miles"\ncpu = ""\n[caches]\n[costs.conv]\n', text_of(costs, "").replace("2.5e-10", "-1")):
        with pytest.raises(InputError, match="no table of costs"):
            parsed("some", text)
    with pytest.raises(InputError, match="'softmax'"):
        costs.of("softmax", {})


def test_there_are_costs_for_what_runs_here():
    for name in ("host", "wasm", "arm64"):
        costs = costs_of(targets.load(name).here[0])
        assert costs is not None and costs.unit == ("instructions" if name == "arm64" else "seconds")
        assert set(costs.kinds) == {"arg", "attention", "conv", "depthwise", "gather", "inference", "linear", "map", "matmul", "norm", "recurrent", "reduce", "scatter",
                                    "softmax", "winograd_input", "winograd_output"}


@pytest.mark.parametrize("target", ["host", "wasm", "arm64"])
def test_a_forecast_adds_up_and_falls(target):
    found = forecast(chain(64, 512, 512, 16), target, LEVELS)
    first, second, head = found.layers
    assert found.unit == ("instructions" if target == "arm64" else "ms") and not found.estimate
    assert found.total() == pytest.approx(found.rest + sum(x.dense for x in found.layers))
    totals = [found.total(s) for s in (0.0, *LEVELS)]
    assert totals == sorted(totals, reverse=True) and totals[-1] < 0.5 * totals[0]
    assert second.costs[0.9] < 0.4 * second.dense and second.macs[0.5] == second.macs[0.0] / 2 and not second.reason
    assert head.group is None and "head" in head.reason and set(head.costs.values()) == {head.dense}
    mixed = found.total({second.name: 0.9})
    assert mixed == pytest.approx(totals[0] - second.dense + second.costs[0.9])
    with pytest.raises(InputError, match="no layer 'nobody'"):
        found.total({"nobody": 0.5})
    with pytest.raises(InputError, match="no forecast at 0.4"):
        found.total(0.4)
    assert first.name == "layer1"


def test_layers_that_share_weights_are_one():
    loaded = net([("Gemm", "x w", "a", {}), ("Relu", "a", "r", {}), ("Gemm", "r w", "b", {}), ("Tanh", "b", "t", {}), ("Gemm", "t v", "y", {})],
                 (1, 128), w=n(128, 128), v=n(128, 4))
    both = forecast(loaded, "host", (0.5,))
    one = forecast(chain(128, 128, 4), "host", (0.5,))
    assert [x.name for x in both.layers] == ["a", "y"]
    assert 1.5 * one.layers[0].dense < both.layers[0].dense < 3 * one.layers[0].dense


def test_it_says_why_a_layer_gains_late_or_not_at_all():
    tiled = net([("Conv", "x a", "first", {"pads": [1] * 4}), ("Relu", "first", "r", {}), ("Conv", "r b", "square", {"pads": [1] * 4}), ("Relu", "square", "s", {}),
                 ("Conv", "s c", "deep", {"pads": [1] * 4, "group": 64}), ("Relu", "deep", "t", {}), ("Conv", "t d", "y", {})],
                (1, 3, 24, 24), a=n(64, 3, 3, 3), b=n(64, 64, 3, 3), c=n(64, 1, 3, 3), d=n(8, 64, 1, 1))
    first, square, deep, head = forecast(tiled, "host", (0.3, 0.9)).layers
    assert "Winograd" in square.reason and square.costs[0.3] == square.dense > square.costs[0.9]
    assert square.macs[0.0] < 64 * 64 * 9 * 24 * 24 / 2  # those of the tiles, and not of the plain product
    assert "first convolution" in first.reason and "depthwise" in deep.reason and "head" in head.reason


def test_zeros_that_are_there_stay():
    w = n(256, 256) * masked(np.ones((256, 256), np.float32), 16, 40, random, permute=False)
    loaded = net([("Gemm", "x w", "a", {"transB": 1}), ("Relu", "a", "r", {}), ("Gemm", "r v", "y", {})], (1, 256), w=w, v=n(256, 4))
    layer = forecast(loaded, "host", (0.5, 0.95)).layers[0]
    assert layer.costs[0.5] == layer.dense and layer.costs[0.95] < layer.dense and layer.macs[0.0] == 40 * 256


def test_a_processor_that_was_not_measured_is_an_estimate(monkeypatch):
    loaded = chain(64, 64, 8)
    assert forecast(loaded, "macos-arm64").estimate and forecast(loaded, "macos-arm64").unit == "instructions"
    monkeypatch.setattr("edgekit.bench.machine.describe", lambda: {"cpu": "another"})
    assert forecast(loaded, "host").estimate and not forecast(loaded, "wasm").estimate
    for level in (0.0, 1.0, -0.5):
        with pytest.raises(InputError, match="sparsity"):
            forecast(loaded, "host", (level,))


@pytest.mark.skipif(find_spec("unicorn") is None, reason="needs the emulator")
def test_instructions_are_forecast_as_they_are_counted():
    image = net([("Conv", "x a", "p", {"pads": [1] * 4, "strides": [2, 2]}), ("Relu", "p", "q", {}), ("Conv", "q b", "r", {}), ("Relu", "r", "s", {}),
                 ("Conv", "s c", "t", {"pads": [1] * 4}), ("GlobalAveragePool", "t", "y", {})],
                (1, 8, 28, 28), a=n(24, 8, 3, 3), b=n(64, 24, 1, 1), c=n(40, 64, 3, 3))
    found = forecast(image, "arm64", (0.7,))
    counted = {s: sum(measure.measured(*planned(image, s), targets.load("arm64"))) for s in (0, 0.7)}
    assert found.total() == pytest.approx(counted[0], rel=0.15)
    assert found.total(0.7) / found.total() == pytest.approx(counted[0.7] / counted[0], rel=0.1)


def test_calibrating_goes_on_where_it_was_and_finds_what_was_measured(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    level = targets.load("host").here[0]
    true, asked = costs_of(level), []

    def fake(plan, arrays, target):
        asked.append(len(plan.entries[0].steps))
        return [true.of(kind, parts) for kind, parts in works(plan, plan.entries[0], target, true.caches)]
    monkeypatch.setattr(measure, "measured", fake)
    monkeypatch.setattr(measure, "inference", lambda target: true.kinds["inference"])
    monkeypatch.setattr(calibration, "caches", lambda: {"L1": 1, **true.caches})
    result = calibration.calibrate("host", count=7, output=tmp_path / "tables")
    assert len(asked) == 7 * calibration.TURNS
    calibration.calibrate("host", count=8)
    assert len(asked) == 8 * calibration.TURNS  # the others were known
    (name,) = result["processors"]
    kinds = result["processors"][name]["kinds"]
    assert {k: v["median_error"] < 0.05 for k, v in kinds.items()} == dict.fromkeys(kinds, True)
    monkeypatch.setenv("EDGEKIT_COSTS", str(tmp_path / "tables"))
    made = costs_of(level)
    assert made is not None and made == replace(parsed(name, result["processors"][name]["toml"]))
    assert forecast(chain(64, 128, 8), "host", (0.5,)).total() > 0


def test_a_target_that_nothing_runs_cannot_be_calibrated():
    with pytest.raises(Exception, match="nothing here runs"):
        calibration.calibrate("ios-arm64")


def test_the_models_are_not_changed():
    loaded = chain(64, 128, 8)
    before = onnx.ModelProto()
    before.CopyFrom(loaded.variants[0].model)
    forecast(loaded, "host", (0.5,))
    assert loaded.variants[0].model == before
