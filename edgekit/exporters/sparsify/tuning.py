"""Label-free tuning: a pruned net is trained to answer as the dense one does (distillation, Hinton et al. 2015).

What the dense net makes of the calibration inputs is the target, so nobody has to supply labels; zeros stay. The part of
the inputs that is held back chooses among the epochs, the beginning included. Needs torch.
"""
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import MissingToolError

try:
    import torch
    from torch import Tensor
except ImportError:
    raise MissingToolError("torch is not installed", fix="pip install 'edgekit-deploy[torch]'") from None

from edgekit.exporters.sparsify.graph import with_values
from edgekit.exporters.sparsify.oneshot import Pruned
from edgekit.exporters.sparsify.reconstruction.calibration import Calibration, read_calibration
from edgekit.exporters.sparsify.torch_graph.graph import Graph
from edgekit.exporters.sparsify.torch_graph.parameters import inputs_of, trainable

if TYPE_CHECKING:
    import onnx

RATE = 5e-3          # Adam's at first, of the size of what it changes; along a cosine to zero
SMALLER = 0.3        # of it after an epoch that is undone
LEAST = 1e-5         # where it ends
WORSE = 1.3          # times the least error, or more than at the beginning: such an epoch is undone
OFFSET = 0.1         # of the root mean square of a bias or a norm is its size
SMALL = 0.1          # and what a smaller one counts as
WARM = 0.05          # share of the steps in which the rate rises
LIMIT = 1.0          # on the norm of a gradient
BATCH = 16
STEPS = 500          # of the optimiser
WORK = 5e11          # or as many as forward passes of so many multiply-adds allow
EPOCHS = 8           # but at least so many times through the inputs
PATIENCE = 1 / 3     # of the epochs may pass without a better one
LIVE = 512 << 20     # bytes of values that a batch may keep for its gradient
WINDOW = 8           # steps of a net with state that are run in a row


@dataclass(frozen=True, eq=False)
class Weight:
    """What is trained: start + size * change where keep is true. size: broadcasts to start."""

    start: Tensor
    size: Tensor
    keep: Tensor


@dataclass(frozen=True, eq=False)
class Pupil:
    """A model with data. inputs, targets: cases, and what the dense net makes of them. spread: mean squared deviation of each
    target from its mean over the cases. states: (input, output) that it feeds back. keys: {initializer that is trained: key}.
    """

    graph: Graph
    inputs: dict[str, Tensor]
    targets: dict[str, Tensor]
    spread: dict[str, float]
    states: tuple[tuple[str, str], ...]
    keys: dict[str, str]


def tune(dense: "Sequence[onnx.ModelProto]", pruned: Pruned, calibration: Mapping[str, Any] | Calibration, *,
         states: Sequence[tuple[str, str]] = (), progress: Callable[[str], None] = lambda _: None) -> Pruned:
    """The pruned models with weights, biases and norms that answer more like the dense ones do; zeros stay.

    dense: the clean models that were pruned, in their order. calibration, states: see `reconstruction.read_calibration`. The
    error is the mean over the outputs of the squared difference over the target's spread; a net with state answers for
    WINDOW steps in a row from its own states. Weights that models share stay shared. The result is the best epoch on the
    cases held back, `pruned` itself where none is better, and the same for the same arguments.
    """
    data = calibration if isinstance(calibration, Calibration) else read_calibration(dense, calibration, states)
    weights, keys = _weights(pruned.models)
    pupils = [_pupil(d, p, x, states, k) for d, p, x, k in zip(dense, pruned.models, data.inputs, keys) if x is not None]
    pupils = [p for p in pupils if p.spread]
    if not weights or not pupils:
        return pruned
    found = _taught(pupils, weights, data, sum(layer.macs for layer in pruned.layers), progress)
    return pruned if found is None else replace(pruned, models=tuple(
        with_values(m, {n: found[key].float().numpy() for n, key in k.items()}) for m, k in zip(pruned.models, keys)))


