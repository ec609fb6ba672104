"""States: an output that comes back as an input at the next call."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from edgekit.errors import InputError, ShapeError
from edgekit.exporters.load.graph import element_name


def check_states(states: Mapping[str, str] | None, variants: Sequence[tuple[str, onnx.ModelProto]]
                 ) -> tuple[tuple[str, str], ...]:
    """(input, output) pairs, checked: some entry reads each and some entry writes it, of one type and shape everywhere.

    An entry may have only one of the two: an encoder leaves the state that a decoder begins with.
    """
    pairs = tuple((states or {}).items())
    for k, (_, output) in enumerate(pairs):
        if output in [o for _, o in pairs[:k]]:
            raise InputError(f"output {output} is given as the next value of two states",
                             fix="pair each state with its own")
    known = [(entry, _types(model.graph.input), _types(model.graph.output)) for entry, model in variants]
    for source, target in pairs:
        for name, side, kind in ((source, 1, "input"), (target, 2, "output")):
            if not any(name in row[side] for row in known):
                names = sorted({n for row in known for n in row[side]})
                raise InputError(f"state {source}={target}: the model has no {kind} {name}",
                                 fix=f"{kind}s: {', '.join(names) or 'none'}")
        found = [(entry, f"the {kind}", types[name]) for entry, inputs, outputs in known
                 for name, types, kind in ((source, inputs, "input"), (target, outputs, "output")) if name in types]
        for entry, kind, shape in found[1:]:
            first = found[0]
            if shape == first[2]:
                continue
            if entry == first[0]:
                raise ShapeError(f"state {source}={target}: {first[1]} is {_text(first[2])}, {kind} {_text(shape)}",
                                 where=f"entry {entry}" if len(variants) > 1 else "",
                                 fix="a state keeps its type and shape from call to call")
            raise ShapeError(f"state {source} is {_text(shape)} here and {_text(first[2])} in another entry",
                             where=f"entry {entry}", fix="entries share their states: bind only dimensions that the "
                             "states lack, or export apart")
    return pairs


def _types(values: Sequence[onnx.ValueInfoProto]) -> dict[str, tuple[int, tuple[int, ...]]]:
    return {v.name: (v.type.tensor_type.elem_type, tuple(d.dim_value for d in v.type.tensor_type.shape.dim))
            for v in values}


def _text(kind: tuple[int, tuple[int, ...]]) -> str:
    return f"{element_name(kind[0])} {list(kind[1])}"
