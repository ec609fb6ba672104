"""Masks on torch modules: they hold through training, copies, state dicts and export."""
import copy

import numpy as np
import pytest

from edgekit.errors import InputError
from edgekit.exporters.sparsify import find_groups, prune_onnx

torch = pytest.importorskip("torch")
from torch import nn

from edgekit.exporters.sparsify.training import prune, remove, summary

pytestmark = pytest.mark.usefixtures("seeded")


class Forecaster(nn.Module):
    """A recurrent net over (batch, time, 20) with a linear head."""

    def __init__(self, kind=nn.LSTM, **options):
        super().__init__()
        self.rnn = kind(20, 32, batch_first=True, **options)
        width = 32 * (2 if self.rnn.bidirectional else 1)
        self.inner, self.head = nn.Linear(width, 32), nn.Linear(32, 3)

    def forward(self, x):
        return self.head(torch.relu(self.inner(self.rnn(x)[0].mean(1))))


class Policy(nn.Module):
    """A recurrent policy with two heads and its state as input and output."""

    def __init__(self, cell=nn.GRUCell):
        super().__init__()
        self.encoder, self.cell = nn.Linear(30, 32), cell(32, 32)
        self.actor, self.critic = nn.Linear(32, 16), nn.Linear(32, 16)

    def forward(self, x, h):
        h = self.cell(torch.tanh(self.encoder(x)), h)
        return torch.tanh(self.actor(h)), self.critic(h), h


class Camera(nn.Module):
    """A small convolutional policy."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=16), nn.ReLU(),
                                  nn.Conv2d(16, 32, 3, stride=2), nn.BatchNorm2d(32), nn.ReLU())
        self.inner, self.head = nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, x):
        return self.head(torch.relu(self.inner(self.body(x).mean((2, 3))))).softmax(-1)


class Attention(nn.Module):
    """A transformer encoder that scales its output by its input, as reversible normalisation does."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.1)
        self.embed, self.encoder, self.head = nn.Linear(16, 32), nn.TransformerEncoder(layer, 2), nn.Linear(32, 8)
        for parameter in self.encoder.parameters():  # layers of an encoder begin as copies of one
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x)).mean(1)) * x.std() + x.mean()


CASES = {
    "lstm": (Forecaster, (torch.ones(4, 6, 20),)),
    "lstm2": (lambda: Forecaster(num_layers=2, bidirectional=True), (torch.ones(4, 6, 20),)),
    "gru": (lambda: Forecaster(nn.GRU), (torch.ones(4, 6, 20),)),
    "rnn": (lambda: Forecaster(nn.RNN, bias=False), (torch.ones(4, 6, 20),)),
    "policy": (Policy, (torch.ones(4, 30), torch.ones(4, 32))),
    "camera": (Camera, (torch.ones(2, 3, 24, 24),)),
    "attention": (Attention, (torch.ones(2, 5, 16),)),
}


@pytest.fixture(params=CASES)
def case(request):
    make, shapes = CASES[request.param]
    return make(), tuple(torch.randn_like(x) for x in shapes)


def outputs(module, inputs):
    out = module(*inputs)
    return out if isinstance(out, tuple) else (out,)


def masked(module):
    """Effective weights of a pruned module by name, with their masks."""
    found = {}
    for name, m in module.named_modules():
        for parameter in getattr(m, "parametrizations", {}):
            found[f"{name}.{parameter}"] = (getattr(m, parameter).detach().numpy(),
                                            m.parametrizations[parameter][0].mask.numpy())
    return found


def reasons(module, inputs, **options):
    return {layer.name: layer.reason for layer in summary(prune(module, inputs, **options))}


