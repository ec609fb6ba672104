"""Social-STGCNN (Mohamed et al., CVPR 2020) for the scene `zara1` of ETH-UCY.

The file holds graphs of 8 pedestrians; the same weights are scored on all scenes, of any number, so that the figures are
the published ones. Best of 20 paths drawn from the forecast Gaussians, a pedestrian at a time, as in the authors' test.py;
the draws come from a seed, the same for every net.
"""
import numpy as np
import onnx
from onnx import numpy_helper

from benchmarks.accuracy.pedestrians import OBSERVED, PREDICTED, Scene, displacement, others, scenes
from benchmarks.accuracy.rows import Bar, Labels, Row, Run, pick, shared

PEDESTRIANS, SAMPLES = 8, 20


def graphs(steps: np.ndarray) -> np.ndarray:
    """Normalised Laplacians (T, N, N) of graphs over steps (T, N, 2): weights 1 / |difference|, 1 on the diagonal."""
    distance = np.linalg.norm(steps[:, :, None] - steps[:, None], axis=-1)
    weight = np.divide(1, distance, out=np.zeros_like(distance), where=distance > 0) + np.eye(steps.shape[1], dtype=steps.dtype)
    degree = weight.sum(-1)
    laplacian = degree[:, :, None] * np.eye(steps.shape[1]) - weight
    return (laplacian / np.sqrt(degree[:, :, None] * degree[:, None])).astype(np.float32)


def given(scene: Scene) -> dict[str, np.ndarray]:
    """The inputs of one scene: v (1, 2, OBSERVED, N), a (OBSERVED, N, N)."""
    seen = scene.steps[:OBSERVED]
    return {"v": np.ascontiguousarray(seen.transpose(2, 0, 1)[None]), "a": graphs(seen)}


def draw(forecast: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Steps (SAMPLES, PREDICTED, N, 2) from pred (1, 5, PREDICTED, N) and normal numbers of that shape."""
    x, y, log_sx, log_sy, r = forecast[0].astype(float)
    r = np.tanh(r)
    a, b = normal[..., 0], normal[..., 1]
    return np.stack([x + np.exp(log_sx) * a, y + np.exp(log_sy) * (r * a + np.sqrt(1 - r * r) * b)], -1)


def best(run: Run, chosen: list[Scene]) -> dict[str, float]:
    """ADE and FDE in m, the best sample of each pedestrian."""
    ade, fde = [], []
    for number, scene in enumerate(chosen):
        normal = np.random.default_rng(number).standard_normal((SAMPLES, PREDICTED, scene.steps.shape[1], 2))
        distance = np.stack([displacement(steps, scene) for steps in draw(run(given(scene))[0], normal)])
        ade.append(distance.mean(1).min(0))
        fde.append(distance[:, -1].min(0))
    return {"ade": float(np.concatenate(ade).mean()), "fde": float(np.concatenate(fde).mean())}


def any_number(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph over any number of pedestrians."""
    wider = onnx.ModelProto()
    wider.CopyFrom(model)
    graph = wider.graph
    for value in (*graph.input, *graph.output):
        for d in value.type.tensor_type.shape.dim[1 if value.name == "a" else 3:]:
            d.dim_param = "n"
    del graph.value_info[:]
    constants = {t.name: t for t in graph.initializer} | {
        n.output[0]: n.attribute[0].t for n in graph.node if n.op_type == "Constant"}
    for node in graph.node:
        if node.op_type == "Reshape":
            shape = numpy_helper.to_array(constants[node.input[1]]).copy()
            shape[-1] = -1
            constants[node.input[1]].CopyFrom(numpy_helper.from_array(shape, constants[node.input[1]].name))
    return wider


def crowds(chosen: list[Scene]) -> list[Scene]:
    """PEDESTRIANS of each scene that has so many, drawn from a seed."""
    found = []
    for number, s in enumerate(chosen):
        count = s.steps.shape[1]
        if count >= PEDESTRIANS:
            who = np.sort(np.random.default_rng(number).choice(count, PEDESTRIANS, replace=False))
            found.append(Scene(s.positions[:, who], s.steps[:, who], s.at))
    return found


def likelihood(outputs, targets):
    """Mean negative log-likelihood of steps (n, PREDICTED, N, 2) under pred (n, 1, 5, PREDICTED, N), as in training."""
    import torch

    x, y, log_sx, log_sy, r = outputs[0][:, 0].unbind(1)
    r = torch.tanh(r)
    a, b = (targets[..., 0] - x) / log_sx.exp(), (targets[..., 1] - y) / log_sy.exp()
    rest = (1 - r * r).clamp_min(1e-6)
    return ((a * a + b * b - 2 * r * a * b) / (2 * rest) + log_sx + log_sy + rest.log() / 2).mean()


def row(name: str = "social_stgcnn") -> Row:
    near = others("crowds_zara01")
    far = scenes("full/crowds_zara01")
    eight = {split: crowds(near[split]) for split in ("train", "tuning")}

    def calibration(seed: int) -> dict[str, np.ndarray]:
        each = [given(eight["train"][k]) for k in pick(len(eight["train"]), seed)]
        return {k: np.stack([x[k] for x in each]) for k in each[0]}

    def score(run: Run, split: str) -> dict[str, float]:
        if split != "test":
            return best(run, near[split])
        return {f"{k} {where}": v for where, chosen in (("in", near[split]), ("out", far)) for k, v in best(run, list(chosen)).items()}

    def labels(split: str) -> Labels:
        each = [given(s) for s in eight[split]]
        return Labels({k: np.stack([x[k] for x in each]) for k in each[0]}, np.stack([s.steps[OBSERVED:] for s in eight[split]]), likelihood)

    bars = tuple(Bar(method, sparsity, f"{k} {where}", 0.02) for method, sparsity in (("one-shot", 0.3), ("tuned", 0.5), ("fine-tuned", 0.5))
                 for where in ("in", "out") for k in ("ade", "fde"))
    return Row(name, "Social-STGCNN `zara1`, best of 20", lambda: onnx.load(shared("models/social_stgcnn_zara1.onnx")), calibration, score,
               {"ade in": "mean displacement in m on later frames of the scenes of training", "fde in": "the same at the last step",
                "ade out": "mean displacement in m on the test scene", "fde out": "the same at the last step"},
               f"calibration and fine-tuning: {len(eight['train'])} scenes of the training files, 8 pedestrians of each; recipes: {len(near['tuning'])} scenes of the "
               f"first halves of the validation files; scored: the {len(near['test'])} of the second halves (in) and all {len(far)} of `zara1` (out)",
               bars, labels, any_number, published="ADE/FDE 0.336/0.525 (out)")
