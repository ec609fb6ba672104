"""Calibration inputs: what is given for each model, checked, and split into a part to fit on and a part that judges."""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import InputError, ShapeError

if TYPE_CHECKING:
    import onnx

LEAST, FEW = 4, 32
HELD = 5        # one case of so many is held back


@dataclass(frozen=True, eq=False)
class Calibration:
    """inputs: {name: (cases, *shape)} of each model in turn, None for one without data. cases: how many."""

    inputs: tuple[dict[str, np.ndarray] | None, ...]
    cases: int

    @property
    def fitted(self) -> int:
        """The first so many cases are fitted, the others judge: in data that have an order, the later ones."""
        return self.cases - max(1, self.cases // HELD)

    @property
    def note(self) -> str:
        """What the user would want to be told about the data, or ""."""
        return "" if self.cases >= FEW else (f"only {self.cases} calibration inputs: a few hundred prune better, and {self.cases - self.fitted} "
                                             "held back judge roughly")


def read_calibration(models: "Sequence[onnx.ModelProto]", calibration: Mapping[str, Any], states: Sequence[tuple[str, str]] = ()) -> Calibration:
    """Checked inputs: calibration is {input: (cases, *shape)}, an input also named in_INPUT, the same cases in each.

    states: (input, output) that a model feeds back: where no data are given they are computed, the cases in their order from
    a state of zeros. A model of which an input has no data, or data of another shape variant, goes without.

    InputError, ShapeError: no model has data for all of its inputs; shapes, dtypes or counts do not fit; fewer than LEAST
    cases; numbers that are not finite; all cases the same.
    """
    given = {name.removeprefix("in_"): np.asarray(a) for name, a in calibration.items()}
    given |= {name: np.asarray(a) for name, a in calibration.items()}
    found: list[dict[str, np.ndarray] | None] = []
    wrong = []
    for model in models:
        try:
            found.append(_inputs(model, given, dict(states)))
        except InputError as error:
            found.append(None)
            wrong.append(error)
    there = [f for f in found if f is not None]
    if not there:
        raise wrong[0]
    cases = len(next(iter(there[0].values())))
    for model, inputs in zip(models, found):
        if inputs is not None:
            _check(inputs)
            inputs |= _run_states(model, inputs, states)
    return Calibration(tuple(found), cases)


def _inputs(model: "onnx.ModelProto", given: Mapping[str, np.ndarray], states: Mapping[str, str]) -> dict[str, np.ndarray]:
    from onnx import helper
    constants = {t.name for t in model.graph.initializer}
    wanted = [v for v in model.graph.input if v.name not in constants]
    found = {}
    for value in wanted:
        shape = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        array = given.get(value.name)
        if array is None:
            if value.name in states:
                continue
            raise InputError(f"calibration data lack the input {value.name!r}",
                             fix="give every input: " + ", ".join(v.name for v in wanted))
        if array.shape[1:] != shape or array.ndim == 0:
            raise ShapeError(f"calibration data for {value.name!r} have shape {list(array.shape)}",
                             fix=f"give cases along axis 0: (cases, {', '.join(map(str, shape))})")
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
        if not np.can_cast(array.dtype, dtype, "same_kind"):
            raise InputError(f"calibration data for {value.name!r} are {array.dtype}, the model takes {dtype}", fix="convert them")
        found[value.name] = array.astype(dtype)
    if not found:
        raise InputError("the model has no input that calibration data could be given for", where=model.graph.name,
                         fix="prune it without calibration data")
    return found


def _check(inputs: Mapping[str, np.ndarray]) -> None:
    counts = {n: len(a) for n, a in inputs.items()}
    if len(set(counts.values())) > 1:
        raise InputError("calibration arrays hold different numbers of cases: " + ", ".join(f"{n} {c}" for n, c in counts.items()),
                         fix="give every input the same number")
    cases = next(iter(counts.values()))
    if cases < LEAST:
        raise InputError(f"{cases} calibration input{'' if cases == 1 else 's'} cannot show what the layers need: at least {LEAST} do, "
                         "a few hundred are better", fix="give more cases along axis 0, or prune without calibration data")
    for name, array in inputs.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(f"calibration data for {name!r} contain NaN or infinite numbers", fix="remove those cases")
    if all((a == a[:1]).all() for a in inputs.values()):
        raise InputError("all calibration inputs are the same: they say nothing about what the layers need",
                         fix="give inputs as the model meets them in use")


def _run_states(model: "onnx.ModelProto", inputs: Mapping[str, np.ndarray], states: Sequence[tuple[str, str]]) -> dict[str, np.ndarray]:
    """{state: (cases, *shape)}: what the dense model would be given, case after case."""
    import torch
    from onnx import helper

    from edgekit.exporters.sparsify.torch_graph import Graph
    kinds = {v.name: np.dtype(helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type)) for v in model.graph.input}
    missing = [(s, o) for s, o in states if s in kinds and s not in inputs]
    if not missing:
        return {}
    graph = Graph(model)
    outputs = [o for _, o in missing if o in graph.outputs]
    state = {s: torch.from_numpy(np.zeros((1, *graph.shapes[s]), kinds[s])) for s, _ in missing}
    seen: dict[str, list[np.ndarray]] = {s: [] for s in state}
    with torch.no_grad():
        for k in range(len(next(iter(inputs.values())))):
            for s, value in state.items():
                seen[s].append(value[0].numpy())
            made = graph.run({**{n: torch.from_numpy(a[k:k + 1]) for n, a in inputs.items()}, **state}, outputs)
            state = {s: made.get(o, state[s]) for s, o in missing}
    return {s: np.stack(rows) for s, rows in seen.items()}
