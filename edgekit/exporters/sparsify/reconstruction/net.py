"""The loop over the layers of a net: those whose effect comes back to them first, at once; then one after the other."""
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from edgekit.exporters.sparsify.graph import Weight, finite, matrices, require_onnx, restore, weights, with_values
from edgekit.exporters.sparsify.oneshot import Pruned
from edgekit.exporters.sparsify.reconstruction import local, sequence
from edgekit.exporters.sparsify.reconstruction.calibration import Calibration, read_calibration
from edgekit.exporters.sparsify.reconstruction.cut import Cut
from edgekit.exporters.sparsify.reconstruction.grouping import Grouping, grouped
from edgekit.exporters.sparsify.reconstruction.quadratic import solve
from edgekit.exporters.sparsify.reconstruction.settle import settle
from edgekit.exporters.sparsify.reconstruction.uses import BIASED, Use, Uses, made, positions, taken
from edgekit.exporters.sparsify.rules import LEFT, Choice, Group, Layer, Sparsity, decide_all
from edgekit.exporters.sparsify.torch_graph import Graph
from edgekit.exporters.sparsify.zeros import zeros

if TYPE_CHECKING:
    import onnx

DAMPING = 1e-2
SAMPLES = 1 << 15            # rows of inputs that a layer is fitted to
SAMPLE_BYTES = 256 << 20     # and what they may take
ENOUGH = 10                  # samples an input that a layer needs to be fitted although it stays dense
SEED = 0
FLOATS = (1, 10, 11, 16)      # ONNX's types
Progress = Callable[[str], None]


def reconstruct(models: "Sequence[onnx.ModelProto]", calibration: Calibration | Mapping[str, Any], *, sparsity: Sparsity,
                group: Group = "auto", permute: bool = True, states: Sequence[tuple[str, str]] = (),
                progress: Progress = lambda _: None) -> Pruned:
    """Prunes in balanced groups and sets the weights that stay anew, so that the net says what it said on calibration inputs.

    models, sparsity, group, permute: see `oneshot.prune_onnx`. calibration: {input: (cases, *shape)}, a few hundred cases, or
    what `read_calibration` made of them; states: see there. Only values of initializers change, biases among them. A
    layer that no model with calibration data uses stays dense. Deterministic. InputError for bad arguments and data.
    """
    data = calibration if isinstance(calibration, Calibration) else read_calibration(models, calibration, states)
    return _Net(models, data, progress).pruned(sparsity, group, permute)


