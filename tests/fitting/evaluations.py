"""Evaluations that tests name as module:callable."""
import numpy as np


def size(run):
    """Two domains: how large the outputs are on ones, and on twos."""
    return {name: -float(np.abs(run(np.full((1, 64), value, np.float32))[0]).sum()) for name, value in (("in", 1), ("out", 2))}


def fails(run):
    raise RuntimeError("no data")
