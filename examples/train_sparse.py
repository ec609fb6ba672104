"""Trains a forecaster of ETTh1 (336 hours of one series to the next 96) sparse in three ways, and compares it with dense.

python examples/train_sparse.py [--data ../shared/data/ett/ETTh1.csv] [--sparsity 0.5] [--seed 1] [--steps 300] [--quick]

    gradual   the trained dense network, pruned along a cubic while it is fine-tuned, and learns from what the dense one says
    dynamic   sparse from the first step, a random mask that drops and grows connections as it learns
    static    sparse from the first step, under one random mask with Erdos-Renyi ratios

Dense, dynamic and static take 2 * steps of the optimiser; "gradual" and "dense, trained on" take `steps` more from dense.
Prints the mean squared error of the standardised series on the usual validation and test months; nothing is chosen by them.
Needs torch; some three minutes on one core.
"""
import argparse
import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import dropout, gelu, mse_loss, scaled_dot_product_attention

import edgekit as ek
from edgekit.exporters.sparsify import summary

PAST, FUTURE, PATCH, WIDTH, HEADS = 336, 96, 24, 64, 4
MONTHS = {"train": (0, 8640), "validation": (8640, 11520), "test": (11520, 14400)}     # rows: 12, 4 and 4 months
GROUP = 16


class Block(nn.Module):
    """A layer of a transformer, normalised before attention and before its two linear layers."""

    def __init__(self):
        super().__init__()
        self.before, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x):
        q, k, v = self.qkv(self.before(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        x = x + dropout(self.out(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)), 0.2, self.training)
        return x + dropout(self.down(gelu(self.up(self.between(x)))), 0.2, self.training)


class Forecaster(nn.Module):
    """(n, PAST) to (n, FUTURE): days are tokens, each series is normalised by its own past (PatchTST, Nie et al. 2023)."""

    def __init__(self):
        super().__init__()
        self.embed, self.blocks = nn.Linear(PATCH, WIDTH), nn.Sequential(Block(), Block())
        self.position = nn.Parameter(0.02 * torch.randn(PAST // PATCH, WIDTH))
        self.head = nn.Linear(PAST // PATCH * WIDTH, FUTURE)

    def forward(self, x):
        mean, deviation = x.mean(1, keepdim=True), x.std(1, keepdim=True) + 1e-5
        tokens = self.embed(((x - mean) / deviation).unflatten(1, (-1, PATCH))) + self.position
        return self.head(dropout(self.blocks(tokens), 0.2, self.training).flatten(1)) * deviation + mean


def windows(path: Path) -> dict[str, torch.Tensor]:
    """{split: (series * windows, PAST + FUTURE)}, standardised by the training months."""
    table = np.loadtxt(path, delimiter=",", skiprows=1, usecols=range(1, 8))
    train = table[slice(*MONTHS["train"])]
    series = torch.from_numpy(((table - train.mean(0)) / train.std(0)).T.astype(np.float32))
    return {split: series[:, max(first - PAST, 0):end].unfold(1, PAST + FUTURE, 1).flatten(0, 1)
            for split, (first, end) in MONTHS.items()}


def fit(module: nn.Module, data: torch.Tensor, steps: int, rate: float, seed: int, teacher: nn.Module | None = None,
        schedule: Callable = lambda module, optimizer: None) -> nn.Module:
    """A training loop like any other; a schedule is one more line in it."""
    optimizer = torch.optim.AdamW(module.parameters(), rate, weight_decay=1e-2)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.2)
    masks = schedule(module, optimizer)
    order = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    module.train()
    for _ in range(steps):
        x, y = data[torch.randint(len(data), (128,), generator=order)].split([PAST, FUTURE], 1)
        said = module(x)
        loss = mse_loss(said, y)
        if teacher is not None:
            with torch.no_grad():
                aim = teacher(x)
            loss = (loss + mse_loss(said, aim)) / 2
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        rates.step()
        if masks is not None:
            masks.step()
    return module.eval()


def error(module: nn.Module, data: torch.Tensor) -> float:
    with torch.no_grad():
        parts = [(module(x) - y).square().sum() for x, y in (part.split([PAST, FUTURE], 1) for part in data.split(1024))]
    return float(sum(parts)) / (len(data) * FUTURE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[1] / "../shared/data/ett/ETTh1.csv")
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--quick", action="store_true", help="seconds to see that everything works; forecasts badly")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data, steps, seed, sparsity = windows(options.data), options.steps, options.seed, options.sparsity
    if options.quick:
        data, steps = {split: x[::50] for split, x in data.items()}, 8
    example = torch.zeros(1, PAST)

    def fresh() -> Forecaster:
        torch.manual_seed(seed)
        return Forecaster()

    def show(name: str, module: nn.Module) -> None:
        errors = "  ".join(f"{split} {error(module, data[split]):.4f}" for split in ("validation", "test"))
        print(f"{name:24} {errors}", flush=True)

    last = {split: float((data[split][:, PAST - 1:PAST] - data[split][:, PAST:]).square().mean()) for split in ("validation", "test")}
    print(f"{'repeat the last value':24} " + "  ".join(f"{split} {value:.4f}" for split, value in last.items()), flush=True)

    dense = fit(fresh(), data["train"], 2 * steps, 1e-3, seed)
    show("dense", dense)
    show("dense, trained on", fit(copy.deepcopy(dense), data["train"], steps, 1e-3, seed + 1))

    show("pruned, not trained", ek.prune(dense, example, sparsity=sparsity, group=GROUP).eval())
    gradual = ek.prune(dense, example, sparsity=sparsity, group=GROUP)
    show("gradual", fit(gradual, data["train"], steps, 1e-3, seed + 1, teacher=dense,
                        schedule=lambda module, optimizer: ek.Gradual(module, optimizer, steps=steps * 2 // 3)))

    dynamic = ek.prune(fresh(), example, sparsity=sparsity, group=GROUP, score="random", allocation="erk", seed=seed)
    show("dynamic", fit(dynamic, data["train"], 2 * steps, 1e-3, seed,
                        schedule=lambda module, optimizer: ek.Dynamic(module, optimizer, steps=steps * 3 // 2, every=20)))

    static = ek.prune(fresh(), example, sparsity=sparsity, group=GROUP, score="random", allocation="erk", seed=seed)
    show("static", fit(static, data["train"], 2 * steps, 1e-3, seed))

    print("\nlayer                    gradual  dynamic  static   share of weights that are zero")
    for a, b, c in zip(summary(gradual), summary(dynamic), summary(static)):
        print(f"{a.name:24} {a.sparsity:7.0%}  {b.sparsity:7.0%}  {c.sparsity:6.0%}   {a.reason}")


if __name__ == "__main__":
    main()
