"""Scores, allocations and patterns of `prune` on torch modules."""
import copy

import numpy as np
import pytest

import edgekit as ek
from edgekit.errors import InputError
from edgekit.exporters.sparsify import scores, summary

torch = pytest.importorskip("torch")
from torch import nn

from edgekit.exporters.sparsify.masked import masks


class Net(nn.Module):
    """x (n, 3, 8, 8) to (n, 5); `wide` holds most weights."""

    def __init__(self):
        super().__init__()
        self.first, self.conv = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 24, 3)
        self.a, self.b, self.wide, self.head = nn.Linear(24, 32), nn.Linear(32, 32), nn.Linear(32, 128), nn.Linear(128, 5)

    def forward(self, x):
        y = torch.relu(self.conv(torch.relu(self.first(x)))).mean((2, 3))
        return self.head(torch.relu(self.wide(torch.relu(self.b(torch.relu(self.a(y)))))))


X = torch.ones(2, 3, 8, 8)
PRUNED = {"conv": 24 * 144, "a": 24 * 32, "b": 32 * 32, "wide": 32 * 128}


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


def found(module):
    return {layer.name: layer.sparsity for layer in summary(module) if layer.name in PRUNED}


def keeps(module):
    return {name.removesuffix(".weight"): chain[0].mask.numpy() for name, chain in masks(module)}


@pytest.mark.parametrize("score", ["magnitude", "random", scores.l2])
@pytest.mark.parametrize("allocation", ["uniform", "er", "erk", "global"])
@pytest.mark.parametrize("sparsity", [0.5, 0.8])
def test_every_allocation_spends_one_budget(net, allocation, sparsity, score):
    ratios = found(ek.prune(net, X, sparsity=sparsity, group=8, allocation=allocation, score=score))
    dropped = sum(ratios[name] * size for name, size in PRUNED.items())
    assert dropped == pytest.approx(sparsity * sum(PRUNED.values()), abs=sum(size / 24 for size in PRUNED.values()) / 2)
    if allocation == "uniform":
        assert list(ratios.values()) == pytest.approx([sparsity] * 4, abs=0.03)
    elif allocation in ("er", "erk"):
        density = {name: 1 - ratio for name, ratio in ratios.items()}
        raw = {"b": (32 + 32) / (32 * 32), "wide": (32 + 128) / (32 * 128)}
        if density["b"] < 1:
            assert density["b"] / density["wide"] == pytest.approx(raw["b"] / raw["wide"], rel=0.15)


def test_global_gives_to_the_layer_that_matters(net):
    with torch.no_grad():
        net.b.weight *= 10
        net.wide.weight *= 0.1
    ratios = found(ek.prune(net, X, sparsity=0.6, group=8, allocation="global"))
    assert ratios["b"] < 0.1 and ratios["wide"] > 0.8


def test_random_masks_come_from_the_seed_and_differ_between_layers():
    net = nn.Sequential(*(nn.Linear(32, 32) for _ in range(4)))
    a, again, b = (keeps(ek.prune(net, torch.ones(1, 32), score="random", seed=seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(a[n], again[n]) and not np.array_equal(a[n], b[n]) for n in a)
    assert not np.array_equal(a["0"], a["1"])


def test_scores_by_layer_decide(net):
    given = {name: torch.zeros_like(net.get_submodule(name).weight) for name in PRUNED}
    for value in given.values():
        value.flatten(1)[:, 2:12] = 1
    pruned = keeps(ek.prune(net, X, sparsity={"a": 14 / 24, "wide": 22 / 32}, group=8, score=given))
    assert set(pruned) == {"a", "wide"}
    assert all(keep[:, 2:12].all() and keep.sum() == 10 * len(keep) for keep in pruned.values())


def test_fisher_and_taylor_are_those_of_the_loss(net):
    batches = [(torch.randn(4, 3, 8, 8), torch.randn(4, 5)) for _ in range(3)]
    loss = lambda module, batch: (module(batch[0]) - batch[1]).square().mean()
    before = copy.deepcopy(net.state_dict())
    fisher, taylor = ek.fisher(net, loss, batches), ek.taylor(net, loss, batches)
    assert set(fisher) == set(taylor) == {"first", "head", *PRUNED}
    gradients = []
    for batch in batches:
        net.zero_grad()
        loss(net, batch).backward()
        gradients.append(net.wide.weight.grad.clone())
    w = net.wide.weight.detach()
    torch.testing.assert_close(fisher["wide"], torch.stack([(w * g).square() for g in gradients]).mean(0) / 2)
    torch.testing.assert_close(taylor["wide"], torch.stack([(w * g).abs() for g in gradients]).mean(0))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    pruned = ek.prune(net, X, sparsity=0.6, group=4, score=fisher, allocation="global")
    assert sum(found(pruned)[n] * size for n, size in PRUNED.items()) == pytest.approx(0.6 * sum(PRUNED.values()), rel=0.02)
    again = ek.fisher(pruned, loss, batches)        # of a module that is pruned: of its masked weights
    assert all(not again[name][~torch.from_numpy(keep)].any() and again[name].any() for name, keep in keeps(pruned).items())


def test_fisher_keeps_what_the_loss_needs():
    """A layer whose inputs differ in size: magnitude cannot tell, the loss can."""
    net = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 2))
    nn.init.constant_(net[0].weight, 0.3)
    batches = [torch.randn(8, 32) * (torch.arange(32) % 2) for _ in range(4)]
    fisher = ek.fisher(net, lambda m, x: m(x).square().mean(), batches)
    keep = keeps(ek.prune(net, batches[0], score=fisher, group=4))["0"]
    assert keep[:, 1::2].all() and not keep[:, ::2].any()