def _taught(pupils: Sequence[Pupil], weights: Mapping[str, Weight], data: Calibration, macs: int, progress: Callable[[str], None]
            ) -> dict[str, Tensor] | None:
    """The weights after the best epoch, or None where none is better than the beginning. macs: of one case."""
    window = min(WINDOW, data.cases - data.fitted) if any(p.states for p in pupils) else 1
    fitted, held = torch.arange(data.fitted - window + 1), torch.arange(data.fitted, data.cases - window + 1)
    each = sum(-(-len(fitted) // _batch(p, window)) for p in pupils)
    epochs = max(EPOCHS, int(min(STEPS / each, WORK / max(macs * window * len(fitted), 1))))
    change = {n: torch.zeros_like(w.start, dtype=torch.float32).requires_grad_() for n, w in weights.items()}

    def effective(changes: Mapping[str, Tensor] = change) -> dict[str, Tensor]:
        return {n: (w.start + w.size * changes[n]).to(w.start.dtype) * w.keep for n, w in weights.items()}
    rate, optimiser = RATE, torch.optim.Adam(change.values())
    generator = torch.Generator().manual_seed(0)
    begin = best = _error(pupils, held, window, effective())
    kept, since, step = {n: t.detach().clone() for n, t in change.items()}, 0, 0
    for epoch in range(epochs):
        for pupil, cases in _batches(pupils, fitted, window, generator):
            step += 1
            optimiser.param_groups[0]["lr"] = rate * _along(step / (epochs * each))
            optimiser.zero_grad()
            loss = _loss(pupil, cases, window, effective())
            if not loss.requires_grad:
                return None  # no weight reaches an output through operators with a gradient
            loss.backward()
            torch.nn.utils.clip_grad_norm_(change.values(), LIMIT)
            optimiser.step()
        error = _error(pupils, held, window, effective())
        progress(f"tuning: epoch {epoch + 1} of {epochs}: error {error:.3g} of the outputs' spread on inputs held back, {begin:.3g} before")
        if error < best:
            best, since, kept = error, 0, {n: t.detach().clone() for n, t in change.items()}
        elif error <= min(begin, WORSE * best):
            since += 1
        else:
            rate, optimiser = SMALLER * rate, torch.optim.Adam(change.values())
            with torch.no_grad():
                for n, t in change.items():
                    t.copy_(kept[n])
        if since > PATIENCE * epochs or rate < LEAST:
            break
    return effective(kept) if best < begin else None


def _along(part: float) -> float:
    return min(1.0, part / WARM) * (1 + math.cos(math.pi * min(1.0, part))) / 2


def _weights(models: "Sequence[onnx.ModelProto]") -> tuple[dict[str, Weight], list[dict[str, str]]]:
    """{key: weights} and {initializer: key} of each model.

    Initializers of several models that are the same have one key; those that hold one number over and over only by name.
    """
    weights: dict[str, Weight] = {}
    keys: list[dict[str, str]] = []
    for model in models:
        graph = Graph(model)
        axes = {i: inputs_of(node, k, len(graph.shapes[i])) for node in graph.nodes for k, i in enumerate(node.inputs) if graph.is_weight(i)}
        keys.append({})
        for name, masked in trainable(graph).items():
            weight = graph.weight(name).detach()
            array = weight.float().numpy()
            same = name if (array == array.flat[0]).all() else ""
            key = hashlib.sha256(f"{array.shape} {weight.dtype} {same}".encode() + array.tobytes()).hexdigest()
            keys[-1][name] = key
            weights.setdefault(key, Weight(weight, _size(weight, axes[name]), weight != 0 if masked else torch.ones_like(weight, dtype=torch.bool)))
    return weights, keys


def _size(weight: Tensor, axes: tuple[int, ...] | None) -> Tensor:
    """How large a change is large: for a row of weights the root mean square of those that are not zero, a twentieth of all at least."""
    whole = weight[weight != 0].square().mean().sqrt().nan_to_num(0) if weight.numel() else weight.sum()
    if axes is None:
        return OFFSET * whole.clamp_min(SMALL)
    count = (weight != 0).sum(axes, keepdim=True).clamp_min(1)
    return (weight.square().sum(axes, keepdim=True) / count).sqrt().clamp_min(float(whole) / 20)


def _pupil(dense: "onnx.ModelProto", pruned: "onnx.ModelProto", inputs: Mapping[str, np.ndarray], states: Sequence[tuple[str, str]],
           keys: dict[str, str]) -> Pupil:
    teacher = Graph(dense)
    given = {n: torch.from_numpy(np.ascontiguousarray(a)) for n, a in inputs.items()}
    with torch.no_grad():
        targets = teacher.run(given, differentiable(teacher))
    spread = {}
    for name, target in targets.items():
        deviation, size = (float(t.double().square().mean()) for t in (target - target.mean(0), target))
        if math.isfinite(size) and deviation > 1e-10 * size:
            spread[name] = deviation
    fed = tuple((s, o) for s, o in states if s in given and o in teacher.outputs)
    return Pupil(Graph(pruned), given, {n: targets[n] for n in spread}, spread, fed, keys)


def differentiable(graph: Graph) -> list[str]:
    """The outputs; in place of one that is no floating-point number (a class, say) what it is computed from."""
    makers = {o: node for node in graph.nodes for o in node.outputs}
    found: list[str] = []
    left = list(graph.outputs)
    while left:
        name = left.pop(0)
        node = makers.get(name)
        if node is None or name in found:
            continue
        dtype = node.dtypes[node.outputs.index(name)]
        if dtype is not None and dtype.is_floating_point:
            found.append(name)
        else:
            left += [i for i in node.inputs if i]
    return found


def _batch(pupil: Pupil, window: int) -> int:
    return min(BATCH, pupil.graph.batch(list(pupil.inputs), list(pupil.spread), LIVE // window, gradient=True))


def _batches(pupils: Sequence[Pupil], cases: Tensor, window: int, generator: torch.Generator) -> Iterator[tuple[Pupil, Tensor]]:
    """All cases of all models in a new order, the models in turn."""
    parts = [cases[torch.randperm(len(cases), generator=generator)].split(_batch(p, window)) for p in pupils]
    for turn in zip_longest(*parts):
        yield from ((p, part) for p, part in zip(pupils, turn) if part is not None)


def _loss(pupil: Pupil, cases: Tensor, window: int, weights: Mapping[str, Tensor]) -> Tensor:
    """Of the cases and, where there is state, of those behind each."""
    own = {n: weights[key] for n, key in pupil.keys.items()}
    want = list(dict.fromkeys([*pupil.spread, *(o for _, o in pupil.states)]))
    state: dict[str, Tensor] = {}
    errors = []
    for step in range(window):
        at = cases + step
        found = pupil.graph.run({n: state.get(n, x[at]) for n, x in pupil.inputs.items()}, want, own)
        state = {s: found[o] for s, o in pupil.states}
        errors += [(found[n] - pupil.targets[n][at]).float().square().mean() / spread for n, spread in pupil.spread.items()]
    return torch.stack(errors).mean()


def _error(pupils: Sequence[Pupil], cases: Tensor, window: int, weights: Mapping[str, Tensor]) -> float:
    """The mean of the loss over cases and models."""
    with torch.no_grad():
        sums = [float(_loss(p, part, window, weights)) * len(part) for p in pupils for part in cases.split(4 * _batch(p, window))]
    return sum(sums) / len(cases) / len(pupils)
