"""The accuracy table: its rows give the published figures of the dense nets, and keep what is scored apart from the rest."""
import dataclasses
import itertools

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from benchmarks.accuracy import driving, forecaster, measure, methods, pedestrians, rows, stgat, stgcnn, tables, traffic


@pytest.fixture
def row(shared):
    """rows.load for a row whose files are all in ../shared."""
    shared("README.md")
    return rows.load


def test_tgcn_has_its_published_error(row):
    tgcn = row("tgcn")
    assert tgcn.score(rows.runner(tgcn.model()), "test")["rmse"] == pytest.approx(5.142304, abs=1e-4)
    assert tgcn.baseline[1]["rmse"] == pytest.approx(5.542782, abs=1e-4)


@pytest.mark.parametrize("name, ade, fde", [("stgat_n4", 0.5199, 1.0185), ("stgat_n2", 0.6528, 1.3077)])
def test_stgat_has_its_published_errors(row, name, ade, fde):
    net = row(name)
    found = net.score(rows.runner(net.model()), "test")
    assert (found["ade out"], found["fde out"]) == (pytest.approx(ade, abs=1e-4), pytest.approx(fde, abs=1e-4))


def test_social_stgcnn_has_its_published_errors_over_any_number_of_pedestrians(row, shared):
    net = row("social_stgcnn")
    found = net.score(rows.runner(net.model(), net), "test")
    assert (found["ade out"], found["fde out"]) == (pytest.approx(0.3357, rel=0.015), pytest.approx(0.5247, rel=0.015))
    with np.load(shared("models/social_stgcnn_zara1.vectors.npz")) as cases:
        for v, a in zip(cases["in_v"], cases["in_a"], strict=True):
            assert np.abs(stgcnn.graphs(v[0].transpose(1, 2, 0)) - a).max() < 1e-6


def test_etth1_is_split_and_scaled_as_published(row):
    assert len(forecaster.starts("test")) == 2785
    train = forecaster.series()[:, :8640]
    assert np.abs(train.mean(1)).max() < 1e-5 and np.abs(train.std(1) - 1).max() < 1e-4
    last = forecaster.score(lambda x: [np.repeat(x["x"][:, -1:], forecaster.FUTURE, 1)], "test")
    assert last["mse"] == pytest.approx(1.295, abs=2e-3) and last["mae"] == pytest.approx(0.713, abs=2e-3)  # Zeng et al. 2023, table 2


def test_what_is_scored_is_seen_by_nothing_else(row):
    for table in (traffic.ROWS, forecaster.BORDERS):
        parts = [table[split] for split in ("train", "tuning", "test")]
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(parts))
    past, future = traffic.windows("train")
    assert len(past) == traffic.ROWS["train"][1] - traffic.PAST - traffic.FUTURE
    assert np.array_equal(future[0, 0], traffic.speeds()[traffic.PAST:traffic.PAST + traffic.FUTURE])
    near = pedestrians.others("biwi_hotel")
    tracks = {split: {one.tobytes() for s in near[split] for one in s.positions.swapaxes(0, 1)} for split in near}
    assert all(tracks[a].isdisjoint(tracks[b]) for a, b in (("train", "tuning"), ("train", "test"), ("tuning", "test")))
    assert tracks["train"].isdisjoint(one.tobytes() for s in pedestrians.scenes("full/biwi_hotel") for one in s.positions.swapaxes(0, 1))
    calibrated = driving.SEEDS["calibration"] + 100 * rows.CASES
    assert driving.EPISODES["test"] < driving.SEEDS["calibration"] and calibrated < driving.SEEDS["tuning"]


@pytest.mark.parametrize("name", ["tgcn", "stgat_n2", "social_stgcnn"])
def test_calibration_fits_the_graph_and_differs_by_seed(row, name):
    net = row(name)
    first, again, other = net.calibration(0), net.calibration(0), net.calibration(1)
    wanted = {i.name: tuple(d.dim_value for d in i.type.tensor_type.shape.dim) for i in net.model().graph.input}
    assert {k: v.shape[1:] for k, v in first.items()} == wanted
    assert all(np.array_equal(v, again[k]) and v.dtype == np.float32 for k, v in first.items())
    assert any(not np.array_equal(first[k], other[k]) for k in first)


