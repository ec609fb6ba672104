"""Masks keep the best, permutation keeps more of it, scores are what they say."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.exporters.sparsify import scores
from edgekit.exporters.sparsify.groups import WORTH, find_groups
from edgekit.exporters.sparsify.mask import choose, kept_inputs, mask, unstructured_bound
from edgekit.exporters.sparsify.permute import cluster, neighbours, saliency


def clustered(outputs, inputs, v, seed=0):
    """Scores of outputs that come in v kinds, shuffled: neighbours are a bad grouping of them."""
    rng = np.random.default_rng(seed)
    kinds = rng.random((outputs // v, inputs)) ** 4
    return np.repeat(kinds, v, axis=0)[rng.permutation(outputs)] * rng.uniform(0.9, 1.1, (outputs, inputs))


def test_scores():
    w = np.array([[-2.0, 1.0, 0.0]], np.float32)
    np.testing.assert_array_equal(scores.l2(w), [[4, 1, 0]])
    np.testing.assert_array_equal(scores.random(w), scores.random(w * 3))
    assert not np.array_equal(scores.random(w, 1), scores.random(w, 2))


@pytest.mark.parametrize("inputs, sparsity, kept",
                         [(10, 0.5, 5), (10, 0, 10), (10, 0.99, 1), (3, 0.5, 2), (275, 0.5, 138)])
def test_kept_inputs(inputs, sparsity, kept):
    assert kept_inputs(inputs, sparsity) == kept


def test_cluster_finds_hidden_groups():
    score = clustered(64, 100, 8)
    plain, bound = saliency(score, neighbours(64, 8), 30), unstructured_bound(score, 30)
    found = saliency(score, cluster(score, 8, 30), 30)
    assert plain < 0.75 * bound
    assert found > 0.98 * bound


def test_cluster_leaves_good_neighbours_alone():
    rng = np.random.default_rng(0)
    score = np.repeat(rng.random((8, 50)), 8, axis=0)
    np.testing.assert_array_equal(cluster(score, 8, 20), neighbours(64, 8))


def test_cluster_of_a_large_layer_is_quick_and_helps():
    score = clustered(1024, 256, 16)
    assert saliency(score, cluster(score, 16, 64), 64) > 0.95 * unstructured_bound(score, 64)


@given(outputs=st.integers(1, 40), inputs=st.integers(1, 30), v=st.integers(1, 20), share=st.floats(0.05, 1),
       seed=st.integers(0, 99), zero=st.booleans())
@settings(deadline=None, max_examples=150)
def test_choose(outputs, inputs, v, share, seed, zero):
    kept = max(1, round(share * inputs))
    score = np.random.default_rng(seed).random((outputs, inputs)).astype(np.float32) ** 3 * (not zero)
    groups = choose(score, v, kept)
    assert (groups.count, groups.kept, groups.equal) == (-(-outputs // v), kept, True) and groups.order.dtype == groups.index.dtype == np.int32
    assert sorted(groups.order[groups.order >= 0]) == list(range(outputs))
    index = groups.index.reshape(-1, kept)
    assert (np.diff(index, axis=1) > 0).all()
    keep = mask(groups, outputs, inputs)
    assert (keep.sum(1) == kept).all()
    held = score[keep].sum(dtype=np.float64)
    plain = saliency(score, neighbours(outputs, v), kept)
    assert held <= unstructured_bound(score, kept) * (1 + 1e-5)
    assert held >= plain * (1 - 1e-5)
    assert held == pytest.approx(saliency(score, groups.order.reshape(-1, v), kept), rel=1e-5)
    np.testing.assert_array_equal(choose(score, v, kept).order, groups.order)  # deterministic


@given(outputs=st.integers(8, 80), inputs=st.integers(16, 60), v=st.sampled_from([4, 8, 16, 32]),
       sparsity=st.floats(0.3, 0.9), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_what_is_pruned_is_found(outputs, inputs, v, sparsity, seed):
    w = np.random.default_rng(seed).standard_normal((outputs, inputs)).astype(np.float32)
    groups = choose(scores.l2(w), v, kept_inputs(inputs, sparsity))
    if outputs < v or groups.macs > WORTH * w.size:
        return
    w[~mask(groups, outputs, inputs)] = 0
    found = find_groups(w)
    assert found is not None and found.macs <= 1.02 * groups.macs
    assert found.v >= v or -(-outputs // v) * v > 1.125 * outputs  # smaller only where that saves much padding
    if found.v == v:
        assert found.kept <= groups.kept
        members = {frozenset(r) for r in groups.order.reshape(-1, v).tolist()}
        if len(np.unique(groups.index.reshape(-1, groups.kept), axis=0)) == groups.count:
            assert {frozenset(r) for r in found.order.reshape(-1, v).tolist()} == members
