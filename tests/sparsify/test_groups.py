"""Groups are found in zero patterns of every kind, and packing loses nothing."""
import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.exporters.sparsify.groups import (
    CHANNEL_MAJOR,
    POSITION_MAJOR,
    WORTH,
    dense_groups,
    equal_groups,
    find_groups,
    pack,
    unpack,
)


def patterned(outputs, inputs, v, kept, seed=0, permute=True, holes=0.0, dead=0):
    """A random matrix with balanced groups, and the group number of each row."""
    rng = np.random.default_rng(seed)
    w = np.zeros((outputs, inputs), np.float32)
    rows = rng.permutation(outputs) if permute else np.arange(outputs)
    owner = np.empty(outputs, int)
    for g, start in enumerate(range(0, outputs, v)):
        r, cols = rows[start:start + v], rng.choice(inputs, kept, replace=False)
        w[np.ix_(r, cols)] = rng.uniform(0.5, 1.5, (len(r), kept))
        owner[r] = g
    w[rng.random(w.shape) < holes] = 0
    w[rng.choice(outputs, dead, replace=False)] = 0
    return w, owner


def check(w, groups):
    """Everything that a kernel relies on."""
    outputs, inputs = w.shape
    assert groups.order.dtype == groups.index.dtype == groups.starts.dtype == np.int32
    assert groups.order.shape == (groups.count * groups.v,)
    assert sorted(groups.order[groups.order >= 0]) == list(range(outputs))
    assert (groups.order >= -1).all()
    assert groups.index.min(initial=0) >= 0 and groups.index.max(initial=0) < inputs
    assert groups.starts[0] == 0 and groups.starts[-1] == len(groups.index) and (groups.lengths >= 0).all()
    for a, b in pairwise(groups.starts):
        assert (np.diff(groups.index[a:b]) > 0).all()
    packed = pack(w, groups)
    assert packed.shape == (len(groups.index), groups.v) and packed.dtype == w.dtype
    np.testing.assert_array_equal(unpack(packed, groups, outputs, inputs), w)


