"""The numerics of reconstruction against brute force on tiny problems."""
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from edgekit.exporters.sparsify.permute import neighbours
from edgekit.exporters.sparsify.reconstruction.grouping import grouped
from edgekit.exporters.sparsify.reconstruction.quadratic import (
    Quadratic,
    damped,
    inverse,
    losses,
    saliency,
    solve,
    supports,
)


@st.composite
def problems(draw, least=1, fewest=2):
    """A few rows, at least `least`, of a few inputs, at least `fewest`; one Hessian, or one a row."""
    rows, inputs = st.integers(least, 6), st.integers(fewest, 7)
    rng = np.random.default_rng(draw(st.integers(0, 2 ** 31)))
    r, k = draw(rows), draw(inputs)
    x = rng.standard_normal((r if draw(st.booleans()) else 1, 3 * k, k)) * rng.uniform(0.2, 3, k)
    return Quadratic(damped(torch.from_numpy(x.transpose(0, 2, 1) @ x / len(x[0])), 1e-3), torch.from_numpy(rng.standard_normal((r, k))))


def cost(q: Quadratic, row: int, kept) -> tuple[float, np.ndarray]:
    """The least cost of a row that reads `kept`, and its weights: the normal equations, solved directly."""
    h, o = q.hessian[row % len(q.hessian)].numpy(), q.optimum[row].numpy()
    w = np.zeros_like(o)
    w[list(kept)] = np.linalg.solve(h[np.ix_(kept, kept)], (h @ o)[list(kept)])
    return (w - o) @ h @ (w - o), w


@given(problems(), st.data())
@settings(deadline=None, max_examples=40)
def test_losses_and_weights_are_those_of_least_squares(q, data):
    rows, inputs = q.optimum.shape
    kept = data.draw(st.integers(1, inputs))
    index = np.stack([np.sort(data.draw(st.permutations(range(inputs)))[:kept]) for _ in range(-(-rows // 2))])
    found = losses(q, inverse(q), index)
    groups = neighbours(rows, 2)
    weights = solve(q, groups, index).numpy()
    for g, own in enumerate(index):
        for row in range(rows):
            value, w = cost(q, row, own)
            assert found[row, g] == pytest.approx(value, rel=1e-6, abs=1e-9)
            if row in groups[g]:
                np.testing.assert_allclose(weights[row], w, rtol=1e-6, atol=1e-9)


@given(problems())
@settings(deadline=None, max_examples=40)
def test_the_first_input_that_goes_is_the_one_that_costs_least(q):
    rows, inputs = q.optimum.shape
    every = [sum(cost(q, r, kept)[0] for r in range(rows)) for kept in combinations(range(inputs), inputs - 1)]
    index = supports(q, inverse(q), neighbours(rows, rows), inputs - 1)
    assert sum(cost(q, r, index[0])[0] for r in range(rows)) == pytest.approx(min(every), rel=1e-3, abs=1e-7)
    np.testing.assert_allclose(saliency(q, inverse(q)).sum(0).numpy()[::-1], every, rtol=1e-6, atol=1e-9)


@given(problems(2, 3))
@settings(deadline=None, max_examples=25)
def test_elimination_is_near_the_best_of_all_supports(q):
    rows, inputs = q.optimum.shape
    kept = inputs // 2
    best = min(sum(cost(q, r, s)[0] for r in range(rows)) for s in combinations(range(inputs), kept))
    worst = max(sum(cost(q, r, s)[0] for r in range(rows)) for s in combinations(range(inputs), kept))
    index = supports(q, inverse(q), neighbours(rows, rows), kept)
    assert sum(cost(q, r, index[0])[0] for r in range(rows)) <= best + 0.5 * (worst - best) + 1e-9


@given(problems(2, 3), st.integers(1, 4))
@settings(deadline=None, max_examples=25)
def test_a_grouping_is_a_partition_and_no_worse_than_neighbours(q, v):
    rows, inputs = q.optimum.shape
    found, plain = grouped(q, v, inputs // 2), grouped(q, v, inputs // 2, permute=False)
    assert sorted(found.rows[found.rows >= 0].tolist()) == list(range(rows))
    assert found.rows.shape == plain.rows.shape == (-(-rows // v), v)
    assert found.loss <= plain.loss * (1 + 1e-9) + 1e-12
    assert found.loss == pytest.approx(sum(cost(q, r, i)[0] for rows, i in zip(found.rows, found.index) for r in rows if r >= 0), rel=1e-6, abs=1e-9)


def test_rows_that_read_the_same_inputs_find_each_other():
    rng = np.random.default_rng(0)
    own = np.stack([np.sort(rng.permutation(24)[:12]) for _ in range(4)])
    member = rng.permutation(np.repeat(np.arange(4), 4))
    w = np.zeros((16, 24))
    for r, g in enumerate(member):
        w[r, own[g]] = rng.standard_normal(12) + 2
    x = rng.standard_normal((200, 24)) @ rng.standard_normal((24, 24))
    q = Quadratic(damped(torch.from_numpy(x.T @ x / 200)[None], 1e-3), torch.from_numpy(w))
    found = grouped(q, 4, 12)
    assert {frozenset(member[r]) for r in found.rows} == {frozenset({g}) for g in range(4)}
    assert found.loss < 1e-9 < grouped(q, 4, 12, permute=False).loss


def test_many_inputs_go_in_batches():
    """Past STEPS inputs, removing some at once: near one by one, on inputs that depend on each other."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((600, 150)) @ (np.eye(150) + 0.1 * rng.standard_normal((150, 150)))
    q = Quadratic(damped(torch.from_numpy(x.T @ x / 600)[None], 1e-2), torch.from_numpy(rng.standard_normal((4, 150))))
    index = supports(q, inverse(q), neighbours(4, 4), 75)
    naive = np.sort(np.argsort(-(q.optimum ** 2).sum(0).numpy())[:75])[None]
    assert losses(q, inverse(q), index).sum() < losses(q, inverse(q), naive).sum()
