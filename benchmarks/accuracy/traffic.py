"""T-GCN (Zhao et al. 2019) on Los-loop: the speeds of 207 detectors, 12 steps of 5 min to the next 3."""
from functools import cache

import numpy as np
import onnx

from benchmarks.accuracy.rows import Bar, Labels, Row, Run, pick, shared

PAST, FUTURE = 12, 3
SCALE = 70.0  # mph, the greatest speed of the file
ROWS = {"train": (0, 1451), "tuning": (1451, 1612), "test": (1612, 2016)}  # the net was trained on the first 1612


@cache
def speeds() -> np.ndarray:
    """(steps, 207) float32, over SCALE."""
    table = np.loadtxt(shared("data/tgcn_los/los_speed.csv"), delimiter=",", skiprows=1)
    return (table / SCALE).astype(np.float32)


def windows(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Past (n, 1, PAST, 207) and future (n, 1, FUTURE, 207). As the authors do, the last possible window is left out."""
    first, end = ROWS[split]
    at = np.arange(first, end - PAST - FUTURE)[:, None]
    return speeds()[at + np.arange(PAST)][:, None], speeds()[at + PAST + np.arange(FUTURE)][:, None]


def calibration(seed: int) -> dict[str, np.ndarray]:
    past, _ = windows("train")
    return {"speed": past[pick(len(past), seed)]}


def rmse(forecast: np.ndarray, future: np.ndarray) -> float:
    """In mph."""
    return SCALE * float(np.sqrt(np.square(forecast.astype(float) - future).mean()))


def score(run: Run, split: str) -> dict[str, float]:
    past, future = windows(split)
    return {"rmse": rmse(np.stack([run({"speed": x})[0] for x in past]), future)}


def labels(split: str) -> Labels:
    from torch.nn.functional import mse_loss

    past, future = windows(split)
    return Labels({"speed": past}, future, lambda outputs, targets: mse_loss(outputs[0], targets))


def row(name: str = "tgcn") -> Row:
    past, future = windows("test")
    bars = (Bar("one-shot", 0.3, "rmse", 0.06), Bar("tuned", 0.5, "rmse", 0.03), Bar("fine-tuned", 0.5, "rmse", 0.0),
            Bar("fine-tuned", 0.7, "rmse", 0.01))
    return Row(name, "T-GCN, Los-loop", lambda: onnx.load(shared("data/tgcn_los/tgcn_los.onnx")), calibration, score,
               {"rmse": "root mean squared error in mph"},
               "calibration and fine-tuning: the first 90 % of the training rows; recipes: the other 10 %; scored: the "
               f"{len(past)} windows of the authors' test rows", bars, labels,
               baseline=("repeating the last value", {"rmse": rmse(past[:, :, -1:], future)}), published="RMSE 5.1423 mph")
