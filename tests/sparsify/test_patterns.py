"""Patterns: N:M, unstructured, layers by name."""
import numpy as np
import pytest

from edgekit.errors import InputError
from edgekit.exporters.sparsify import prune_onnx, saliency_kept, scores
from edgekit.exporters.sparsify.patterns import keep, parse
from edgekit.exporters.sparsify.rules import Choice
from tests.sparsify.test_oneshot import MLP, MLP_WEIGHTS, arrays, by_name, conv_net, net

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("text", ["", "4:2", "2:2", "0:4", "2:65", "2:", "n:m", "2:4:8", "Groups", None, 2])
def test_no_pattern(text):
    with pytest.raises(InputError, match="no pattern"):
        parse(text)


@pytest.mark.parametrize("n, m, channels, taps", [(2, 4, 64, 1), (1, 4, 16, 9), (4, 8, 12, 9), (2, 4, 7, 1), (3, 5, 18, 2)])
def test_n_of_m_inputs_are_the_largest(n, m, channels, taps):
    score = RNG.random((6, channels * taps)).astype(np.float32)
    kept = keep(score, parse(f"{n}:{m}"), Choice(1, 0), taps).reshape(6, channels, taps)
    by_channel = score.reshape(6, channels, taps)
    for first in range(0, channels, m):
        block, stay = by_channel[:, first:first + m], kept[:, first:first + m]
        count = min(n, block.shape[1])
        assert (stay.sum(1) == count).all()
        least = np.sort(block, axis=1)[:, -count:].min(1)
        np.testing.assert_array_equal(stay, block >= least[:, None])


def test_n_m_of_a_model():
    model = conv_net("[wide] s = Conv<pads=[1,1,1,1]>(r, W)", channels=24, W=(24, 16, 3, 3))
    pruned = prune_onnx([model], sparsity=0.5, pattern="2:4")
    new = arrays(pruned.models[0])["W"]
    assert (np.count_nonzero(new.reshape(24, 4, 4, 3, 3), axis=2) == 2).all()
    layer = by_name(pruned)["wide"]
    assert layer.sparsity == 0.5 and (layer.group is None) == bool(layer.reason)
    assert "head" in by_name(pruned)["head"].reason
    for sparsity in (0.3, {"wide": 0.7}):
        with pytest.raises(InputError, match=r"2:4 drops 0.5"):
            prune_onnx([model], sparsity=sparsity, pattern="2:4")


def test_unstructured_keeps_the_largest_of_the_layer():
    model = net(MLP, **MLP_WEIGHTS)
    pruned = prune_onnx([model], sparsity=0.9, pattern="unstructured")
    old, new = arrays(model)["A"], arrays(pruned.models[0])["A"]
    assert np.count_nonzero(new) == 64 * round(64 * 0.1)
    assert np.abs(old[new == 0]).max() <= np.abs(new[new != 0]).min()
    assert by_name(pruned)["a"].sparsity == pytest.approx(1 - 6 / 64)


def test_zeros_that_rows_share_are_used_whatever_the_pattern():
    w = np.zeros((64, 64), np.float32)
    w[:, :8] = 1 + RNG.random((64, 8))
    w += 1e-3 * RNG.random(w.shape, np.float32)
    pruned = prune_onnx([net(MLP, **MLP_WEIGHTS | {"A": w})], sparsity=0.875, pattern="unstructured")
    assert by_name(pruned)["a"].group and not by_name(pruned)["a"].reason


def test_the_score_and_the_permutation_are_the_callers():
    model = net(MLP, **MLP_WEIGHTS)
    drawn = arrays(prune_onnx([model], sparsity=0.5, score=scores.random).models[0])
    best = arrays(prune_onnx([model], sparsity=0.5, permute=False).models[0])
    assert not np.array_equal(drawn["A"] != 0, best["A"] != 0)
    for first in range(0, 64, 16):
        assert len(np.unique(best["A"][first:first + 16] != 0, axis=0)) == 1


def test_layers_by_name():
    model = net(MLP, **MLP_WEIGHTS)
    layers = by_name(prune_onnx([model], sparsity={"a": 0.75, "c": 0.5}, group=8))
    assert {n: (x.sparsity, x.group) for n, x in layers.items()} == {"a": (0.75, 8), "b": (0, None), "c": (0.5, 8)}
    assert not any(x.sparsity for x in prune_onnx([model], sparsity={}).layers)


@pytest.mark.parametrize("sparsity, group, words", [
    ({"d": 0.5}, 8, "no layer 'd'"), ({"a": 1.5}, 8, "a: sparsity must be"), ({"c": 0.5}, 16, "8 outputs, fewer than the 16"),
    ({"a": None}, 8, "a: sparsity must be")])
def test_names_and_numbers_that_do_not_fit(sparsity, group, words):
    with pytest.raises(InputError, match=words):
        prune_onnx([net(MLP, **MLP_WEIGHTS)], sparsity=sparsity, group=group)


def test_a_named_layer_that_cannot_be_pruned():
    model = conv_net("[depthwise] s = Conv<group=16>(r, D)", D=(16, 1, 3, 3))
    with pytest.raises(InputError, match="depthwise: it cannot be pruned"):
        prune_onnx([model], sparsity={"depthwise": 0.5})
    assert by_name(prune_onnx([model], sparsity={"first": 0.5}))["first"].sparsity > 0.4


def test_saliency_kept_is_reported_beside_other_groupings():
    model = net(MLP, **MLP_WEIGHTS | {"A": np.repeat(RNG.standard_normal((8, 64)).astype(np.float32) ** 3, 8, axis=0)[RNG.permutation(64)]})
    pruned = prune_onnx([model], sparsity=0.5, group=8)
    found = saliency_kept([model], pruned)
    assert list(found) == ["a", "b"]
    a = found["a"]
    old, new = arrays(model)["A"], arrays(pruned.models[0])["A"]
    assert a.kept == pytest.approx((new ** 2).sum() / (old ** 2).sum(), rel=1e-4)
    assert a.neighbours < 0.95 * a.kept and a.kept == pytest.approx(a.unstructured, rel=1e-3)
    assert a.by_norm == pytest.approx(a.kept, rel=1e-3)  # the rows that are alike have the same norm
    plain = saliency_kept([model], prune_onnx([model], sparsity=0.5, group=8, permute=False))["a"]
    assert plain.kept == pytest.approx(a.neighbours, rel=1e-4)
    assert not saliency_kept([model], prune_onnx([model], sparsity=0))
