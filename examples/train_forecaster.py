"""Trains the demo's motion forecaster: an LSTM over 4 s of a car and its surroundings says where it goes in the next 5
s.

python examples/train_forecaster.py [--quick] [--output DIR]

Writes forecaster.onnx (dense), forecaster-pruned.onnx (50 % of the weights gone in groups, fine-tuned; same
operators, zeros in the weights) and forecaster.json (where they come from, their errors). Needs torch; some ten minutes
on one core.
"""
import argparse
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from shipping import provenance, prune_half, ship, sparsity
from torch import nn

from edgekit.demo.evaluate import baselines, forecasting
from edgekit.demo.traces import FEATURES, FUTURE, PAST, SPEED, SPEED_SCALE, TIMES, Windows, windows

HIDDEN = 96
TRAIN_SEEDS, VALIDATION_SEEDS = 2_000_000, 3_000_000    # the demo and this script's test use small seeds

EXAMPLE = (torch.zeros(1, PAST, FEATURES),)


class Forecaster(nn.Module):
    """History (B, PAST, FEATURES) to path (B, FUTURE, 2) in m: what the LSTM adds to going straight on at the last
    speed.
    """

    def __init__(self):
        super().__init__()
        self.encoder = nn.LSTM(FEATURES, HIDDEN, num_layers=2, batch_first=True)
        self.head = nn.Linear(HIDDEN, FUTURE * 2)
        straight = torch.zeros(1, FUTURE, 2)
        straight[0, :, 0] = torch.tensor(TIMES * SPEED_SCALE)
        self.register_buffer("straight", straight)

    def forward(self, history):
        y, _ = self.encoder(history)
        turn = self.head(y[:, -1]).reshape(-1, FUTURE, 2)
        return 5.0 * turn + history[:, -1:, SPEED:SPEED + 1] * self.straight


def fit(model: Forecaster, data: Windows, epochs: int, rate: float, teacher: Forecaster | None = None) -> None:
    """Minimise the displacement error (Huber past 1 m); with a teacher, half of the aim is what it says."""
    history, future = torch.from_numpy(data.history), torch.from_numpy(data.future)
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    batches = max(1, len(history) // 128)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=epochs * batches, pct_start=0.1)
    for epoch in range(epochs):
        total = 0.0
        for rows in torch.randperm(len(history)).tensor_split(batches):
            aim = future[rows]
            if teacher is not None:
                with torch.no_grad():
                    aim = (aim + teacher(history[rows])) / 2
            loss = nn.functional.smooth_l1_loss(model(history[rows]), aim)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        print(f"epoch {epoch + 1}/{epochs}: loss {total / batches:.4f}", flush=True)


def forecaster(model: Forecaster):
    """The model as a function of numpy histories."""
    def predict(history: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return torch.cat([model(part) for part in torch.from_numpy(history).split(256)]).numpy()
    return predict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("edgekit/demo"),
                        help="folder to write to (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a minute's check that everything works; forecasts badly")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    episodes, held_out, epochs, tuning = (4, 2, 1, 1) if options.quick else (256, 32, 16, 12)
    data = windows(TRAIN_SEEDS + options.seed * 100_000 + np.arange(episodes))
    validation, test = windows(VALIDATION_SEEDS + np.arange(held_out)), windows(np.arange(held_out))
    print(len(data.history), "windows", flush=True)

    model = Forecaster()
    fit(model, data, epochs, 3e-3)
    pruned = prune_half(model, EXAMPLE)
    one_shot = forecasting(forecaster(pruned), test)
    fit(pruned, data, tuning, 1e-3, teacher=model)

    paths = [options.output / name for name in ("forecaster.onnx", "forecaster-pruned.onnx")]
    for module, path in zip((model, pruned), paths):
        ship(module, EXAMPLE, ("history",), ("path",), path)
    provenance(options.output / "forecaster.json", {
        "script": "examples/train_forecaster.py", "seed": options.seed, "quick": options.quick,
        "data": f"{len(data.history)} windows of {episodes} episodes, seeds from {TRAIN_SEEDS}",
        "sparsity": sparsity(paths[1]),
        "validation": {"seeds": f"from {VALIDATION_SEEDS}", "dense": asdict(forecasting(forecaster(model), validation)),
                       "pruned and fine-tuned": asdict(forecasting(forecaster(pruned), validation))},
        "test": f"{held_out} episodes, seeds from 0",
        **{name: asdict(errors) for name, errors in baselines(test).items()},
        "dense": asdict(forecasting(forecaster(model), test)),
        "pruned one-shot": asdict(one_shot),
        "pruned and fine-tuned": asdict(forecasting(forecaster(pruned), test))})


if __name__ == "__main__":
    main()