def test_groups_are_there_and_the_argument_is_left_alone(case):
    module, inputs = case
    before = copy.deepcopy(module.state_dict())
    pruned = prune(module, inputs, sparsity=0.5, group=8)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert type(pruned) is type(module) and pruned.training
    weights = masked(pruned)
    assert len(weights) == sum(layer.group == 8 for layer in summary(pruned)) >= 2
    for name, (weight, mask) in weights.items():
        parts = 3 if "in_proj" in name else 1
        assert (weight != 0).mean() == mask.mean() == pytest.approx(0.5, abs=0.03)
        for w in weight.reshape(parts, len(weight) // parts, -1):
            assert find_groups(w).v == 8
    for out in outputs(pruned, inputs):
        assert torch.isfinite(out).all()


@pytest.mark.parametrize("optimizer", [
    lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
])
def test_masks_hold_through_training(case, optimizer):
    module, inputs = case
    pruned = prune(module, inputs)
    before = {name: weight.copy() for name, (weight, _) in masked(pruned).items()}
    target = [torch.randn_like(out) for out in outputs(pruned, inputs)]
    steps, losses = optimizer(pruned.parameters()), []
    for _ in range(8):
        steps.zero_grad()
        loss = sum((a - b).square().mean() for a, b in zip(outputs(pruned, inputs), target))
        loss.backward()
        steps.step()
        losses.append(loss.item())
    assert min(losses[1:]) < losses[0]
    for name, (weight, mask) in masked(pruned).items():
        assert not weight[~mask].any(), name
        assert not np.array_equal(weight, before[name]), name  # and what is kept has learned
        assert (weight[mask] != 0).mean() > 0.99


def test_gradients_are_masked(case):
    module, inputs = case
    pruned = prune(module, inputs)
    sum(out.square().sum() for out in outputs(pruned, inputs)).backward()
    for m in pruned.modules():
        for name, chain in getattr(m, "parametrizations", {}).items():
            gradient, keep = chain.original.grad, chain[0].mask
            assert not gradient[~keep].any() and gradient[keep].any(), name


def test_copies_and_state_dicts(case):
    module, inputs = case
    pruned = prune(module, inputs).eval()
    outputs(pruned, inputs)  # a forward pass leaves nothing behind that cannot be copied
    twin = copy.deepcopy(pruned)
    other = prune(type(module)() if not isinstance(module, Forecaster) else copy.deepcopy(module), inputs,
                  sparsity=0.5).eval()
    other.load_state_dict(pruned.state_dict())
    for a, b, c in zip(outputs(pruned, inputs), outputs(twin, inputs), outputs(other, inputs)):
        assert torch.equal(a, b) and torch.equal(a, c)
    for name, (weight, mask) in masked(other).items():
        np.testing.assert_array_equal(mask, masked(pruned)[name][1])
    assert summary(twin) == summary(pruned)
    with torch.no_grad():  # copies do not share weights
        for parameter in twin.parameters():
            parameter.zero_()
    assert any((weight != 0).any() for weight, _ in masked(pruned).values())


def test_remove_makes_masks_permanent(case):
    module, inputs = case
    pruned = prune(module, inputs).eval()
    with torch.no_grad():
        expected = outputs(pruned, inputs)
        plain = remove(copy.deepcopy(pruned))
        for a, b in zip(outputs(plain, inputs), expected):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        for a, b in zip(outputs(pruned, inputs), expected):  # the one that was copied still works
            assert torch.equal(a, b)
    assert set(plain.state_dict()) == set(module.state_dict())
    assert [type(m) for m in plain.modules()] == [type(m) for m in module.modules()]
    module.load_state_dict(plain.state_dict())
    for name, (weight, _) in masked(pruned).items():
        np.testing.assert_array_equal(module.get_parameter(name).detach().numpy(), weight)


def test_train_eval_and_dtype(case):
    module, inputs = case
    pruned = prune(module, inputs)
    assert pruned.train().training and not pruned.eval().training
    pruned.double()
    out = outputs(pruned, [x.double() for x in inputs])
    assert out[0].dtype == torch.float64
    assert all(not w[~mask].any() and w.dtype == np.float64 for w, mask in masked(pruned).values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda():
    x = torch.randn(4, 6, 20)
    pruned = prune(Forecaster(num_layers=2), x).cuda()
    pruned(x.cuda()).square().sum().backward()
    assert all(chain[0].mask.is_cuda for m in pruned.modules() for chain in getattr(m, "parametrizations", {}).values())


def test_pruning_again_prunes_further():
    module, x = Forecaster(), torch.randn(4, 6, 20)
    half = prune(module, x)
    quarter = prune(half, x, sparsity=0.75)
    for name, (weight, mask) in masked(quarter).items():
        assert mask.mean() == pytest.approx(0.25, abs=0.03)
        assert not (weight != 0)[masked(half)[name][0] == 0].any()


def test_assigning_a_weight_masks_it():
    pruned = prune(Forecaster(), torch.randn(4, 6, 20))
    pruned.rnn.weight_hh_l0 = torch.ones_like(pruned.rnn.weight_hh_l0)
    assert pruned.rnn.weight_hh_l0.mean() == 0.5


def test_packed_sequences():
    class Packed(Forecaster):
        def forward(self, x):
            packed = nn.utils.rnn.pack_padded_sequence(x, [6, 4, 3, 1], batch_first=True)
            return self.head(torch.relu(self.inner(self.rnn(packed)[1][0][-1])))

    pruned = prune(Packed(), torch.randn(4, 6, 20))
    assert {x.name: x.macs for x in summary(pruned)}["rnn.weight_hh_l0"] == 14 * 128 * 32


def test_rules_on_a_camera_policy():
    found = reasons(Camera(), torch.randn(2, 3, 24, 24))
    assert "first convolution" in found["body.0"] and "depthwise" in found["body.2"] and "head" in found["head"]
    assert found["body.4"] == found["inner"] == ""


def test_rules_on_a_policy_with_state():
    found = reasons(Policy(), (torch.randn(4, 30), torch.randn(4, 32)))
    assert "head" in found["actor"] and "head" in found["critic"]
    assert found["encoder"] == found["cell.weight_ih"] == found["cell.weight_hh"] == ""


def test_rules_on_attention():
    found = reasons(Attention(), torch.randn(2, 5, 16))
    assert [name for name, reason in found.items() if reason] == ["head"]
    assert "encoder.layers.0.self_attn.in_proj_weight" in found and "encoder.layers.1.self_attn.out_proj" in found


def test_a_cell_written_out_is_no_head():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.z, self.n = nn.Linear(32, 32), nn.Linear(32, 32)

        def forward(self, x, h):
            z = torch.sigmoid(self.z(x))
            return z * torch.tanh(self.n(x)) + (1 - z) * h

    assert set(reasons(Gated(), (torch.randn(4, 32), torch.randn(4, 32))).values()) == {""}


def test_layers_that_do_not_run_or_share_weights():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.a, self.tied = nn.Embedding(32, 32), nn.Linear(32, 32), nn.Linear(32, 32)
            self.idle, self.head = nn.Linear(32, 32), nn.Linear(32, 2)
            self.tied.weight = self.embed.weight

        def forward(self, i):
            return {"y": self.head(self.tied(self.a(self.embed(i))))}

    found = reasons(Odd(), {"i": torch.tensor([1, 2, 3, 4])})
    assert found["a"] == "" and "embed.weight" in found["tied"] and "did not run" in found["idle"]


def test_one_layer_is_its_own_head():
    reason, = reasons(nn.Linear(64, 64), torch.randn(2, 64)).values()
    assert reason == "it is the head: it makes an output of the model"


@pytest.mark.parametrize("options", [{"sparsity": 1}, {"sparsity": float("nan")}, {"group": 0}, {"group": "16"}])
def test_bad_arguments(options):
    with pytest.raises(InputError, match="must be"):
        prune(Forecaster(), torch.randn(4, 6, 20), **options)


@pytest.mark.parametrize("inputs", [torch.randn(4, 6, 7), (), {"wrong": 1}, None])
def test_bad_example_inputs(inputs):
    with pytest.raises(InputError, match="does not run on its example inputs"):
        prune(Forecaster(), inputs)


def test_weights_that_are_not_finite():
    module = Forecaster()
    nn.init.constant_(module.inner.weight, float("nan"))
    with pytest.raises(InputError, match="inner: the weights are not finite"):
        prune(module, torch.randn(4, 6, 20))


def test_only_modules_are_pruned():
    with pytest.raises(InputError, match="int is no torch.nn.Module"):
        prune(5, (torch.zeros(1, 8),))


def test_summary_of_a_module_that_was_not_pruned():
    with pytest.raises(InputError, match="not pruned"):
        summary(Forecaster())


@pytest.mark.slow
def test_export_finds_the_groups(case):
    pytest.importorskip("onnxscript")
    load = pytest.importorskip("edgekit.exporters.load").load
    module, inputs = case
    pruned = prune(module, inputs, group=16 if isinstance(module, Attention) else 8).eval()
    loaded = load(pruned, example_inputs=inputs)
    layers = [x for x in prune_onnx([loaded.variants[0].model], sparsity=0).layers if x.group]
    asked = [x for x in summary(pruned) if x.group]
    assert {x.group for x in layers} == {x.group for x in asked}
    assert all(x.sparsity == pytest.approx(0.5, abs=0.03) for x in layers)
    # torch writes nn.RNN out step by step, and the first step of a zero state is no product.
    left_out = 4 * 32 * 32 if isinstance(getattr(module, "rnn", None), nn.RNN) else 0
    assert sum(x.macs for x in layers) == sum(x.macs for x in asked) - left_out
