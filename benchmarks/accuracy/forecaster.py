"""PatchTST (Nie et al. 2023), small, on ETTh1: trained here, 336 hours of 7 series to the next 96.

`python -m benchmarks.accuracy.forecaster` trains it anew: some minutes on one core. The weights go to benchmarks/.work.
"""
import json
from functools import cache

import numpy as np
import onnx

from benchmarks.accuracy.rows import WORK, Bar, Labels, Row, Run, pick, shared

PAST, FUTURE = 336, 96
BORDERS = {"train": (0, 8640), "tuning": (8640, 11520), "test": (11520, 14400)}  # rows: 12, 4 and 4 months
SIZE = {"steps": PAST, "horizon": FUTURE, "width": 32, "heads": 4, "inner": 128, "layers": 3}  # the authors': width 16
SEED, EPOCHS, BATCH, RATE, DROPOUT, AVERAGE = 1, 8, 256, 5e-4, 0.3, 0.998
FILE = WORK / "etth1.onnx"


@cache
def series() -> np.ndarray:
    """(7, hours) float32, each series with mean 0 and deviation 1 over the training rows."""
    table = np.loadtxt(shared("data/ett/ETTh1.csv"), delimiter=",", skiprows=1, usecols=range(1, 8))
    train = table[slice(*BORDERS["train"])]
    return np.ascontiguousarray(((table - train.mean(0)) / train.std(0)).T, np.float32)


def starts(split: str) -> np.ndarray:
    """First rows of a split's windows. What is forecast lies in the split; the past may lie in the one before."""
    first, end = BORDERS[split]
    return np.arange(max(first - PAST, 0), end - PAST - FUTURE + 1)


def past(at: np.ndarray) -> np.ndarray:
    """(n, 7, PAST)."""
    return series()[:, at[:, None] + np.arange(PAST)].swapaxes(0, 1)


def future(at: np.ndarray) -> np.ndarray:
    """(n, 7, FUTURE)."""
    return series()[:, at[:, None] + PAST + np.arange(FUTURE)].swapaxes(0, 1)


def calibration(seed: int) -> dict[str, np.ndarray]:
    at = starts("train")
    return {"x": past(at[pick(len(at), seed)])}


def score(run: Run, split: str) -> dict[str, float]:
    at = starts(split)
    error = np.concatenate([run({"x": x})[0] for x in past(at)]).reshape(len(at), 7, FUTURE) - future(at)
    return {"mse": float(np.square(error).mean()), "mae": float(np.abs(error).mean())}


def labels(split: str) -> Labels:
    from torch.nn.functional import mse_loss

    at = starts(split)
    return Labels({"x": past(at)}, future(at), lambda outputs, targets: mse_loss(outputs[0], targets))


def train() -> None:
    """Writes FILE: AdamW, one cycle, dropout, a running average of the weights; the epoch that is best on the tuning rows."""
    import torch
    from torch.nn import functional as F

    from benchmarks.networks import patchtst

    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    module = patchtst(**SIZE).module
    dropped = [part for layer in module.layers for part in (layer.attention.out, layer.mlp)] + [module.embed]
    for part in dropped:
        part.register_forward_hook(lambda part, _, y: F.dropout(y, DROPOUT, part.training))
    module.head.register_forward_pre_hook(lambda part, x: (F.dropout(x[0], DROPOUT, part.training),))
    average = torch.optim.swa_utils.AveragedModel(module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(AVERAGE))
    at = starts("train")
    x, y = (torch.from_numpy(f(at)).flatten(0, 1) for f in (past, future))
    held = starts("tuning")
    held_x, held_y = (torch.from_numpy(f(held)).flatten(0, 1) for f in (past, future))
    optimiser = torch.optim.AdamW(module.parameters(), RATE, weight_decay=1e-2)
    steps = -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=EPOCHS * steps, pct_start=0.2)
    best, kept = np.inf, {}
    for epoch in range(EPOCHS):
        module.train()
        for rows in torch.randperm(len(x)).split(BATCH):
            loss = F.mse_loss(module(x[rows]), y[rows])
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            average.update_parameters(module)
        average.eval()
        with torch.no_grad():
            parts = [F.mse_loss(average(a), b, reduction="sum") for a, b in zip(held_x.split(1024), held_y.split(1024))]
        error = float(sum(parts)) / held_y.numel()
        if error < best:
            best, kept = error, {k: v.clone() for k, v in average.module.state_dict().items()}
        print(f"epoch {epoch + 1}/{EPOCHS}: training loss {float(loss.detach()):.4f}, tuning MSE {error:.4f}", flush=True)
    module = patchtst(**SIZE).module
    module.load_state_dict(kept)
    WORK.mkdir(exist_ok=True)
    program = torch.onnx.export(module.eval(), (torch.zeros(7, PAST),), dynamo=True, opset_version=20, input_names=["x"],
                                output_names=["y"], verbose=False)
    onnx.save(program.model_proto, FILE)
    facts = {"seed": SEED, "epochs": EPOCHS, "batch": BATCH, "rate": RATE, "dropout": DROPOUT, "size": SIZE, "tuning_mse": best}
    FILE.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n", "utf-8")


def model() -> onnx.ModelProto:
    if not FILE.exists():
        train()
    return onnx.load(FILE)


def row(name: str = "etth1") -> Row:
    at = starts("test")
    last = np.square(past(at)[..., -1:] - future(at)).mean()
    bars = (Bar("one-shot", 0.5, "mse", 0.01), Bar("fine-tuned", 0.5, "mse", 0.0), Bar("fine-tuned", 0.7, "mse", 0.01))
    return Row(name, "PatchTST-class forecaster, ETTh1, horizon 96", model, calibration, score,
               {"mse": "mean squared error of the standardised series", "mae": "mean absolute error"},
               "calibration: windows of the 12 training months; recipes: the 4 validation months; scored: all "
               f"{len(at)} windows of the 4 test months", bars, labels, baseline=("repeating the last value", {"mse": float(last)}),
               published="MSE 0.37-0.38, the full recipe")


if __name__ == "__main__":
    train()
