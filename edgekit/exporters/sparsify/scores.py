"""What a weight is worth: pure functions from a weight array to scores of the same shape, larger is kept."""
from collections.abc import Sequence

import numpy as np

from edgekit.errors import InputError


def l1(weight: np.ndarray) -> np.ndarray:
    """|w| (Han et al. 2015)."""
    return np.abs(weight)


def l2(weight: np.ndarray) -> np.ndarray:
    """w^2: the sum over a group is the squared error that removing it makes in the weights."""
    return np.square(weight)


def wanda(weight: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """w^2 |x|^2 (Sun et al. 2024): weight (outputs, inputs), inputs (n, inputs). What removing a weight changes in its output,
    if inputs were independent and nothing made up for it."""
    return np.square(weight) * np.square(inputs).mean(0)


def obs(weight: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """w^2 / [hessian^-1]_kk (Hassibi and Stork 1993): what removing a weight costs when the others of its row make up for it.

    hessian: (inputs, inputs) or a block a row, (outputs, inputs, inputs); positive definite."""
    return np.square(weight) / np.diagonal(np.linalg.inv(hessian), axis1=-2, axis2=-1)


def random(weight: np.ndarray, seed: int | Sequence[int] = 0) -> np.ndarray:
    """Uniform in [0, 1), the same for the same shape and seed: what any other score has to beat."""
    try:
        return np.random.default_rng(seed).random(weight.shape, np.float32)
    except (TypeError, ValueError):
        raise InputError(f"a seed is a whole number of at least 0, not {seed!r}") from None
