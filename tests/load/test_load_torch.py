"""Torch modules of the kinds people bring: the clean graph gives torch's numbers, and the module is left as it was."""

import sys
from typing import NamedTuple

import numpy as np
import pytest

from edgekit.errors import InputError, ShapeError, UnsupportedError
from edgekit.exporters.load import load
from tests.load.load_cases import is_clean, ops, run

torch = pytest.importorskip("torch", reason="torch is not installed: torch modules not checked")
pytest.importorskip("onnxscript", reason="onnxscript is not installed: torch modules not checked")
nn = torch.nn


class Forecaster(nn.Module):
    def __init__(self, cell=nn.LSTM, **arguments):
        super().__init__()
        self.cell = cell(7, 16, batch_first=True, **arguments)
        self.head = nn.Linear(16 * (2 if arguments.get("bidirectional") else 1), 3)

    def forward(self, x):
        y, _ = self.cell(x)
        return self.head(y[:, -1])


class CNNPolicy(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False),
            nn.BatchNorm2d(8),
            nn.SiLU(),
            nn.Dropout(0.3),
            nn.AdaptiveAvgPool2d(2),
        )
        self.head = nn.Sequential(nn.Linear(32, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 2))

    def forward(self, image):
        return self.head(self.features(image).flatten(1))


class GRUPolicy(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.GRUCell(6, 12), nn.Linear(12, 2)

    def forward(self, obs, h):
        h = self.cell(obs, h)
        action = torch.tanh(self.head(h))
        return action, h


def batch(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def agree(module, *inputs, tolerance=1e-5, **arguments):
    torch.manual_seed(1)
    for m in module.modules():
        if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)):
            m.running_mean.normal_()
            m.running_var.uniform_(0.5, 2)
            nn.init.normal_(m.weight)
    loaded = load(module, example_inputs=inputs, **arguments)
    assert all(m.training for m in module.modules())
    (variant,) = loaded.variants
    is_clean(variant.model)
    module.eval()
    with torch.no_grad():
        fresh = [batch(*x.shape, seed=k + 5) for k, x in enumerate(inputs)]
        want = torch.utils._pytree.tree_leaves(module(*fresh))
    got = run(variant.model, {i.name: x.numpy() for i, x in zip(variant.model.graph.input, fresh)})
    for a, b in zip(want, got, strict=True):
        np.testing.assert_allclose(b, a.numpy(), rtol=tolerance, atol=tolerance)
    return loaded


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize(
    "arguments", [{}, {"num_layers": 2, "dropout": 0.2}, {"bidirectional": True}], ids=["one", "two", "both"]
)
def test_recurrent_forecasters(cell, arguments):
    """torch itself unrolls nn.RNN; the others come as one operator a layer."""
    loaded = agree(Forecaster(cell, **arguments), batch(1, 12, 7))
    if cell is not nn.RNN:
        assert ops(loaded.variants[0].model).count(cell.__name__) == arguments.get("num_layers", 1)


def test_a_cnn_policy_loses_its_batch_normalisation():
    loaded = agree(CNNPolicy(), batch(1, 3, 16, 16), tolerance=1e-4)
    assert loaded.name == "cnn_policy" and ops(loaded.variants[0].model).count("Conv") == 2
    assert not {"Mul", "Add"} & set(ops(loaded.variants[0].model)) - {"Mul"}  # SiLU keeps one product


def test_a_transformer_encoder():
    agree(nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2), batch(1, 5, 16))
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_policy_with_state_over_many_steps():
    module = GRUPolicy()
    loaded = agree(module, batch(1, 6), torch.zeros(1, 12), states={"h": "h_out"})
    assert loaded.name == "gru_policy" and loaded.states == (("h", "h_out"),)
    graph = loaded.variants[0].model
    assert [i.name for i in graph.graph.input] == ["obs", "h"] and [o.name for o in graph.graph.output] == [
        "action",
        "h_out",
    ]
    import onnxruntime

    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    theirs, ours = torch.zeros(1, 12), np.zeros((1, 12), np.float32)
    for step in range(1000):
        obs = batch(1, 6, seed=step)
        with torch.no_grad():
            action, theirs = module(obs, theirs)
        got, ours = session.run(None, {"obs": obs.numpy(), "h": ours})
    np.testing.assert_allclose(got, action.numpy(), atol=1e-5)


