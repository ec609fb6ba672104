"""What a sample supports: percentiles, their lower bounds, exact bounds of a rate, a histogram."""
import math

import numpy as np

PERCENTILES = {"p50": 500, "p90": 900, "p99": 990, "p999": 999}  # per mille
BEYOND = 3  # samples that must be expected above a percentile before it is stated: 300 runs for p99


def runs_needed(per_mille: int) -> int:
    """Fewest runs that support the percentile: 6, 30, 300 and 3000 for p50, p90, p99 and p999."""
    return -(-BEYOND * 1000 // (1000 - per_mille))


def percentile(sample: np.ndarray, per_mille: int) -> float | None:
    """Nearest-rank percentile, a value that was seen; None where the sample is too small for it."""
    n = len(sample)
    if n < runs_needed(per_mille):
        return None
    return float(np.sort(sample)[-(-n * per_mille // 1000) - 1])


def percentile_floor(sample: np.ndarray, per_mille: int) -> float:
    """A value that the percentile of the distribution is not below, 95 % sure; 0 where the sample says nothing.

    The k-th smallest of n is at or below the q-quantile with probability P(Binomial(n, q) >= k) (order statistics).
    """
    n = len(sample)
    at_least = 1 - np.cumsum(np.exp(_log_pmf(n, per_mille / 1000))[:-1])   # P(>= k) for k = 1..n
    sure = int(np.count_nonzero(at_least >= 0.95))
    return float(np.sort(sample)[sure - 1]) if sure else 0.0


def rate_upper(misses: int, runs: int, confidence: float = 0.95) -> float:
    """Exact one-sided upper bound of a rate (Clopper and Pearson 1934): the p with P(Binomial(runs, p) <= misses) = 5 %."""
    if misses >= runs:
        return 1.0
    low, high = misses / runs, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        tail = float(np.exp(_log_pmf(runs, middle)[: misses + 1]).sum())
        low, high = (middle, high) if tail > 1 - confidence else (low, middle)
    return high


def _log_pmf(n: int, p: float) -> np.ndarray:
    """Logarithms of the binomial probabilities of 0..n, for 0 < p < 1."""
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    k = np.arange(n + 1)
    ways = log_factorial[n] - log_factorial - log_factorial[::-1]
    return ways + k * math.log(p) + (n - k) * math.log1p(-p)


def summary_ms(sample: np.ndarray) -> dict[str, float | None]:
    """min, mean, p50, p90, p99, p999, max of a sample in seconds, in milliseconds."""
    points = {name: percentile(sample, per_mille) for name, per_mille in PERCENTILES.items()}
    values = {"min": float(sample.min()), "mean": float(sample.mean()), **points, "max": float(sample.max())}
    return {k: None if v is None else v * 1e3 for k, v in values.items()}


def histogram_ms(sample: np.ndarray, bins: int = 40) -> dict[str, list]:
    """edges_ms (bins + 1) and counts (bins) of a sample in seconds; edges grow geometrically where it spans a decade."""
    low, high = float(sample.min()) * 1e3, float(sample.max()) * 1e3
    if not high > low:
        low, high = low * 0.95, low * 1.05 or 1e-6
    space = np.geomspace if low > 0 and high > 10 * low else np.linspace
    edges = space(low, high, bins + 1)
    edges[0], edges[-1] = low, high  # rounding must not push a sample out
    counts, _ = np.histogram(sample * 1e3, edges)
    return {"edges_ms": edges.tolist(), "counts": counts.tolist()}
