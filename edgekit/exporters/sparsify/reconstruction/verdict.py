"""Whether a pruned net is still worth anything: on cases held back, against the dense net and against trivial predictors."""
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.exporters.sparsify.reconstruction.calibration import Calibration

if TYPE_CHECKING:
    import onnx

FLOATS = (1, 10, 11, 16)  # ONNX's types


@dataclass(frozen=True)
class OutputVerdict:
    """An output on the cases held back.

    error: distance to the dense net, root mean square, over the deviation of what that says. trivial: the same of predictors
    that know no input or only its end: "mean" of the fitted cases, and "last value" where the output continues an input.
    agreement: share of cases in which the largest number stands where it does in the dense net, of outputs that are one
    vector; majority: the same of always naming the commonest place. None for other outputs.
    """

    model: int
    name: str
    error: float
    trivial: Mapping[str, float]
    agreement: float | None
    majority: float | None
    worse: str

    def described(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Verdict:
    """cases: how many were held back. outputs: of every model with calibration data."""

    cases: int
    outputs: tuple[OutputVerdict, ...]

    @property
    def worse(self) -> str:
        """What the net is worse than, in words, or ""."""
        return next((f"output {o.name!r}: {o.worse}" for o in self.outputs if o.worse), "")


def judge(dense: "Sequence[onnx.ModelProto]", pruned: "Sequence[onnx.ModelProto]", data: Calibration) -> Verdict:
    """Compares the outputs of both nets; what is worse than a trivial predictor says so in `worse`."""
    import torch

    from edgekit.exporters.sparsify.torch_graph import Graph
    found = []
    for number, (before, after, inputs) in enumerate(zip(dense, pruned, data.inputs)):
        if inputs is None:
            continue
        names = [v.name for v in before.graph.output if v.type.tensor_type.elem_type in FLOATS]
        given = {n: torch.from_numpy(a) for n, a in inputs.items()}
        held = {n: t[data.fitted:] for n, t in given.items()}
        with torch.no_grad():
            target = {n: t.double().numpy() for n, t in Graph(before).run(given, names).items()}
            made = {n: t.double().numpy() for n, t in Graph(after).run(held, names).items()}
        found += [_output(number, n, made[n], target[n], inputs, data.fitted) for n in names]
    return Verdict(data.cases - data.fitted, tuple(found))


def _output(model: int, name: str, made: np.ndarray, target: np.ndarray, inputs: Mapping[str, np.ndarray], fitted: int) -> OutputVerdict:
    fit, held = target[:fitted], target[fitted:]
    scale = float(np.sqrt(np.square(held - fit.mean(0)).mean())) or 1.0

    def error(guess: np.ndarray) -> float:
        return float(np.sqrt(np.square(guess - held).mean())) / scale
    trivial = {"mean": error(fit.mean(0))}
    guesses = [g for a in inputs.values() if a.dtype.kind == "f" for g in _continued(a.astype(np.float64), target.shape)]
    if guesses:
        trivial["last value"] = error(min(guesses, key=lambda g: np.square(g[:fitted] - fit).mean())[fitted:])
    mine = error(made) if np.isfinite(made).all() else float("inf")
    agreement, majority, worse = None, None, ""
    beaten = [n for n, e in trivial.items() if e and not mine < e]
    if beaten:
        worse = f"its error is {mine:.3g} of the deviation, that of {_WORDS[beaten[0]]} {trivial[beaten[0]]:.3g}"
    if sum(n > 1 for n in target.shape[1:]) == 1 and np.isfinite(made).all():
        largest = held.reshape(len(held), -1).argmax(1)
        same = made.reshape(len(made), -1).argmax(1) == largest
        common = np.bincount(fit.reshape(len(fit), -1).argmax(1)).argmax() == largest
        agreement, majority = float(same.mean()), float(common.mean())
        # Few cases say little: a difference counts from two standard errors on.
        difference = common.astype(float) - same
        if not worse and difference.mean() > 2 * difference.std() / np.sqrt(len(held)):
            worse = f"it names the class of the dense net in {agreement:.0%} of the cases, the commonest class alone in {majority:.0%}"
    return OutputVerdict(model, name, mine, trivial, agreement, majority, worse)


_WORDS = {"mean": "their mean", "last value": "repeating the last value of the input"}


def _continued(given: np.ndarray, shape: tuple[int, ...]) -> list[np.ndarray]:
    """The last values of an input, repeated, along each axis on which the output could continue it."""
    if given.ndim != len(shape):
        return []
    different = [a for a in range(1, len(shape)) if given.shape[a] != shape[a]]
    axes = different if len(different) == 1 else [a for a in range(1, len(shape)) if shape[a] > 1] if not different else []
    return [np.broadcast_to(np.take(given, [-1], a), shape) for a in axes]