def test_a_scene_is_what_the_data_say(row):
    scene = pedestrians.scenes("full/biwi_hotel")[0]
    assert scene.positions.shape[0] == pedestrians.STEPS and scene.positions.shape[1] >= 2
    assert not scene.steps[0].any() and np.allclose(scene.steps.cumsum(0) + scene.positions[0], scene.positions, atol=1e-4)
    assert pedestrians.displacement(scene.steps[pedestrians.OBSERVED:], scene).max() < 1e-4
    assert set(stgat.given(scene)) == {"obs_rel", "h0_traj", "c0_traj", "h0_graph", "c0_graph", "noise"}


def test_the_driver_remembers_and_its_calibration_is_steps_in_a_row(monkeypatch):
    monkeypatch.setattr(driving, "STEPS", 40)
    monkeypatch.setattr(driving, "IN_A_ROW", 16)
    seen = driving.calibration(0)
    cases = 16 * driving.CALIBRATION
    assert seen["obs"].shape[:2] == (cases, 1) and seen["h"].shape == (cases, 1, 1, driving.WIDTH)
    run = rows.runner(driving.model())
    action, after = run({"obs": seen["obs"][0], "h": np.zeros((1, 1, driving.WIDTH), np.float32)})
    drive = driving.driver(run)
    assert np.array_equal(drive(seen["obs"][0]), action)
    assert np.array_equal(drive(seen["obs"][0]), run({"obs": seen["obs"][0], "h": after})[0])
    for k in range(15):
        assert np.array_equal(run({"obs": seen["obs"][k], "h": seen["h"][k]})[1], seen["h"][k + 1])


def _kept(figures, method="one-shot", **more):
    """What is kept of a row with one bar and one trial a seed."""
    dense = {"error": 2.0, "agreement": 1.0, "failed": 0.0}
    return {"title": "a net", "split": "apart", "published": "", "baseline": None, "figures": dict.fromkeys(dense, "it"), "higher": ["agreement"],
            "shares": ["agreement"], "dense": dense, "bars": [], "methods": {method: {"0.5": {str(k): f for k, f in enumerate(figures)}}}, **more}


@pytest.mark.parametrize("bar, figures, verdict", [
    (rows.Bar("one-shot", 0.5, "error", 0.05), [{"error": 2.1}, {"error": 2.09}], "held"),
    (rows.Bar("one-shot", 0.5, "error", 0.05), [{"error": 2.1}, {"error": 2.11}], "missed"),
    (rows.Bar("one-shot", 0.5, "agreement", 0.9, "least"), [{"agreement": 0.89}, {"agreement": 0.91}], "held"),
    (rows.Bar("one-shot", 0.5, "agreement", 0.9, "least"), [{"agreement": 0.89}], "missed"),
    (rows.Bar("one-shot", 0.5, "failed", 0.01, "margin"), [{"failed": 0.0, "interval": {"failed": [0.0, 0.009]}}], "held"),
    (rows.Bar("one-shot", 0.5, "failed", 0.01, "margin"), [{"failed": 0.0, "interval": {"failed": [0.004, 0.007]}}], "missed"),
    (rows.Bar("one-shot", 0.5, "error", 0.05), [{"error": 2.0}, {"refused": "worse than the last value"}], "missed"),
    (rows.Bar("tuned", 0.5, "error", 0.05), [{"error": 2.0}], "not run"),
])
def test_a_bar_is_judged_by_the_mean_over_seeds(bar, figures, verdict):
    kept = _kept(figures)
    assert tables.judge(bar, kept, kept["methods"].get(bar.method, {}).get("0.5", {}))[1] == verdict


def test_tuning_has_to_improve():
    bar = rows.Bar("tuned", 0.5, "agreement", 0, "improves")
    for after, verdict in ((0.8, "held"), (0.6, "missed")):
        kept = _kept([{"agreement": 0.7}])
        found = {"0": {"agreement": after}}
        assert tables.judge(bar, kept, found)[1] == verdict


