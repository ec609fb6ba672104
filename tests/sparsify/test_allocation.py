"""The knapsack is the best of all configurations, and random search stays within the budget."""
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.errors import InputError
from edgekit.exporters.sparsify.allocation import Option, knapsack, random_search

NUMBER = st.integers(0, 1000).map(lambda n: n / 1000)  # of a size: sums of floats swallow what is far smaller
TABLES = st.lists(st.lists(st.tuples(NUMBER, NUMBER), min_size=1, max_size=4), min_size=1, max_size=5).map(
    lambda rows: {f"l{k}": [Option(j / 10, c, d) for j, (c, d) in enumerate(row)] for k, row in enumerate(rows)})


def total(tables, chosen, what):
    return sum(next(getattr(o, what) for o in tables[n] if o.sparsity == s) for n, s in chosen.items())


@given(tables=TABLES, share=NUMBER)
@settings(deadline=None, max_examples=60)
def test_knapsack_is_optimal(tables, share):
    least, most = (sum(pick(o.cost for o in options) for options in tables.values()) for pick in (min, max))
    budget = least + share * (most - least)
    chosen = knapsack(tables, budget)
    assert total(tables, chosen, "cost") <= budget * (1 + 1e-9) + 1e-12
    close = budget - (budget - least) * len(tables) / (1 << 14)  # what rounding may leave unused
    best = min((sum(o.damage for o in each) for each in product(*tables.values()) if sum(o.cost for o in each) <= close), default=None)
    if best is not None:
        assert total(tables, chosen, "damage") <= best + 1e-9
    for drawn in random_search(tables, budget * (1 + 1e-9), 3):
        assert total(tables, drawn, "cost") <= budget * (1 + 1e-6) + 1e-12


def test_sparsity_goes_where_it_is_cheap():
    """Two layers of the same cost, one of which does not care."""
    levels = [(0, 10, 0), (0.5, 5, 1), (0.9, 1, 4)]
    tables = {"a": [Option(s, c, d) for s, c, d in levels], "b": [Option(s, c, d / 100) for s, c, d in levels]}
    assert knapsack(tables, 20) == {"a": 0, "b": 0}
    assert knapsack(tables, 11) == {"a": 0, "b": 0.9}
    assert knapsack(tables, 2) == {"a": 0.9, "b": 0.9}
    for search in (lambda b: knapsack(tables, b), lambda b: random_search(tables, b, 1)):
        with pytest.raises(InputError, match="cheapest"):
            search(1.9)


def test_random_search_is_seeded_and_leaves_no_slack():
    tables = {f"l{k}": [Option(0, 10, 0), Option(0.5, 5, 1), Option(0.9, 1, 4)] for k in range(4)}
    one, again, other = (random_search(tables, 20, 5, seed) for seed in (1, 1, 2))
    assert one == again and one != other and len(one) == 5
    for drawn in one:
        assert 20 - total(tables, drawn, "cost") < 5
