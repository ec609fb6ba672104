"""What a weight is worth: pure functions from a weight array to scores of the same shape, larger is kept."""
import numpy as np


def l2(weight: np.ndarray) -> np.ndarray:
    """w^2: the sum over a group is the squared error that removing it makes in the weights."""
    return np.square(weight)


def random(weight: np.ndarray, seed: int = 0) -> np.ndarray:
    """Uniform in [0, 1), the same for the same shape and seed: what any other score has to beat."""
    return np.random.default_rng(seed).random(weight.shape, np.float32)
