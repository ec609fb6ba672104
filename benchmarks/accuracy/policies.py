"""PPO policies: in closed loop in gymnasium's LunarLander and BipedalWalker; the MetaDrive expert by its actions only,
since its simulator is not run here."""
from functools import cache

import numpy as np
import onnx

from benchmarks.accuracy.driving import means
from benchmarks.accuracy.rows import CASES, Absent, Bar, Row, Run, runner, shared

ENVIRONMENTS = {"lunarlander": ("LunarLander-v3", {"continuous": True}), "bipedalwalker": ("BipedalWalker-v3", {})}
TITLES = {"lunarlander": "PPO, LunarLander", "bipedalwalker": "PPO, BipedalWalker", "metadrive": "PPO expert of MetaDrive, by action"}
EPISODES = {"lunarlander": {"tuning": 50, "test": 300}, "bipedalwalker": {"tuning": 20, "test": 200}}
MARGIN = {"return": 15.0, "failed": 0.02}  # fixed before any pruned net was run: some 5 % of the published returns
SEEDS = {"calibration": 4_000_000, "tuning": 5_000_000, "test": 0}
RAYS = 240  # of the MetaDrive expert's 275 observations, the last


def episodes(name: str, run: Run, seeds: np.ndarray, seen: list[np.ndarray] | None = None) -> dict[str, np.ndarray]:
    """Each episode: its return, and whether it ended in a crash or a fall. seen: collects observations."""
    try:
        import gymnasium
    except ImportError:
        raise Absent("gymnasium is not installed: pip install 'edgekit-deploy[accuracy]'") from None
    environment, arguments = ENVIRONMENTS[name]
    env = gymnasium.make(environment, **arguments)
    returns, failed = np.zeros(len(seeds)), np.zeros(len(seeds))
    for number, seed in enumerate(seeds):
        observation, _ = env.reset(seed=int(seed))
        over = False
        while not over:
            x = np.asarray(observation, np.float32)[None]
            if seen is not None:
                seen.append(x)
            observation, reward, ended, truncated, _ = env.step(np.clip(run({"obs": x})[0][0], -1, 1))
            returns[number] += reward
            over = ended or truncated
        failed[number] = reward <= -100
    return {"return": returns, "failed": failed}


def closed_loop(name: str) -> Row:
    model = cache(lambda: onnx.load(shared(f"models/sb3_ppo_{name}.onnx")))

    def calibration(seed: int) -> dict[str, np.ndarray]:
        seen: list[np.ndarray] = []
        episodes(name, runner(model()), SEEDS["calibration"] + seed * 4 + np.arange(4), seen)
        return {"obs": np.stack(seen)[np.sort(np.random.default_rng(seed).choice(len(seen), CASES, replace=False))]}

    def each(run: Run, split: str) -> dict[str, np.ndarray]:
        return episodes(name, run, SEEDS[split] + np.arange(EPISODES[name][split]))

    count = EPISODES[name]
    bars = tuple(Bar("tuned", 0.5, figure, margin, "margin") for figure, margin in MARGIN.items())
    return Row(name, TITLES[name], model, calibration, lambda run, split: means(each(run, split)),
               {"return": "mean return", "failed": "share of episodes that end in a crash or a fall"},
               f"calibration: moments of 4 episodes of seeds from {SEEDS['calibration']:,}; recipes: {count['tuning']} episodes from {SEEDS['tuning']:,}; "
               f"scored: {count['test']} episodes, seeds from 0", bars, episodes=each, higher=("return",), shares=("failed",),
               published={"lunarlander": "return 271.7", "bipedalwalker": "return 303.5"}[name])


def observations(seed: int, cases: int) -> np.ndarray:
    """(cases, 1, 275) in 0..1, drawn: an ego state, and lidar that is free (1) but for a few objects."""
    rng = np.random.default_rng((seed, RAYS))
    x = np.ones((cases, 275), np.float32)
    x[:, :-RAYS] = rng.beta(4, 4, (cases, 275 - RAYS))
    for scan in x[:, -RAYS:]:
        for _ in range(rng.poisson(4)):
            middle, half = rng.integers(RAYS), rng.integers(2, 16)
            scan[np.arange(middle - half, middle + half) % RAYS] = rng.uniform(0.05, 0.9)
    return x[:, None]


def by_action(name: str) -> Row:
    model = cache(lambda: onnx.load(shared("models/metadrive_ppo_expert.onnx")))

    def actions(run: Run, x: np.ndarray) -> np.ndarray:
        return np.clip(np.concatenate([run({"obs": one})[0] for one in x])[:, :2], -1, 1)

    @cache
    def dense(split: str) -> np.ndarray:
        return actions(runner(model()), drawn(split))

    def drawn(split: str) -> np.ndarray:
        return observations({"tuning": 1000, "test": 2000}[split], 2000)

    def score(run: Run, split: str) -> dict[str, float]:
        return {"action": float(np.abs(actions(run, drawn(split)) - dense(split)).mean())}
    return Row(name, TITLES[name], model, lambda seed: {"obs": observations(seed, CASES)}, score,
               {"action": "mean distance of steering and throttle (-1..1) from the dense net's"},
               "observations are drawn, not recorded: the simulator is not run; other draws for calibration, recipes and score", ())


def row(name: str) -> Row:
    return by_action(name) if name == "metadrive" else closed_loop(name)
