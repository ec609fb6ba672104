"""STGAT (Huang et al. 2019; weights of Liu et al., CVPR 2022) for the scene `hotel` of ETH-UCY: 2 or 4 pedestrians.

The net never saw `hotel`: scored there it is out of distribution, on later frames of the scenes it was trained on in
distribution. The five random tensors of the original are zero.
"""
import numpy as np
import onnx

from benchmarks.accuracy.pedestrians import OBSERVED, Scene, displacement, errors, of_size, others, scenes
from benchmarks.accuracy.rows import Bar, Labels, Row, Run, pick, shared


def given(scene: Scene) -> dict[str, np.ndarray]:
    """The inputs of one scene."""
    pedestrians = scene.steps.shape[1]
    states = {name: np.zeros((pedestrians, 32), np.float32) for name in ("h0_traj", "c0_traj", "h0_graph", "c0_graph")}
    return {"obs_rel": scene.steps[:OBSERVED], **states, "noise": np.zeros((1, 16), np.float32)}


def stacked(chosen: list[Scene]) -> dict[str, np.ndarray]:
    each = [given(s) for s in chosen]
    return {name: np.stack([x[name] for x in each]) for name in each[0]}


def row(name: str) -> Row:
    """stgat_n2 and stgat_n4."""
    pedestrians = int(name.rpartition("_n")[2])
    near = {split: of_size(found, pedestrians) for split, found in others("biwi_hotel").items()}
    far = of_size(scenes("full/biwi_hotel"), pedestrians)

    def calibration(seed: int) -> dict[str, np.ndarray]:
        return stacked([near["train"][k] for k in pick(len(near["train"]), seed)])

    def score(run: Run, split: str) -> dict[str, float]:
        found = errors([displacement(run(given(s))[0], s) for s in near[split]])
        if split == "test":
            found = {f"{k} in": v for k, v in found.items()} | {
                f"{k} out": v for k, v in errors([displacement(run(given(s))[0], s) for s in far]).items()}
        return found

    def labels(split: str) -> Labels:
        """Minimises the mean distance between the paths, as ADE counts it."""
        def loss(outputs, targets):
            return (outputs[0].cumsum(1) - targets).norm(dim=-1).mean()
        return Labels(stacked(near[split]), np.stack([s.positions[OBSERVED:] - s.positions[OBSERVED - 1] for s in near[split]]), loss)

    straight = errors([displacement(np.repeat(s.steps[OBSERVED - 1:OBSERVED], 12, 0), s) for s in far])
    figures = [f"{k} {where}" for where in ("in", "out") for k in ("ade", "fde")]
    bars = [Bar(method, sparsity, figure, 0.02) for method, sparsity in (("one-shot", 0.3), ("tuned", 0.5), ("fine-tuned", 0.5))
            for figure in figures]
    return Row(name, f"STGAT `hotel`, scenes of {pedestrians} pedestrians", lambda: onnx.load(shared(f"models/stgat_hotel_erm_n{pedestrians}.onnx")),
               calibration, score,
               {"ade in": "mean displacement in m on later frames of the scenes of training", "fde in": "the same at the last step",
                "ade out": "mean displacement in m on the test scene", "fde out": "the same at the last step"},
               f"calibration and fine-tuning: {len(near['train'])} scenes of the training files; recipes: {len(near['tuning'])} scenes of the first "
               f"halves of the validation files; scored: the {len(near['test'])} of the second halves (in) and all {len(far)} of `hotel` (out)",
               tuple(bars), labels, baseline=("the last step again", {f"{k} out": v for k, v in straight.items()}),
               published={4: "ADE/FDE 0.5199/1.0185 (out)", 2: "ADE/FDE 0.6528/1.3077 (out)"}[pedestrians])
