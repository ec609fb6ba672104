"""The networks that ship are worth shipping: judged in onnxruntime, on traffic that training never saw."""
import json
from pathlib import Path

import numpy as np
import pytest

from edgekit.demo import networks
from edgekit.demo.evaluate import baselines, driving, forecasting
from edgekit.demo.networks import FORECASTER, POLICY, Network
from edgekit.demo.simulator import OBSERVATION, drive_episodes, observe, plan, start
from edgekit.demo.traces import FEATURES, FUTURE, PAST, PERIOD, SPEED, SPEED_SCALE, windows

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


class Reference:
    """An ONNX file in onnxruntime, with what the demo uses of a bundle: run, session, reset, save, restore."""

    def __init__(self, path: Path, states: dict[str, str]):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._run = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._states = states
        self._inputs = [i.name for i in self._run.get_inputs() if i.name not in states]
        self._shapes = {i.name: i.shape for i in self._run.get_inputs()}
        self.reset()

    def session(self, target: str) -> "Reference":
        return self

    def reset(self) -> None:
        self._state = {name: np.zeros(self._shapes[name], np.float32) for name in self._states}

    def save(self) -> bytes:
        return b"".join(value.tobytes() for value in self._state.values())

    def restore(self, state: bytes) -> None:
        flat = np.frombuffer(state, np.float32)
        sizes = np.cumsum([value.size for value in self._state.values()])[:-1]
        self._state = {name: part.reshape(self._shapes[name])
                       for name, part in zip(self._state, np.split(flat, sizes))}

    def run(self, *inputs: np.ndarray, target: str = "host") -> list[np.ndarray]:
        names = [output.name for output in self._run.get_outputs()]
        got = dict(zip(names, self._run.run(names, dict(zip(self._inputs, inputs)) | self._state)))
        self._state = {name: got[source] for name, source in self._states.items()}
        return [got[name] for name in names if name not in self._states.values()]


def reference(network: Network, form: str = "dense") -> Reference:
    return Reference(getattr(network, form), network.states)


@pytest.fixture(scope="module")
def traffic():
    return windows(np.arange(500, 504))


def test_windows_are_what_they_say(traffic):
    assert traffic.history.shape == (len(traffic.future), PAST, FEATURES) and traffic.history.dtype == np.float32
    assert traffic.future.shape == traffic.lane.shape == (len(traffic.future), FUTURE, 2)
    assert np.abs(traffic.history[:, -1, :3]).max() < 1e-6                          # the last pose is the origin
    first = traffic.future[:, 0, 0] - traffic.history[:, -1, SPEED] * SPEED_SCALE * PERIOD
    assert np.abs(first).max() < 0.5                                                # and x is forward
    assert (traffic.history[:, 0, 0] <= 1e-6).all()                                 # the past lies behind


def test_the_future_is_the_past_of_a_later_window():
    near = windows(np.array([7]), samples=PAST + FUTURE + 6, stride=5)
    now, later = (near.origin[:, 2] == PAST - 1 + 5 * k for k in (0, 1))
    steps = [np.linalg.norm(np.diff(path[:, :5], axis=1), axis=-1) for path in
             (np.concatenate([np.zeros((24, 1, 2)), near.future[now]], 1)[:, :6],
              near.history[later][:, -6:, :2] * 20)]
    assert np.allclose(*steps, atol=1e-3)       # distances do not depend on the frame


@pytest.mark.parametrize(("form", "bound"), [("dense", 0.25), ("tuned", 0.35)])
def test_the_forecaster_beats_forecasts_without_a_network(form, bound, traffic):
    error = forecasting(networks.forecaster(reference(FORECASTER, form)), traffic)
    base = baselines(traffic)
    assert error.ade < bound * base["constant speed along the lane"].ade
    assert error.fde < bound * base["constant speed along the lane"].fde
    assert base["constant speed along the lane"].ade < base["constant velocity"].ade


@pytest.mark.parametrize("form", ["dense", "tuned"])
def test_the_policy_drives_nearly_as_well_as_the_expert(form):
    result, expert = driving(networks.policy(reference(POLICY, form)), 32), driving(None, 32)
    assert len(result.failed) == result.crashes + result.off_road <= 1
    assert result.progress > 0.93 * expert.progress
    assert result.jerk < 2 * expert.jerk


def test_the_policy_s_memory_is_each_episode_s_own():
    """Episodes that step together act as each does alone."""
    together = drive_episodes(np.arange(3), networks.policy(reference(POLICY)), 40)
    for seed in range(3):
        alone = drive_episodes(np.arange(seed, seed + 1), networks.policy(reference(POLICY)), 40)
        assert alone.progress[0] == together.progress[seed]


def test_the_policy_uses_its_memory():
    bundle = reference(POLICY)
    world = start(np.arange(1))
    seen = observe(plan(world).world)
    first, second = bundle.run(seen)[0], bundle.run(seen)[0]
    assert np.abs(first - second).max() > 1e-4


@pytest.mark.parametrize("network", [FORECASTER, POLICY], ids=lambda n: n.name)
@pytest.mark.parametrize("form", ["dense", "tuned"])
def test_files_are_small_static_and_standard(network, form):
    path = getattr(network, form)
    assert path.stat().st_size < 1e6
    model = onnx.load(path)
    assert {o.domain for o in model.opset_import} == {""} and not model.functions
    assert b"site-packages" not in path.read_bytes()                                # no traces of the machine
    for value in (*model.graph.input, *model.graph.output):
        assert all(d.dim_value > 0 for d in value.type.tensor_type.shape.dim)
    assert {"LSTM", "GRU"} & {node.op_type for node in model.graph.node}
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input}
    wanted = {"history": [1, PAST, FEATURES]} if network is FORECASTER else {"obs": [1, OBSERVATION], "h": [1, 1, 128]}
    assert shapes == wanted


@pytest.mark.parametrize("network", [FORECASTER, POLICY], ids=lambda n: n.name)
def test_half_of_the_tuned_weights_are_zero_in_groups(network):
    from edgekit.exporters.sparsify import find_groups
    found = 0
    for weight in map(onnx.numpy_helper.to_array, onnx.load(network.tuned).graph.initializer):
        if weight.ndim == 2 and min(weight.shape) > 32 and (weight == 0).mean() > 0.4:
            groups = find_groups(weight) or find_groups(weight.T)
            assert groups is not None and groups.v % 8 == 0
            found += 1
    assert found >= 3


@pytest.mark.parametrize("network", [FORECASTER, POLICY], ids=lambda n: n.name)
def test_provenance_is_told(network):
    facts = network.provenance
    assert facts["license"] == "Apache-2.0" and facts["quick"] is False
    script = Path(__file__).parents[2] / facts["script"]
    assert script.is_file() and f"train_{network.name}" in script.name
    assert json.dumps(facts)