class Pair(NamedTuple):
    mean: object
    spread: object


class Returns(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, x, y):
        a, b = x + y, x * y
        made = {"dict": lambda: {"a": a, "rest": (b, x)}, "tuple": lambda: Pair(a, b), "list": lambda: [a, b]}[
            self.kind
        ]()
        return made


class Mixed(nn.Module):
    def forward(self, x, hidden):
        return x * 2, (hidden, x + 1)


def test_output_names():
    def names(module):
        return [o.name for o in agree(module, batch(2), batch(2)).variants[0].model.graph.output]

    assert names(Returns("dict")) == ["a", "rest_0", "rest_1"]
    assert names(Returns("tuple")) == ["mean", "spread"]
    assert names(Returns("list")) == ["output_0", "output_1"]
    assert names(Mixed()) == ["output_0", "hidden_out", "output_2"]


def test_example_inputs_in_every_form():
    for given in (batch(1, 3), (batch(1, 3),), [batch(1, 3)], {"input": batch(1, 3)}, np.ones((1, 3), np.float32)):
        loaded = load(nn.Linear(3, 2), example_inputs=given)
        assert [i.name for i in loaded.variants[0].model.graph.input] == ["input"]


def test_input_shapes_take_the_place_of_the_examples():
    loaded = load(nn.Linear(3, 2), example_inputs=batch(1, 3), input_shapes={"input": (5, 3)})
    assert [d.dim_value for d in loaded.variants[0].model.graph.input[0].type.tensor_type.shape.dim] == [5, 3]
    with pytest.raises(ShapeError, match="named 'n'"):
        load(nn.Linear(3, 2), example_inputs=batch(1, 3), input_shapes={"n": (1, 2)})


def test_the_module_is_left_as_it_was():
    module = nn.Sequential(nn.LSTM(4, 4), nn.Identity())
    module[0].train()
    module[1].eval()
    frozen = next(module.parameters())
    frozen.requires_grad_(False)
    seen = []
    module[1].register_forward_hook(lambda m, i, o: seen.append(1))
    torch.nn.utils.parametrize.register_parametrization(module[0], "weight_hh_l0", Masked())
    before = {k: v.clone() for k, v in module.state_dict().items()}
    load(module, example_inputs=batch(3, 1, 4))
    assert module.training and module[0].training and not module[1].training and not frozen.requires_grad
    assert len(module[1]._forward_hooks) == 1 and torch.nn.utils.parametrize.is_parametrized(module[0], "weight_hh_l0")
    assert all(torch.equal(v, before[k]) and v.grad is None for k, v in module.state_dict().items())
    assert module[0].weight_ih_l0 is module[0]._flat_weights[0]
    seen.clear()
    module(batch(3, 1, 4))
    assert seen == [1]


class Masked(nn.Module):
    def forward(self, weight):
        return weight * (weight > 0)


def test_parametrised_weights_become_plain_ones():
    module = nn.Sequential(nn.Linear(6, 5))
    torch.nn.utils.parametrize.register_parametrization(module[0], "weight", Masked())
    loaded = agree(module, batch(1, 6))
    assert ops(loaded.variants[0].model) == ["Gemm"]


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros(3))

    def forward(self, x):
        self.steps.add_(1)
        return x + self.steps


class Replacing(Counting):
    def forward(self, x):
        self.steps = self.steps + 1
        return x + self.steps