def test_an_interval_of_rare_events_is_never_empty():
    none = np.zeros(1000)
    one = none.copy()
    one[3] = 1
    for a, middle in ((none, 0), (one, 0.001)):
        found, half = measure.difference(a, none)
        assert found == pytest.approx(middle, rel=0.01) and 0.0015 < half < 0.004
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 400))
    assert measure.difference(a, b)[1] == pytest.approx(1.96 * np.sqrt(2 / 400), rel=0.1)


class _Line:
    """A row whose net is two linear layers, and whose figure is the distance from the dense net."""

    def __init__(self):
        self.weight = 0.2 * np.random.default_rng(0).standard_normal((32, 32)).astype(np.float32)
        self.cases = np.random.default_rng(1).standard_normal((8, 1, 32)).astype(np.float32)

    def model(self):
        ports = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 32]) for n in "xy"]
        first, second = (onnx.numpy_helper.from_array(w, n) for w, n in ((self.weight, "v"), (self.weight[::-1], "w")))
        nodes = [onnx.helper.make_node("Gemm", ["x", "v"], ["h"], name="hidden"), onnx.helper.make_node("Relu", ["h"], ["r"]),
                 onnx.helper.make_node("Gemm", ["r", "w"], ["y"], name="head")]
        graph = onnx.helper.make_graph(nodes, "g", ports[:1], ports[1:], [first, second])
        return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)

    def score(self, run, split):
        assert split == "test"
        wanted = np.maximum(self.cases[:, 0] @ self.weight, 0) @ self.weight[::-1]
        return {"error": 1 + float(np.abs(np.concatenate([run({"x": x})[0] for x in self.cases]) - wanted).mean())}

    def row(self):
        return rows.Row("line", "a line", self.model, lambda seed: {"x": self.cases}, self.score, {"error": "mean distance, and 1"}, "nothing is apart",
                        (rows.Bar("magnitude", 0.5, "error", 0.05),))


def test_what_is_measured_is_kept_and_told(tmp_path):
    line, said = _Line().row(), []
    kept = measure.measure(line, ["magnitude"], [0.25, 0.5], 2, tmp_path, said.append)
    errors = [kept["methods"]["magnitude"][level]["0"]["error"] for level in ("0.25", "0.5")]
    assert kept["dense"]["error"] == pytest.approx(1, abs=1e-4) and 1.1 < errors[0] < errors[1] and len(said) == 2
    again = measure.measure(line, ["magnitude"], [0.25, 0.5], 2, tmp_path, said.append)
    assert again == kept and len(said) == 2
    text = tables.render({"line": kept})
    assert "| 25% | error |" in text and f"{errors[1]:.4g}" in text and text.count("| missed |") == 1 and "held: 0, missed: 1, not run: 0" in text
    assert "line" in tables.plotted({"line": kept}, "magnitude") and not tables.plotted({"line": kept}, "tuned")


def test_fine_tuning_learns_and_keeps_the_zeros(monkeypatch):
    torch = pytest.importorskip("torch")
    from benchmarks.accuracy import finetune

    monkeypatch.setattr(finetune, "STEPS", 90)
    line, rng = _Line(), np.random.default_rng(2)

    def labels(split):
        x = rng.standard_normal((512, 1, 32)).astype(np.float32)
        targets = np.maximum(x @ line.weight, 0) @ line.weight[::-1]
        return rows.Labels({"x": x}, targets, lambda outputs, wanted: torch.nn.functional.mse_loss(outputs[0], wanted))
    row = dataclasses.replace(line.row(), labels=labels)
    begin = methods.Trial(row, 0.5, 0).pruned()
    tuned = finetune.fine_tune(row, begin, 0.5, 0)
    zeros = [{t.name: onnx.numpy_helper.to_array(t) == 0 for t in m.graph.initializer} for m in (begin.models[0], tuned)]
    assert sum(z.sum() for z in zeros[0].values()) >= 500 and all((zeros[1][n] >= z).all() for n, z in zeros[0].items())
    before, after = (line.score(rows.runner(m), "test")["error"] for m in (begin.models[0], tuned))
    assert after - 1 < 0.97 * (before - 1)
    assert finetune.fine_tune(line.row(), begin, 0.5, 0) is None
