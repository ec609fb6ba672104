"""What a row of the table is: a trained model, inputs to prune it with, and a way to score it.

A row keeps three sets of data apart. `calibration` inputs are what a method may look at. Recipes (learning rates, damping,
allocations) are chosen by `score(run, "tuning")`. The table shows `score(run, "test")`, which nothing else reads.
"""
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx
    import torch

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
WORK = Path(__file__).parents[1] / ".work"
SPLITS = ("tuning", "test")
CASES = 256  # calibration inputs, where there are so many

Inputs = Mapping[str, np.ndarray]
Run = Callable[[Inputs], list[np.ndarray]]  # inputs of one case, as the graph takes them -> the graph's outputs


class Absent(Exception):
    """Data or a package that a row needs is not here; the text says which."""


@dataclass(frozen=True)
class Labels:
    """Data to fine-tune on. inputs {name: (n, ...)} and targets (n, ...): cases and what a net should say of them.

    loss(outputs of the graph, each (batch, ...); targets (batch, ...)) is what is minimised, in torch.
    """

    inputs: dict[str, np.ndarray]
    targets: np.ndarray
    loss: "Callable[[list[torch.Tensor], torch.Tensor], torch.Tensor]"


@dataclass(frozen=True)
class Bar:
    """What a figure has to reach: method `ours` at `sparsity` no further from dense than `most`.

    kind: "relative", a rise over the dense figure as a share of it; "margin", a rise in the figure's own unit, which the
    upper end of a 95 % interval must not pass; "least", the figure itself must not be lower; "improves", better than
    one-shot.
    """

    method: str
    sparsity: float
    figure: str
    most: float
    kind: str = "relative"


@dataclass(frozen=True)
class Row:
    """title: model and data. model(): the dense graph. calibration(seed): {input: (n, *shape)}, other cases for each
    seed. score(run, split): {figure: value}. figures: {figure: what it is}. split: how the data are kept apart, in
    words. labels(split) for split "train" and "tuning": None where there is nothing to fine-tune on. scored(model): the
    form of a pruned graph that `run` runs, where it is another. baseline: figures of a trivial predictor, by its name.
    episodes(run, split): {figure: (episodes,)} of rows in closed loop, whose means are the score. higher: figures of which
    more is better; of the others less is. shares: figures from 0 to 1. shipped: {sparsity: file} of nets that come
    fine-tuned, by a training script of examples/. states: (input, output) that the net feeds back; its calibration cases
    are steps in a row.
    """

    name: str
    title: str
    model: "Callable[[], onnx.ModelProto]"
    calibration: Callable[[int], dict[str, np.ndarray]]
    score: Callable[[Run, str], dict[str, float]]
    figures: Mapping[str, str]
    split: str
    bars: tuple[Bar, ...]
    labels: Callable[[str], Labels] | None = None
    scored: "Callable[[onnx.ModelProto], onnx.ModelProto] | None" = None
    baseline: tuple[str, Mapping[str, float]] | None = None
    episodes: Callable[[Run, str], dict[str, np.ndarray]] | None = None
    higher: tuple[str, ...] = ()
    shares: tuple[str, ...] = ()
    shipped: Mapping[float, Path] = field(default_factory=dict)
    states: tuple[tuple[str, str], ...] = ()
    published: str = ""


MODULES = {"tgcn": "traffic", "stgat_n4": "stgat", "stgat_n2": "stgat", "social_stgcnn": "stgcnn", "etth1": "forecaster",
           "driving": "driving", "lunarlander": "policies", "bipedalwalker": "policies", "metadrive": "policies",
           "squeezenet": "images", "mobilenet": "images"}


def load(name: str) -> Row:
    """The row of that name; Absent where its model, its data or a package is not here."""
    return import_module(f"benchmarks.accuracy.{MODULES[name]}").row(name)


def shared(path: str) -> Path:
    """A file of ../shared."""
    found = SHARED / path
    if not found.exists():
        raise Absent(f"../shared/{path} is not here")
    return found


def pick(count: int, seed: int, cases: int = CASES) -> np.ndarray:
    """Which of `count` cases a calibration of that seed uses: four fifths of them at most, so that seeds differ."""
    rng = np.random.default_rng((seed, count))
    return np.sort(rng.choice(count, min(cases, count * 4 // 5), replace=False))


def runner(model: "onnx.ModelProto", row: Row | None = None) -> Run:
    """The graph in onnxruntime, one thread."""
    import onnxruntime

    if row and row.scored:
        model = row.scored(model)
    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, dict(inputs))
