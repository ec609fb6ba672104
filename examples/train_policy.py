"""Trains the demo's driving policy: it imitates the simulator's rule-based driver (DAgger: Ross, Gordon, Bagnell 2011).

python examples/train_policy.py [--quick] [--output DIR]

Writes policy.onnx (dense), policy-pruned.onnx (50 % of the weights gone in groups, fine-tuned; same operators,
zeros in the weights) and policy.json (where they come from, how well they drive). Needs torch; some ten minutes on one
core.
"""
import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from shipping import provenance, prune_half, ship, sparsity
from torch import nn

from edgekit.demo.evaluate import Driving, driving
from edgekit.demo.simulator import OBSERVATION, Plan, drive_episodes, observe

HIDDEN = 128
PIECE = 100                      # steps of an episode that are learned from at once
SCALE = 10.0                     # errors are weighed against actions of about a tenth
TRAIN_SEEDS = 1_000_000          # episodes seen in training start here; the demo and this script's test use small seeds


class Policy(nn.Module):
    """Observation (1, OBSERVATION) and memory (1, 1, HIDDEN) to action (1, 2) and new memory."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(OBSERVATION, HIDDEN)
        self.memory = nn.GRU(HIDDEN, HIDDEN, batch_first=True)
        self.hidden = nn.Linear(HIDDEN, HIDDEN)
        self.head = nn.Linear(HIDDEN, 2)

    def sequence(self, observations, h):
        """Observations (B, T, OBSERVATION) and memory (1, B, HIDDEN) to actions (B, T, 2) and memory."""
        y, h = self.memory(torch.relu(self.embed(observations)), h)
        return self.head(torch.relu(self.hidden(y))), h

    def forward(self, observation, h):
        y, h = self.memory(torch.relu(self.embed(observation)).unsqueeze(1), h)
        return self.head(torch.relu(self.hidden(y.squeeze(1)))), h


EXAMPLE = (torch.zeros(1, OBSERVATION), torch.zeros(1, 1, HIDDEN))


@dataclass(frozen=True)
class Examples:
    """Pieces of episodes: observations (B, T, OBSERVATION), the expert's actions (B, T, 2), weight (B, T) 0 after the
    end.
    """

    observations: torch.Tensor
    actions: torch.Tensor
    weight: torch.Tensor

    @property
    def steps(self) -> int:
        """Steps that count."""
        return int(self.weight.sum())

    def __add__(self, other: "Examples") -> "Examples":
        return Examples(*(torch.cat([a, b]) for a, b in zip(vars(self).values(), vars(other).values())))


def driver(model: Policy):
    """The policy as a function of many episodes' observations at once; it remembers from call to call."""
    memory = None

    def act(observations: np.ndarray) -> np.ndarray:
        nonlocal memory
        x = torch.from_numpy(observations)
        memory = torch.zeros(1, len(x), HIDDEN) if memory is None else memory
        with torch.no_grad():
            action, memory = model(x, memory)
        return action.numpy()
    return act


def collect(seeds: np.ndarray, policy, steps: int) -> Examples:
    """Episodes driven by `policy`, labelled with what the expert would have done."""
    seen, labels, alive = [], [], []

    def watch(plan: Plan, _: np.ndarray, living: np.ndarray) -> None:
        seen.append(observe(plan.world))
        labels.append(plan.expert.astype(np.float32))
        alive.append(living.astype(np.float32))
    drive_episodes(seeds, policy, steps, watch)
    for column in (seen, labels, alive):             # all episodes may have ended early: pad with steps of no weight
        column += [np.zeros_like(column[-1])] * (-len(column) % PIECE)
    cut = [np.stack(c, 1).reshape(len(seeds) * len(c) // PIECE, PIECE, *c[0].shape[1:]) for c in (seen, labels, alive)]
    return Examples(*map(torch.from_numpy, cut))


def fit(model: Policy, data: Examples, epochs: int, rate: float, teacher: Policy | None = None) -> None:
    """Imitate the labels; with a teacher, half of the aim is to act as it does."""
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    batches = max(1, len(data.weight) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=epochs * batches, pct_start=0.1)
    for _ in range(epochs):
        for rows in torch.randperm(len(data.weight)).tensor_split(batches):
            x, aim, weight = data.observations[rows], data.actions[rows], data.weight[rows]
            if teacher is not None:
                with torch.no_grad():
                    aim = (aim + teacher.sequence(x, torch.zeros(1, len(x), HIDDEN))[0]) / 2
            y, _ = model.sequence(x, torch.zeros(1, len(x), HIDDEN))
            error = nn.functional.smooth_l1_loss(SCALE * y, SCALE * aim, reduction="none").mean(-1)
            loss = (error * weight).sum() / weight.sum()
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("edgekit/demo"),
                        help="folder to write to (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a minute's check that everything works; drives badly")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    rounds, again, episodes, test, steps, epochs, last = (2, 1, 8, 8, 100, 1, 1) if options.quick else (
        12, 3, 64, 256, 300, 4, 24)

    model = Policy()
    data = None
    for number in range(rounds):
        new = collect(seeds(options.seed, number, episodes), driver(model) if number else None, steps)
        data = new if data is None else data + new
        fit(model, data, epochs, 2e-3)
        print(f"round {number + 1}/{rounds}: {data.steps} steps, {driving(driver(model), 32, steps)}", flush=True)
    fit(model, data, last, 2e-3)

    pruned = prune_half(model, EXAMPLE)
    one_shot = driving(driver(pruned), test, steps)
    for number in range(rounds, rounds + again):        # it makes mistakes of its own: let it see where they lead
        fit(pruned, data, epochs, 1e-3, teacher=model)
        data = data + collect(seeds(options.seed, number, episodes), driver(pruned), steps)
        print(f"fine-tuning: {driving(driver(pruned), 32, steps)}", flush=True)
    fit(pruned, data, last, 1e-3, teacher=model)

    paths = [options.output / name for name in ("policy.onnx", "policy-pruned.onnx")]
    for module, path in zip((model, pruned), paths):
        ship(module, EXAMPLE, ("obs", "h"), ("action", "h_next"), path)
    provenance(options.output / "policy.json", {
        "script": "examples/train_policy.py", "seed": options.seed, "quick": options.quick,
        "data": f"{data.steps} steps of {(rounds + again) * episodes} episodes, seeds from {TRAIN_SEEDS}",
        "sparsity": sparsity(paths[1]),
        "test": f"{test} episodes, seeds from 0",
        "expert": measured(driving(None, test, steps)),
        "dense": measured(driving(driver(model), test, steps)),
        "pruned one-shot": measured(one_shot),
        "pruned and fine-tuned": measured(driving(driver(pruned), test, steps))})


def measured(result: Driving) -> dict:
    """The results without the list of failures."""
    return {name: value for name, value in asdict(result).items() if name != "failed"}


def seeds(seed: int, number: int, episodes: int) -> np.ndarray:
    """Seeds of the episodes of one round, of its own for each."""
    return TRAIN_SEEDS + seed * 100_000 + number * episodes + np.arange(episodes)


if __name__ == "__main__":
    main()
