"""The accuracy table: its rows give the published figures of the dense nets, and keep what is scored apart from the rest."""
import itertools

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from benchmarks.accuracy import driving, forecaster, pedestrians, rows, stgat, stgcnn, traffic


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


def test_the_driver_remembers_and_its_calibration_is_of_its_own_episodes(monkeypatch):
    monkeypatch.setattr(driving, "STEPS", 40)
    seen = driving.calibration(0)
    assert seen["obs"].shape[:2] == (rows.CASES, 1) and seen["h"].shape == (rows.CASES, 1, 1, driving.WIDTH)
    assert seen["h"].any((1, 2, 3)).sum() > 0.9 * rows.CASES
    run = rows.runner(driving.model())
    action, after = run({"obs": seen["obs"][0], "h": np.zeros((1, 1, driving.WIDTH), np.float32)})
    drive = driving.driver(run)
    assert np.array_equal(drive(seen["obs"][0]), action)
    assert np.array_equal(drive(seen["obs"][0]), run({"obs": seen["obs"][0], "h": after})[0])
