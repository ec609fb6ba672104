"""Percentiles with the sample they come from, and exact bounds."""
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.bench import stats


@pytest.mark.parametrize("name, runs", [("p50", 6), ("p90", 30), ("p99", 300), ("p999", 3000)])
def test_a_percentile_needs_three_samples_beyond_it(name, runs):
    per_mille = stats.PERCENTILES[name]
    assert stats.runs_needed(per_mille) == runs
    assert stats.percentile(np.arange(runs, dtype=float), per_mille) is not None
    assert stats.percentile(np.arange(runs - 1, dtype=float), per_mille) is None


@given(st.integers(300, 700), st.sampled_from([500, 900, 990]))
def test_percentiles_are_nearest_rank(n, per_mille):
    shuffled = np.random.default_rng(n).permutation(n) + 1.0
    value = stats.percentile(shuffled, per_mille)
    assert value == math.ceil(n * per_mille / 1000 - 1e-9)


@pytest.mark.parametrize("misses, runs, upper", [
    (0, 300, 1 - 0.05 ** (1 / 300)),   # the closed form; zero misses in 300 runs prove a rate under 1 %
    (0, 1, 0.95), (1, 1, 1.0), (5, 5, 1.0),
    (1, 10, 0.394163302), (3, 100, 0.0757107938), (10, 500, 0.0336882723),   # beta quantiles of scipy.stats
])
def test_upper_bound_of_a_rate(misses, runs, upper):
    assert stats.rate_upper(misses, runs) == pytest.approx(upper, rel=1e-8)


def test_the_upper_bound_holds_for_long_runs():
    assert stats.rate_upper(0, 100_000) == pytest.approx(1 - 0.05 ** 1e-5, rel=1e-6)
    assert 0.5 < stats.rate_upper(50_000, 100_000) < 0.503


@given(st.integers(1, 400), st.data())
@settings(max_examples=60)
def test_bounds_are_above_the_rate_and_grow(runs, data):
    misses = data.draw(st.integers(0, runs))
    upper = stats.rate_upper(misses, runs)
    assert misses / runs <= upper <= 1
    if misses < runs:
        assert upper <= stats.rate_upper(misses + 1, runs)


def test_the_floor_of_a_percentile_covers():
    """In repeated samples the floor is at or below the true percentile at least 95 % of the time, and is not trivial."""
    rng = np.random.default_rng(7)
    true_p99 = -math.log(0.01)
    floors = np.array([stats.percentile_floor(rng.exponential(size=100), 990) for _ in range(2000)])
    assert np.mean(floors <= true_p99) >= 0.945
    assert np.median(floors) > 0.5 * true_p99


def test_the_floor_of_few_samples():
    assert stats.percentile_floor(np.array([1.0, 2.0, 3.0]), 500) == 0.0    # three runs say nothing of a median at 95 %
    assert stats.percentile_floor(np.array([5.0]), 990) == 5.0              # but p99 is surely not below one random run
    assert stats.percentile_floor(np.arange(1.0, 21.0), 990) == 19.0


@given(st.lists(st.floats(1e-7, 10), min_size=1, max_size=200))
def test_the_histogram_holds_every_run(sample):
    histogram = stats.histogram_ms(np.array(sample))
    edges = histogram["edges_ms"]
    assert sum(histogram["counts"]) == len(sample)
    assert len(edges) == len(histogram["counts"]) + 1 and np.all(np.diff(edges) > 0)


def test_summary_is_in_milliseconds():
    summary = stats.summary_ms(np.full(300, 0.002))
    assert summary.pop("p999") is None
    assert summary == pytest.approx(dict.fromkeys(("min", "mean", "p50", "p90", "p99", "max"), 2.0))
