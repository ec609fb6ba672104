"""The demo's driving policy (a GRU) in closed loop: what becomes of whole episodes when it drives (edgekit/demo)."""
import numpy as np
import onnx

from benchmarks.accuracy.rows import Bar, Row, Run, runner
from edgekit.demo.networks import POLICY
from edgekit.demo.simulator import Policy, drive_episodes

EPISODES = {"tuning": 200, "test": 1000}
SEEDS = {"calibration": 4_000_000, "tuning": 5_000_000, "test": 0}  # the policy was trained on seeds from 1,000,000
STEPS = 300
CALIBRATION, IN_A_ROW = 8, 128
WIDTH = 128
MARGIN = {"failed": 0.01, "reward": 0.02}  # fixed before any pruned net was run


def driver(run: Run, seen: list[tuple[np.ndarray, np.ndarray]] | None = None) -> Policy:
    """The policy over episodes that step together; it remembers. seen: collects observations and memories."""
    memory: list[np.ndarray] = []

    def act(observations: np.ndarray) -> np.ndarray:
        memory.extend(np.zeros((1, 1, WIDTH), np.float32) for _ in range(len(observations) - len(memory)))
        if seen is not None:
            seen.append((observations, np.stack(memory)))
        done = [run({"obs": x[None], "h": h}) for x, h in zip(observations, memory)]
        memory[:] = [h for _, h in done]
        return np.concatenate([action for action, _ in done])
    return act


def calibration(seed: int) -> dict[str, np.ndarray]:
    """IN_A_ROW steps in a row of each of CALIBRATION episodes that the dense policy drives, from steps of their own on."""
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    drive_episodes(SEEDS["calibration"] + seed * CALIBRATION + np.arange(CALIBRATION), driver(runner(model()), seen), STEPS)
    x, h = np.stack([a for a, _ in seen], 1), np.stack([b for _, b in seen], 1)  # (episodes, steps, ...)
    first = np.random.default_rng(seed).integers(0, x.shape[1] - IN_A_ROW + 1, CALIBRATION)
    at = np.arange(CALIBRATION)[:, None], first[:, None] + np.arange(IN_A_ROW)
    return {"obs": np.concatenate(x[at])[:, None], "h": np.concatenate(h[at])}


def episodes(run: Run, split: str) -> dict[str, np.ndarray]:
    """Each episode: did it end early (0 or 1), its reward, m driven."""
    done = drive_episodes(SEEDS[split] + np.arange(EPISODES[split]), driver(run), STEPS)
    return {"failed": (done.crashed | done.off_road).astype(float), "reward": done.reward, "progress": done.progress}


def model() -> onnx.ModelProto:
    return onnx.load(POLICY.dense)


def row(name: str = "driving") -> Row:
    bars = tuple(Bar(method, 0.5, figure, margin, "margin") for method in ("tuned", "fine-tuned") for figure, margin in MARGIN.items())
    return Row(name, "the demo's driving policy, closed loop", model, calibration, lambda run, split: means(episodes(run, split)),
               {"failed": "share of episodes that end by a crash or off the road", "reward": "mean reward", "progress": "m an episode"},
               f"calibration: {IN_A_ROW} steps in a row of each of {CALIBRATION} episodes of seeds from {SEEDS['calibration']:,}; recipes: {EPISODES['tuning']} episodes from {SEEDS['tuning']:,}; scored: "
               f"{EPISODES['test']} episodes, seeds from 0", bars, episodes=episodes, higher=("reward", "progress"), shares=("failed",),
               shipped={0.5: POLICY.tuned}, states=tuple(POLICY.states.items()))


def means(each: dict[str, np.ndarray]) -> dict[str, float]:
    return {k: float(v.mean()) for k, v in each.items()}
