"""One budget shared out among layers: met, within the limits of each, by the formula of each method."""
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.errors import InputError
from edgekit.exporters.sparsify.mask import choose, gains, mask
from edgekit.exporters.sparsify.permute import neighbours
from edgekit.exporters.sparsify.ratios import Candidate, erdos_renyi, erdos_renyi_kernel, global_score, uniform

SHAPES = st.lists(st.integers(1, 96), min_size=2, max_size=4).map(tuple)


@st.composite
def layer_lists(draw):
    shapes = draw(st.lists(SHAPES, min_size=1, max_size=6))
    return [Candidate(f"layer{n}", s, math.prod(s) * draw(st.integers(1, 50)), draw(st.sampled_from([0.5, 0.9, 1.0])))
            for n, s in enumerate(shapes)]


def spent(layers, found):
    return sum((1 - found[x.name]) * x.cost for x in layers)


def reachable(layers):
    return 1 - sum(x.least * x.cost for x in layers) / sum(x.cost for x in layers)


@settings(max_examples=60, deadline=None)
@given(layer_lists(), st.floats(0, 1), st.sampled_from([uniform, erdos_renyi, erdos_renyi_kernel]))
def test_the_budget_is_met_within_the_limits(layers, part, method):
    sparsity = part * reachable(layers) * 0.999
    found = method(layers, sparsity)
    assert list(found) == [x.name for x in layers]
    assert spent(layers, found) == pytest.approx((1 - sparsity) * sum(x.cost for x in layers), rel=1e-9)
    for x in layers:
        assert -1e-12 <= found[x.name] <= 1 - x.least + 1e-12


def test_the_formulas():
    layers = [Candidate("a", (64, 32, 3, 3), 64 * 32 * 9), Candidate("b", (256, 128), 256 * 128)]
    er, erk = erdos_renyi(layers, 0.7), erdos_renyi_kernel(layers, 0.7)
    assert (1 - er["a"]) / (1 - er["b"]) == pytest.approx((96 / (64 * 32)) / (384 / (256 * 128)))
    assert (1 - erk["a"]) / (1 - erk["b"]) == pytest.approx((102 / (64 * 32 * 9)) / (384 / (256 * 128)))
    assert uniform(layers, 0.7) == {"a": pytest.approx(0.7), "b": pytest.approx(0.7)}


def test_a_small_layer_stays_dense_and_the_others_pay():
    layers = [Candidate("small", (8, 8), 64), Candidate("large", (512, 512), 512 * 512)]
    found = erdos_renyi_kernel(layers, 0.5)
    assert found["small"] == 0 and found["large"] == pytest.approx(0.5 * (64 + 512 * 512) / 512 / 512)


def test_cost_is_the_unit_of_the_budget():
    """The same layers by multiply-adds: what is many times used counts many times."""
    shapes = {"a": (32, 64), "b": (64, 32)}
    by_macs = [Candidate("a", shapes["a"], 2048 * 100), Candidate("b", shapes["b"], 2048)]
    found = global_score(by_macs, 0.5, {"a": np.full(64, 1.0), "b": np.full(32, 1.0)})
    assert found["b"] == 0 and found["a"] == pytest.approx(0.505, abs=0.01)


@settings(max_examples=40, deadline=None)
@given(layer_lists(), st.floats(0, 1), st.integers(0, 1000))
def test_global_score_meets_the_budget_to_half_an_input(layers, part, seed):
    sparsity = part * reachable(layers) * 0.999
    rng = np.random.default_rng(seed)
    found = global_score(layers, sparsity, {x.name: -np.sort(-rng.random(x.inputs)) for x in layers})
    most = max(math.ceil(x.least * x.inputs - 1e-9) * x.cost / x.inputs for x in layers)    # where all are at their least
    step = max(x.cost / x.inputs for x in layers)
    assert abs(spent(layers, found) - (1 - sparsity) * sum(x.cost for x in layers)) <= max(step / 2, most) * (1 + 1e-9)
    for x in layers:
        kept = (1 - found[x.name]) * x.inputs
        assert abs(kept - round(kept)) < 1e-6 and 0 <= found[x.name] <= 1 - x.least + 1e-9


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 12))
def test_global_score_is_the_best_choice(seed, budget):
    """Against every other way to keep as many inputs of layers of equal cost."""
    rng = np.random.default_rng(seed)
    sizes = [3, 5, 4]
    layers = [Candidate(str(n), (4, s), 4.0 * s) for n, s in enumerate(sizes)]
    budget = max(budget, 3)
    values = {str(n): -np.sort(-rng.random(s)) for n, s in enumerate(sizes)}
    found = global_score(layers, 1 - budget / 12, values)
    kept = [round((1 - found[x.name]) * x.inputs) for x in layers]
    assert sum(kept) == budget

    def score(counts):
        return sum(values[str(n)][:c].sum() for n, c in enumerate(counts))
    best = max(score(c) for c in itertools.product(*(range(1, s + 1) for s in sizes)) if sum(c) == budget)
    assert score(kept) == pytest.approx(best)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 20), st.integers(1, 30), st.integers(1, 8), st.integers(0, 99))
def test_gains_add_up_to_what_groups_keep(outputs, inputs, v, seed):
    score = np.random.default_rng(seed).random((outputs, inputs))
    found = gains(score, neighbours(outputs, v))
    assert (np.diff(found) <= 1e-12).all()
    for kept in {1, inputs // 2, inputs} - {0}:
        there = mask(choose(score, v, kept, permute=False), outputs, inputs)
        assert found[:kept].sum() == pytest.approx(score[there].sum())


@pytest.mark.parametrize("sparsity", [-0.1, 1, 1.5, float("nan")])
def test_a_sparsity_out_of_range(sparsity):
    with pytest.raises(InputError, match="at least 0 and less than 1"):
        uniform([Candidate("a", (8, 8), 64)], sparsity)


@pytest.mark.parametrize("method", [uniform, erdos_renyi, lambda x, s: global_score(x, s, {"a": np.ones(8), "b": np.ones(8)})])
def test_more_than_the_layers_can_take(method):
    layers = [Candidate("a", (8, 8), 64, most=0.5), Candidate("b", (8, 8), 64)]
    with pytest.raises(InputError, match=r"(?s)more than they can take.*0\.6875 or less"):
        method(layers, 0.8)
    assert sum(method(layers, 0.6875).values()) / 2 == pytest.approx(0.6875)


@pytest.mark.parametrize("wrong", [np.ones(7), np.ones((8, 8)), np.array([1.0] * 7 + [np.nan])])
def test_gains_that_do_not_fit(wrong):
    with pytest.raises(InputError, match="a: the gains"):
        global_score([Candidate("a", (8, 8), 64)], 0.5, {"a": wrong})


def test_nothing_to_share_out():
    assert uniform([], 0.5) == erdos_renyi([], 0.5) == global_score([], 0.5, {}) == {}