class _Net:
    """Variants of a net, dense, and their weights as they are pruned one by one."""

    def __init__(self, models: "Sequence[onnx.ModelProto]", data: Calibration, progress: Progress):
        self.models, self.data, self.progress = models, data, progress
        to_array = require_onnx().numpy_helper.to_array
        self.arrays = [{t.name: np.array(to_array(t)) for t in m.graph.initializer} for m in models]
        self.graphs = [Graph(m).requires_grad_(False) for m in models]
        self.uses = [Uses(g) for g in self.graphs]
        self.inputs = {k: {n: torch.from_numpy(a[:data.fitted]) for n, a in given.items()} for k, given in enumerate(data.inputs) if given}
        self.changed: list[dict[str, Tensor]] = [{} for _ in models]  # initializers that are not the dense ones any more

    def pruned(self, sparsity: Sparsity, group: Group, permute: bool) -> Pruned:
        found = weights(self.models)
        choices = decide_all([(w.name, w.facts) for w in found], sparsity, group)
        planned = [self._plan(w, c) for w, c in zip(found, choices)]
        work = [(w, c) for w, c, (_, do) in zip(found, choices, planned) if do]
        self._solve_sequences([(w, c) for w, c in work if not c.reason and self._feeds_itself(w)], permute)
        self._solve_along([(w, c) for w, c in work if not self._feeds_itself(w)], permute)
        self._settle(found)
        return Pruned(self._models(), tuple(layer for layer, _ in planned))

    def _plan(self, weight: Weight, choice: Choice) -> tuple[Layer, bool]:
        """What becomes of a layer, and whether its weights are set anew: to prune it, or to fit it to the layers before."""
        def layer(share: float, v: int | None, reason: str) -> Layer:
            return Layer(weight.name, weight.op, weight.shape, weight.facts.macs, share, v, reason)
        if weight.facts.blocked not in ("", LEFT):
            return layer(0.0, None, choice.reason), False
        model, name, layout = weight.places[0]
        array = self.arrays[model][name]
        there = zeros(array, layout, weight.facts)
        if there.group and (choice.reason or there.kept * weight.facts.inputs <= choice.kept):
            return layer(1 - there.kept, there.group, ""), False
        if choice.reason:
            return layer(0.0, None, choice.reason), not weight.facts.blocked and bool(self._used(weight)) and there.share == 0
        finite(weight.name, array)
        if not self._used(weight):
            return layer(0.0, None, "no calibration data reach it"), False
        return layer(1 - choice.kept / weight.facts.inputs, choice.v, ""), True

    def _used(self, weight: Weight) -> list[tuple[int, str, tuple[Use, ...]]]:
        """(model, initializer, uses) of the models with data."""
        return [(m, name, self.uses[m].of(name)) for m, name, _ in weight.places if m in self.inputs]

    def _feeds_itself(self, weight: Weight) -> bool:
        return any(self.uses[m].feeds_itself(uses) for m, _, uses in self._used(weight))

    def _value(self, model: int, name: str) -> Tensor:
        """An initializer as it is by now."""
        return self.changed[model].get(name, torch.from_numpy(self.arrays[model][name]))

    def _dense(self, weight: Weight) -> Tensor:
        """(directions, R, K), float64."""
        model, name, layout = weight.places[0]
        return torch.from_numpy(matrices(self.arrays[model][name], layout).astype(np.float64))

    def _solve_sequences(self, work: list[tuple[Weight, Choice]], permute: bool) -> None:
        """Each weight by the error of the outputs, at the dense net; all models that share it get it from the first with data."""
        for model in self.inputs:
            mine = [(w, c) for w, c in work if self._used(w)[0][0] == model]
            if not mine:
                continue
            parts = [sequence.part(self.graphs[model], self.uses[model].of(name), name, layout, w.name)
                     for w, _ in mine for m, name, layout in w.places if m == model]
            self.progress(f"gradients of {len(mine)} layers over the whole sequence")
            blocks = sequence.gauss_newton(self.graphs[model], self.inputs[model], parts, *self._outputs(model), self.progress)
            for (weight, choice), part, block in zip(mine, parts, blocks):
                self.progress(f"pruning {weight.name}")
                dense = self._dense(weight)
                found, shifts = [], []
                for w, b in zip(dense, block):
                    q, slope = sequence.quadratic(b, w, DAMPING)
                    g = grouped(q, choice.v, choice.kept, permute)
                    found.append(solve(q, g.rows, g.index))
                    shifts.append(-((found[-1] - w) * slope).sum(1))
                self._set(weight, torch.stack(found), torch.stack(shifts), part.start)

    def _outputs(self, model: int) -> tuple[dict[str, Tensor], dict[str, float]]:
        """What the dense model says of the cases, and what one unit of error is of each output: its deviation over the cases."""
        outputs = [v.name for v in self.models[model].graph.output if v.type.tensor_type.elem_type in FLOATS]
        with torch.no_grad():
            made = self.graphs[model].run(self.inputs[model], outputs)
        return made, {n: float((t - t.mean(0)).double().square().mean().sqrt()) or 1.0 for n, t in made.items()}

    def _settle(self, found: Sequence[Weight]) -> None:
        """All layers together; weights of several models by what the first with data says."""
        for model in self.inputs:
            mine = [w for w in found if w.places and w.facts.blocked != LEFT and self._used(w)[:1] and self._used(w)[0][0] == model]
            names = {w.name: (self._used(w)[0][1], self._bias(w)) for w in mine}
            free = {n: self._value(model, n) for pair in names.values() for n in pair if n}
            if not free or not self.changed[model]:
                continue
            held = {n: t for n, t in self.changed[model].items() if n not in free}
            better = settle(self.graphs[model], self.inputs[model], *self._outputs(model), free, held, self.progress)
            moved = {bias: better[bias] - free[bias] for _, bias in names.values() if bias}
            for w in mine:
                name, bias = names[w.name]
                shift = moved.pop(bias, None)  # W and R of a recurrent layer share a bias
                layout = next(y for m, n, y in w.places if (m, n) == (model, name))
                stack = torch.from_numpy(matrices(better[name].numpy(), layout).copy())
                self._set(w, stack, None if shift is None else shift.reshape(len(stack), -1).double())

    def _solve_along(self, work: list[tuple[Weight, Choice]], permute: bool) -> None:
        """Each weight by its own inputs in the pruned net and outputs in the dense one, in the order of the nodes."""
        used = {id(w): self._used(w) for w, _ in work}
        work = sorted((x for x in work if used[id(x[0])]), key=lambda x: (used[id(x[0])][0][0], used[id(x[0])][0][2][0].at))
        dense = {m: Cut(self.graphs[m], given, {}) for m, given in self.inputs.items()}
        pruned = {m: Cut(self.graphs[m], given, self.changed[m]) for m, given in self.inputs.items()}
        to_do = [name for w, _ in work for _, name, _ in used[id(w)]]
        started = any(self.changed)
        for number, (weight, choice) in enumerate(work):
            for m, _, uses in used[id(weight)]:
                dense[m].advance(uses[0].at)
                if not any(i in to_do for n in self.graphs[m].nodes[:uses[0].at] for i in n.inputs):
                    pruned[m].advance(uses[0].at)
            started = started or not choice.reason
            if started:
                self.progress(f"{'fitting' if choice.reason else 'pruning'} {weight.name}, {number + 1} of {len(work)}")
                self._solve_one(weight, choice, permute, dense, pruned)
            for _, name, _ in used[id(weight)]:
                to_do.remove(name)

    def _solve_one(self, weight: Weight, choice: Choice, permute: bool, dense: dict[int, Cut], pruned: dict[int, Cut]) -> None:
        samples = self._samples(weight, dense, pruned)
        w = self._dense(weight)[0]
        if choice.reason and len(samples.inputs) < ENOUGH * w.shape[1]:
            return
        m = local.moments(samples, w, DAMPING)
        g = (Grouping(np.arange(len(w))[None], np.arange(w.shape[1])[None], 0.0) if choice.reason else
             grouped(local.quadratic(samples, m), choice.v, choice.kept, permute))
        found, bias = local.fitted(samples, m, g)
        name = self._bias(weight)
        model = self._used(weight)[0][0]
        old = torch.from_numpy(self.arrays[model][name].astype(np.float64)).reshape(-1) if name else bias
        self._set(weight, found[None], (bias / self._beta(weight) - old)[None] if name else None)

    def _beta(self, weight: Weight) -> float:
        """What a Gemm multiplies its bias by."""
        return float(self._used(weight)[0][2][0].node.attrs.get("beta", 1.0)) if weight.op == "Gemm" else 1.0

    def _bias(self, weight: Weight) -> str:
        """The bias of the first model with data, if every use in every model has one of its own."""
        if weight.op not in BIASED or LEFT == weight.facts.blocked:
            return ""
        every = [[u.bias for u in self.uses[m].of(name)] for m, name, _ in weight.places]
        there = all(len(set(names)) == 1 and names[0] for names in every)
        return self._used(weight)[0][2][0].bias if there else ""

    def _samples(self, weight: Weight, dense: dict[int, Cut], pruned: dict[int, Cut]) -> local.Samples:
        used = [(m, u) for m, _, uses in self._used(weight) for u in uses]
        numbers = 4 * (weight.facts.inputs + weight.facts.outputs)
        rows = min(SAMPLES, SAMPLE_BYTES // numbers) // len(used)
        inputs, targets = [], []
        for k, (m, use) in enumerate(used):
            at = _places(positions(use), self.data.fitted, max(1, rows // self.data.fitted), k)
            inputs += [taken(use, v[use.source], at[cases]) for cases, v in pruned[m].batches([use.source])]
            targets += [made(use, v[use.result], at[cases]) for cases, v in dense[m].batches([use.result])]
        bias = bool(self._bias(weight))
        low, high = (used[0][1].low, used[0][1].high) if len({(u.low, u.high) for _, u in used}) == 1 else (-np.inf, np.inf)
        return local.Samples(torch.cat(inputs).float(), torch.cat(targets).float(), low, high, bias)

    def _set(self, weight: Weight, stack: Tensor, shifts: Tensor | None, start: int = 0) -> None:
        """New values at all places of a weight; and what is added to its biases (directions, R), from number `start` on."""
        for model, name, layout in weight.places:
            array = self.arrays[model][name]
            self.changed[model][name] = torch.from_numpy(restore(stack.numpy().astype(array.dtype), array.shape, layout))
            if shifts is not None and self._bias(weight):
                bias = self.uses[model].of(name)[0].bias
                old = self.changed[model].get(bias, torch.from_numpy(self.arrays[model][bias].copy()))
                flat = old.double().reshape(len(shifts), -1).clone()
                flat[:, start:start + shifts.shape[1]] += shifts
                self.changed[model][bias] = flat.reshape(old.shape).to(old.dtype)

    def _models(self) -> "tuple[onnx.ModelProto, ...]":
        return tuple(with_values(model, {n: t.numpy() for n, t in changed.items()}) for model, changed in zip(self.models, self.changed))


def _places(positions: int, cases: int, count: int, use: int) -> np.ndarray:
    """(cases, count) of the positions of a layer, each at most once a case."""
    if count >= positions:
        return np.tile(np.arange(positions), (cases, 1))
    rng = np.random.default_rng((SEED, use))
    return np.stack([np.sort(rng.choice(positions, count, replace=False)) for _ in range(cases)])
