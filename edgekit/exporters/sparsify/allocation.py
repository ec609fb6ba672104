"""One budget of latency over all layers: which sparsity for each, from tables of what a level costs and what it damages.

Costs of layers add up to that of the net; damage is taken to add up, which trials of the whole net then check.
"""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.errors import InputError

GRID = 1 << 14   # steps that the budget is counted in


@dataclass(frozen=True)
class Option:
    """One level of a layer: its cost in the unit of the budget, 0 or more, and its damage, finite."""

    sparsity: float
    cost: float
    damage: float


Tables = Mapping[str, Sequence[Option]]  # by layer


def knapsack(tables: Tables, budget: float) -> dict[str, float]:
    """{layer: sparsity} of least total damage whose costs add up to `budget` at most.

    The multiple-choice knapsack, by dynamic programming over the budget in GRID steps (Kellerer et al. 2004, section 11.5):
    costs above a layer's cheapest option are rounded up to steps, so the budget holds, and at most a step for each
    layer of it stays unused. Of equal damage the cheaper. InputError where the cheapest options cost more than the budget.
    """
    least = {name: min(o.cost for o in options) for name, options in tables.items()}
    room = budget - sum(least.values())
    if room < 0:
        raise InputError(f"the cheapest options of all layers cost {sum(least.values()):.6g}, more than the budget of {budget:.6g}")
    step = room / GRID
    best = np.zeros(GRID + 1)   # damage of the layers so far, by the steps that they may take
    chosen: list[np.ndarray] = []
    for name, options in tables.items():
        found, choice = np.full(GRID + 1, np.inf), np.zeros(GRID + 1, int)
        for k in sorted(range(len(options)), key=lambda k: options[k].cost):
            extra = options[k].cost - least[name]
            steps = 0 if extra <= 0 else int(np.ceil(extra / step * (1 - 1e-12))) if step else GRID + 1
            if steps > GRID:
                continue
            total = best[:GRID + 1 - steps] + options[k].damage
            better = total < found[steps:]
            found[steps:][better], choice[steps:][better] = total[better], k
        best = found
        chosen.append(choice)
    out, at = {}, int(np.argmin(best))
    for (name, options), choice in zip(reversed(list(tables.items())), reversed(chosen)):
        option = options[choice[at]]
        extra = option.cost - least[name]
        at -= 0 if extra <= 0 else int(np.ceil(extra / step * (1 - 1e-12)))
        out[name] = option.sparsity
    return {name: out[name] for name in tables}


def random_search(tables: Tables, budget: float, count: int, seed: int = 0) -> list[dict[str, float]]:
    """`count` random configurations within the budget that no single layer could be denser in: what any allocation has to
    beat (random search, Bergstra & Bengio 2012). The same for the same seed; fewer where there are no more.

    Every layer starts at its cheapest option; layers in random order take a random option that the budget has room for,
    and then, in random order again, the densest one. InputError as of `knapsack`.
    """
    rng = np.random.default_rng(seed)
    names = list(tables)
    cheapest = {name: min(options, key=lambda o: o.cost) for name, options in tables.items()}
    if sum(o.cost for o in cheapest.values()) > budget:
        raise InputError("the cheapest options of all layers cost more than the budget")
    found: list[dict[str, float]] = []
    for _ in range(20 * count):
        if len(found) == count:
            break
        now = dict(cheapest)

        def fitting(name: str, now: dict[str, Option]) -> list[Option]:
            others = sum(o.cost for n, o in now.items() if n != name)
            return [o for o in tables[name] if others + o.cost <= budget] or [now[name]]
        for name in rng.permutation(names).tolist():
            able = fitting(name, now)
            now[name] = able[int(rng.integers(len(able)))]
        for name in rng.permutation(names).tolist():
            now[name] = min([now[name], *(o for o in fitting(name, now) if o.sparsity < now[name].sparsity)], key=lambda o: o.sparsity)
        drawn = {name: o.sparsity for name, o in now.items()}
        if drawn not in found:
            found.append(drawn)
    return found