class Branching(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


class Decomposing(nn.Module):
    def forward(self, x):
        return torch.linalg.svd(x)[0]


class Failing(nn.Module):
    def forward(self, x):
        raise RuntimeError("this user's own mistake\nwith a second line")


class Counted(nn.Module):
    def forward(self, x):
        return torch.nonzero(x)


@pytest.mark.parametrize(
    ("module", "inputs", "kind", "part"),
    [
        (Counting(), (batch(3),), UnsupportedError, "changes its buffer steps"),
        (Replacing(), (batch(3),), UnsupportedError, "changes its buffer steps"),
        (Branching(), (batch(3),), InputError, "cannot trace it"),
        (Decomposing(), (batch(3, 3),), UnsupportedError, "_linalg_svd"),
        (Failing(), (batch(3),), InputError, "this user's own mistake"),
        (Counted(), (batch(3),), ShapeError, "depends on the data"),
        (nn.Linear(3, 2), None, InputError, "needs example inputs"),
        (nn.Linear(3, 2), (batch(1, 3), batch(1, 3)), InputError, "do not fit forward"),
        (nn.Linear(3, 2), (batch(1, 4),), InputError, "cannot trace it"),
    ],
    ids=lambda v: type(v).__name__,
)
def test_modules_that_cannot_be_loaded(module, inputs, kind, part):
    with pytest.raises(kind) as caught:
        load(module, example_inputs=inputs)
    assert part in str(caught.value) and "second line" not in str(caught.value)
    assert caught.value.where and caught.value.fix
    assert module.training


def test_weights_of_modules_that_are_not_finite():
    module = nn.Linear(3, 2)
    module.weight.data[0, 1] = float("nan")
    with pytest.raises(InputError, match="NaN") as caught:
        load(module, example_inputs=batch(1, 3))
    assert "weight" in caught.value.where


def exported(dynamic=True):
    n = torch.export.Dim("n", min=2, max=64)
    return torch.export.export(
        nn.Sequential(nn.Linear(4, 3)), (batch(4, 4),), dynamic_shapes=({0: n},) if dynamic else None
    )


def test_exported_programs_and_their_files(tmp_path):
    program = exported()
    with pytest.raises(ShapeError, match="input input has the dynamic dimension") as caught:
        load(program)
    name = caught.value.fix.split("=")[0].split()[-1]
    assert [v.name for v in load(program, input_shapes={name: (2, 5)}).variants] == [f"{name}2", f"{name}5"]
    path = tmp_path / "net.pt2"
    torch.export.save(program, path)
    with pytest.raises(InputError, match="unpickles") as refused:
        load(path)
    assert "--trust-model" in refused.value.fix
    loaded = load(path, trust_model=True, input_shapes={"input": (3, 4)})
    assert loaded.name == "net" and loaded.source["kind"] == "pt2"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="cannot read it"):
        load(path, trust_model=True)


CODE = """
import torch
print("noise of the user's own")
def make():
    return torch.nn.Linear(3, 2), (torch.ones(1, 3),)
class Kit:
    @staticmethod
    def policy():
        return make()
def fails():
    return {}["missing"]
def leaves():
    raise SystemExit(4)
def wrong():
    return torch.nn.Linear(3, 2)
number = 3
"""


def test_a_callable_in_the_current_folder(tmp_path, monkeypatch, capsys):
    (tmp_path / "user_models_of_load.py").write_text(CODE)
    (tmp_path / "broken_of_load.py").write_text("def f(:\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    loaded = load("user_models_of_load:make")
    assert loaded.name == "make" and loaded.source["callable"] == "user_models_of_load:make"
    assert load("user_models_of_load:Kit.policy").name == "policy"
    for text, part in [
        ("user_models_of_load:fails", "KeyError: 'missing'"),
        ("user_models_of_load:leaves", "SystemExit: 4"),
        ("user_models_of_load:wrong", "returned Linear, not (torch.nn.Module, example_inputs)"),
        ("user_models_of_load:absent", "AttributeError"),
        ("user_models_of_load:number", "TypeError"),
        ("no_such_module_of_load:f", "no module named no_such_module_of_load"),
        ("broken_of_load:f", "SyntaxError"),
    ]:
        with pytest.raises(InputError) as caught:
            load(text)
        assert part in str(caught.value) and "Traceback" not in str(caught.value), text
    with pytest.raises(InputError) as caught:
        load("user_models_of_load:fails")
    assert caught.value.where == "user_models_of_load.py:11"
    assert sys.path == before
    assert capsys.readouterr().out == ""


def test_nothing_is_printed(capfd):
    load(Forecaster(), example_inputs=batch(1, 4, 7))
    out, err = capfd.readouterr()
    assert out == "" and err == ""