def test_scores_of_recurrent_and_onnx_layers():
    rnn = nn.LSTM(16, 16, batch_first=True)
    x = torch.randn(4, 6, 16)
    fisher = ek.fisher(rnn, lambda m, x: m(x)[0].square().mean(), [x])
    assert {k: tuple(v.shape) for k, v in fisher.items()} == {"weight_ih_l0": (64, 16), "weight_hh_l0": (64, 16)}
    assert len(keeps(ek.prune(rnn, x, score=fisher))) == 2
    from tests.sparsify.test_trainable import net
    module, x = ek.trainable(net()), torch.randn(4, 12, 32)
    taylor = ek.taylor(module, lambda m, x: m(x).square().mean(), [x])
    pruned = ek.prune(module, x, score=taylor, allocation="erk", sparsity=0.6)
    assert {layer.name for layer in summary(pruned) if layer.sparsity} == {"LSTMs.W", "LSTMs.R", "MatMulu"}


@pytest.mark.parametrize("pattern, share", [("2:4", 0.5), ("1:8", 7 / 8), ("unstructured", 0.5)])
def test_patterns(net, pattern, share):
    pruned = keeps(ek.prune(net, X, pattern=pattern))
    assert set(pruned) == set(PRUNED) and all(keep.mean() == pytest.approx(1 - share) for keep in pruned.values())
    if ":" in pattern:
        m = int(pattern[2:])
        assert (pruned["wide"].reshape(128, -1, m).sum(-1) == int(pattern[0])).all()
        assert (pruned["conv"].reshape(24, 16 // m, m, 9).sum(2) == int(pattern[0])).all()


@pytest.mark.parametrize("options, words", [
    ({"score": "best"}, "there is no score 'best'"),
    ({"score": "fisher"}, "edgekit.fisher"),
    ({"score": {}}, "conv: it has no score"),
    ({"score": {n: np.ones((2, 2)) for n in PRUNED}}, r"conv: its score has the shape \[2, 2\]"),
    ({"score": lambda w: w[:1]}, "the score of a matrix"),
    ({"score": lambda w: -abs(w)}, "finite and not negative"),
    ({"score": lambda w: w * np.nan}, "finite and not negative"),
    ({"score": {n: "heavy" for n in PRUNED}}, "conv: its score has the shape"),
    ({"score": "random", "seed": -1}, "a seed is a whole number"),
    ({"score": "random", "seed": "one"}, "a seed is a whole number"),
    ({"allocation": "best"}, "there is no allocation 'best'"),
    ({"allocation": "erk", "sparsity": {"a": 0.5}}, "nothing for 'erk' to allocate"),
    ({"allocation": "er", "pattern": "2:4"}, "nothing for 'er' to allocate"),
    ({"allocation": "erk", "sparsity": 0.995}, "more than they can take together"),
    ({"pattern": "channels"}, "does not remove channels"),
    ({"pattern": "2:4", "sparsity": 0.7}, "drops 0.5"),
    ({"sparsity": {"nothing": 0.5}}, "no layer 'nothing'"),
    ({"group": 64, "sparsity": {"a": 0.5}}, "a: it cannot be pruned"),
])
def test_arguments_that_do_not_fit(net, options, words):
    with pytest.raises(InputError, match=words):
        ek.prune(net, X, **options)


@pytest.mark.parametrize("loss, batches, words", [
    (lambda m, x: m(x).mean(), [], "no batches"),
    (lambda m, x: m(x), [X], "no finite scalar"),
    (lambda m, x: 1.0, [X], "no finite scalar"),
    (lambda m, x: m(x).mean() * torch.nan, [X], "no finite scalar"),
    (lambda m, x: m(x).mean().detach(), [X], "does not depend on the weights"),
])
def test_losses_that_score_nothing(net, loss, batches, words):
    with pytest.raises(InputError, match=words):
        ek.fisher(net, loss, batches)
    with pytest.raises(InputError, match="no torch.nn.Module"):
        ek.taylor(5, loss, batches)


def test_weights_that_other_parameters_make(net):
    net.a = nn.utils.parametrizations.weight_norm(net.a)
    reasons = {layer.name: layer.reason for layer in summary(ek.prune(net, X))}
    assert "computed from other parameters" in reasons["a"] and not reasons["b"]
