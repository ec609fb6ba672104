"""From scores to the weights that stay: the best P inputs of each group of V outputs."""
import numpy as np

from edgekit.exporters.sparsify.groups import Groups, equal_groups
from edgekit.exporters.sparsify.permute import cluster, neighbours, top


def kept_inputs(inputs: int, sparsity: float) -> int:
    """P: inputs that a group keeps, at least one."""
    return max(1, round(inputs * (1 - sparsity)))


def choose(score: np.ndarray, v: int, kept: int, permute: bool = True) -> Groups:
    """Groups of v outputs of score (outputs, inputs) that keep their best `kept` inputs."""
    rows = cluster(score, v, kept) if permute else neighbours(len(score), v)
    padded = np.concatenate([score, np.zeros((1, score.shape[1]), score.dtype)])
    index = top(padded[rows].sum(1), kept)
    return equal_groups(v, rows.ravel(), index)


def gains(score: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(inputs,) what the p-th best input of every group adds to the score that is kept. rows (groups, v): -1 is padding."""
    padded = np.concatenate([score, np.zeros((1, score.shape[1]), score.dtype)])
    return -np.sort(-padded[rows].sum(1), axis=1).sum(0, dtype=np.float64)


def mask(groups: Groups, outputs: int, inputs: int) -> np.ndarray:
    """Boolean (outputs, inputs): what the groups keep."""
    keep = np.zeros((outputs + 1, inputs), bool)  # the last row takes what padding keeps
    keep[groups.rows, groups.index[:, None]] = True
    return keep[:outputs]


def unstructured_bound(score: np.ndarray, kept: int) -> float:
    """The score that the best outputs*kept single weights hold: what no grouping can exceed."""
    flat = np.sort(score, axis=None)[::-1]
    return float(flat[:len(score) * kept].sum(dtype=np.float64))
