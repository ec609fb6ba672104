"""Torch modules of the kinds people bring, exported and checked against torch itself."""
import numpy as np
import pytest
import torch
from torch import nn

import edgekit as ek

TARGETS = ["host", "wasm"]
TOLERANCE = 1e-4


class Forecaster(nn.Module):
    """A recurrent encoder over (batch, 24, 6) and a linear head: the next 12 values of 6 series."""

    def __init__(self, cell: type[nn.Module], **options):
        super().__init__()
        self.encoder = cell(6, 40, batch_first=True, **options)
        self.head = nn.Linear(40 * (2 if options.get("bidirectional") else 1), 12 * 6)

    def forward(self, x):
        encoded, _ = self.encoder(x)
        return self.head(encoded[:, -1]).reshape(-1, 12, 6)


class Transformer(nn.Module):
    """An encoder of two layers over 16 embedded tokens, averaged."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(5, 32)
        layer = nn.TransformerEncoderLayer(32, nhead=4, dim_feedforward=64, batch_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 3)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x)).mean(dim=1))


class CnnPolicy(nn.Module):
    """A camera frame and a speed to a steering angle and an acceleration."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 12, 5, stride=2), nn.BatchNorm2d(12), nn.ReLU(),
            nn.Conv2d(12, 24, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(24, 24, 3, padding=1, groups=24), nn.Hardswish(), nn.Conv2d(24, 32, 1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Linear(33, 32), nn.ELU(), nn.Linear(32, 2), nn.Tanh())

    def forward(self, image, speed):
        return self.head(torch.cat([self.features(image), speed], dim=1))


class GruPolicy(nn.Module):
    """One step of a recurrent policy: an observation and the last hidden state to an action and the next one."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(10, 32)
        self.cell = nn.GRU(32, 32)
        self.head = nn.Linear(32, 2)

    def forward(self, obs, h_in):
        y, hidden = self.cell(torch.relu(self.embed(obs))[None], h_in[None])
        action, h_out = torch.tanh(self.head(y[0])), hidden[0]
        return action, h_out


MODULES = {
    "lstm": (lambda: Forecaster(nn.LSTM, num_layers=2), [(1, 24, 6)]),
    "gru": (lambda: Forecaster(nn.GRU), [(1, 24, 6)]),
    "bidirectional lstm": (lambda: Forecaster(nn.LSTM, bidirectional=True), [(1, 24, 6)]),
    "transformer": (Transformer, [(1, 16, 5)]),
    "cnn policy": (CnnPolicy, [(1, 3, 36, 64), (1, 1)]),
}


def make(build) -> nn.Module:
    torch.manual_seed(0)
    module = build().eval()
    for part in module.modules():  # batch norm as after training
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.5, 2)
    return module


def relative(got: np.ndarray, wanted: torch.Tensor) -> float:
    reference = wanted.detach().numpy()
    assert got.shape == reference.shape and got.dtype == reference.dtype
    return float(np.abs(got - reference).max() / np.abs(reference).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_a_module_agrees_with_torch(tmp_path, name):
    build, shapes = MODULES[name]
    module = make(build)
    bundle = ek.export(
        module, example_inputs=tuple(torch.randn(s) for s in shapes), targets=TARGETS, output=tmp_path / "m.ekb"
    )
    for _ in range(3):
        inputs = [torch.randn(shape) for shape in shapes]
        wanted = module(*inputs)
        for target in TARGETS:
            (got,) = bundle.run(*(i.numpy() for i in inputs), target=target)
            assert relative(got, wanted) <= TOLERANCE, target


@pytest.mark.parametrize("sparsity", [0, 0.5])
def test_a_policy_keeps_its_state_over_a_thousand_steps(tmp_path, sparsity):
    """The state lives in the arena; torch carries its own. With pruning, onnxruntime on the pruned model is the reference."""
    module = make(GruPolicy)
    example = torch.randn(1, 10), torch.zeros(1, 32)
    bundle = ek.export(module, example_inputs=example, targets=["host", "wasm"], states={"h_in": "h_out"},
                       sparsity=sparsity, output=tmp_path / "policy.ekb")  # fmt: skip
    observations = torch.randn(1000, 1, 10)
    actions = {target: [] for target in ("host", "wasm", "onnx")}
    for target, made in actions.items():
        for obs in observations.numpy():
            made.append(bundle.run(obs, target=target)[0])
    h, wanted = example[1], []
    with torch.no_grad():
        for obs in observations:
            action, h = module(obs, h)
            wanted.append(action)
    reference = torch.stack(wanted) if not sparsity else torch.from_numpy(np.stack(actions["onnx"]))
    for target in ("host", "wasm"):
        assert relative(np.stack(actions[target]), reference) <= TOLERANCE, target

    bundle.reset()
    first = bundle.run(observations[0].numpy())[0]
    kept = bundle.save()
    second = bundle.run(observations[1].numpy())[0]
    bundle.restore(kept)
    assert np.array_equal(bundle.run(observations[1].numpy())[0], second)
    bundle.reset()
    assert np.array_equal(bundle.run(observations[0].numpy())[0], first)
    assert not np.array_equal(bundle.run(observations[0].numpy())[0], first)