@pytest.mark.parametrize("v", [4, 8, 16, 32])
@pytest.mark.parametrize("permute", [False, True])
def test_finds_what_was_pruned(v, permute):
    w, owner = patterned(96, 100, v, 30, permute=permute)
    groups = find_groups(w)
    check(w, groups)
    assert (groups.v, groups.kept, groups.count) == (v, 30, 96 // v)
    for rows in groups.order.reshape(-1, v):
        assert len(set(owner[rows])) == 1
    if not permute:
        np.testing.assert_array_equal(groups.order, np.arange(96))


def test_groups_of_64_are_pairs_of_32():
    w, _ = patterned(128, 100, 64, 30)
    groups = find_groups(w)
    check(w, groups)
    assert (groups.v, groups.kept) == (32, 30)


def test_last_group_is_padded():
    w, _ = patterned(36, 50, 8, 20)
    groups = find_groups(w)
    check(w, groups)
    assert (groups.v, groups.kept, groups.count) == (8, 20, 5)
    assert (groups.order == -1).sum() == 4


def test_weights_that_happen_to_be_zero():
    w, owner = patterned(64, 200, 8, 100, holes=0.05)
    groups = find_groups(w)
    check(w, groups)
    assert (groups.v, groups.count) == (8, 8) and 95 <= groups.kept <= 100
    for rows in groups.order.reshape(-1, 8):
        assert len(set(owner[rows])) == 1


def test_one_weight_that_happens_to_be_zero():
    w, _ = patterned(64, 40, 16, 12)
    r = np.flatnonzero(w.any(1))[3]
    w[r, np.flatnonzero(w[r])[2]] = 0
    groups = find_groups(w)
    check(w, groups)
    assert (groups.v, groups.kept, groups.count) == (16, 12, 4)


@pytest.mark.parametrize("dead", [1, 5])
@pytest.mark.parametrize("permute", [False, True])
def test_dead_channels_fill_groups(dead, permute):
    w, _ = patterned(64, 40, 8, 10, dead=dead, permute=permute)
    groups = find_groups(w)
    check(w, groups)
    assert (groups.v, groups.kept, groups.count) == (8, 10, 8)
    if not permute and dead == 1:
        np.testing.assert_array_equal(groups.order, np.arange(64))  # a dead channel stays among its neighbours


@pytest.mark.parametrize("inputs", [60, 64])
def test_columns_first_in_memory(inputs):
    w, _ = patterned(32, inputs, 8, 20)
    check(np.asfortranarray(w), find_groups(np.asfortranarray(w)))


def test_groups_with_one_support():
    w = np.zeros((32, 20), np.float32)
    w[:, 3:9] = 1
    groups = find_groups(w)
    check(w, groups)
    assert (groups.v, groups.kept) == (32, 6)


def test_uneven_groups_are_filled_up():
    w = np.zeros((16, 20), np.float32)
    w[:8, :10] = 1
    w[8:, 15:] = 1
    groups = find_groups(w)
    check(w, groups)
    assert (groups.v, groups.kept) == (8, 10)


@pytest.mark.parametrize("density, most", [(0.05, 0.3), (0.1, 0.55)])
def test_very_sparse_rows_that_are_not_alike(density, most):
    rng = np.random.default_rng(0)
    w = rng.random((200, 256)).astype(np.float32) * (rng.random((200, 256)) < density)
    groups = find_groups(w)
    check(w, groups)
    assert (groups.v, groups.macs, groups.equal) == (1, np.count_nonzero(w), False)  # nothing but what is not zero
    groups = find_groups(w, POSITION_MAJOR)  # which has no lanes for rows alone
    check(w, groups)
    assert groups.v >= 4 and groups.macs <= most * w.size and not groups.equal


def test_pairs_of_rows_share_groups():
    w, owner = patterned(64, 200, 2, 20)
    groups = find_groups(w)
    check(w, groups)
    assert (groups.v, groups.kept, groups.count, groups.equal) == (2, 20, 32, True)
    assert all(len(set(owner[rows])) == 1 for rows in groups.order.reshape(-1, 2))
    groups = find_groups(w, POSITION_MAJOR)
    check(w, groups)
    assert (groups.v, groups.kept) == (4, 20)  # lanes of padding cost less than another pair's inputs


@pytest.mark.parametrize("form", [CHANNEL_MAJOR, POSITION_MAJOR])
def test_blocks_that_read_unequally(form):
    """Rows in blocks of 8 with a list each, as block pruning by one threshold for the whole layer makes them."""
    rng, owner = np.random.default_rng(1), np.repeat(np.arange(16), 8)
    keeps = rng.random((16, 300)) < rng.uniform(0.05, 0.6, (16, 1))
    shuffled = rng.permutation(128)
    w = (keeps[owner] * rng.uniform(1, 2, (128, 300))).astype(np.float32)[shuffled]
    groups = find_groups(w, form)
    check(w, groups)
    assert (groups.v, groups.macs, groups.equal) == (8, np.count_nonzero(w), False)
    assert all(len(set(owner[shuffled][rows])) == 1 for rows in groups.order.reshape(-1, 8))


def test_band_matrix():
    """The adjacency of a road: each row reads its neighbours."""
    i = np.arange(207)
    w = (abs(i[:, None] - i) <= 6).astype(np.float32)
    w = w[np.random.default_rng(0).permutation(207)]
    groups = find_groups(w)
    check(w, groups)
    assert groups.v > 1 and groups.macs <= 1.4 * np.count_nonzero(w)


def test_all_zero_matrix():
    w = np.zeros((8, 6), np.float32)
    groups = find_groups(w)
    check(w, groups)
    assert groups.kept == 1


def test_dead_rows_among_unlike_rows():
    rng = np.random.default_rng(3)
    w = (rng.random((40, 400)) < 0.15).astype(np.float32)
    w[::3] = 0
    groups = find_groups(w)
    check(w, groups)
    assert groups.macs == np.count_nonzero(w) and (groups.lengths == 0).sum() == 14


@pytest.mark.parametrize("form", [CHANNEL_MAJOR, POSITION_MAJOR])
def test_large_matrices_are_quick(form):
    w = np.random.default_rng(0).random((1024, 1024))
    start = time.process_time()
    groups = find_groups(w * (w > 0.8), form)
    assert groups is None or groups.macs < w.size
    assert time.process_time() - start < 1


def test_sizes_are_the_forms():
    w, _ = patterned(64, 40, 16, 10)
    groups = find_groups(w, replace(CHANNEL_MAJOR, costs={8: 8.2, 4: 4.4}))
    check(w, groups)
    assert (groups.v, groups.kept, groups.count) == (8, 10, 8)


@pytest.mark.parametrize("make", [
    lambda rng: rng.standard_normal((64, 64)),                                          # dense
    lambda rng: rng.standard_normal((64, 64)) * (rng.random((64, 64)) > 0.3),            # no groups
    lambda rng: np.hstack([rng.standard_normal((64, 97)), np.zeros((64, 3))]),           # 3 %: not worth an index
    lambda rng: rng.standard_normal((3, 1)),
    lambda rng: np.zeros((0, 4)),
    lambda rng: np.zeros((4, 0)),
])
def test_nothing_to_find(make):
    assert find_groups(make(np.random.default_rng(0)).astype(np.float32)) is None


def test_pack_refuses_groups_that_lose_weights():
    with pytest.raises(ValueError, match="leave out"):
        pack(np.ones((4, 3), np.float32), equal_groups(4, np.arange(4), np.array([[0, 2]])))


@given(outputs=st.integers(1, 70), inputs=st.integers(1, 40), v=st.sampled_from([1, 2, 3, 4, 5, 8, 12, 16, 32, 64]),
       share=st.floats(0.05, 1), holes=st.sampled_from([0, 0, 0.02, 0.2, 0.8]), dead=st.integers(0, 3),
       seed=st.integers(0, 99), form=st.sampled_from([CHANNEL_MAJOR, POSITION_MAJOR]))
@settings(deadline=None, max_examples=200)
def test_any_pattern_packs_exactly(outputs, inputs, v, share, holes, dead, seed, form):
    kept = max(1, round(share * inputs))
    w, _ = patterned(outputs, inputs, v, kept, seed, holes=holes, dead=min(dead, outputs))
    groups = find_groups(w, form)
    if groups is not None:
        check(w, groups)
        assert groups.macs <= WORTH * w.size
        assert groups.equal or form.cost(groups) <= WORTH * w.size
    elif v in (4, 8, 16, 32) and not holes and not dead:
        assert -(-outputs // v) * v * kept > WORTH * w.size


@given(outputs=st.integers(1, 50), inputs=st.integers(1, 30), v=st.integers(1, 33), seed=st.integers(0, 9))
@settings(deadline=None)
def test_dense_packs_exactly(outputs, inputs, v, seed):
    w = np.random.default_rng(seed).standard_normal((outputs, inputs)).astype(np.float32)
    groups = dense_groups(outputs, inputs, v)
    check(w, groups)
    assert groups.kept == inputs and groups.count == -(-outputs // v)
