"""States: an output that comes back as an input at the next call."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from edgekit.errors import InputError, ShapeError
from edgekit.exporters.load.graph import element_name


def check_states(states: Mapping[str, str] | None, variants: Sequence[tuple[str, onnx.ModelProto]]
                 ) -> tuple[tuple[str, str], ...]:
    """(input, output) pairs, checked in every variant: both there, of one type and shape, no output used twice.

    The shape of a state must be the same in all variants, because they share it.
    """
    pairs = tuple((states or {}).items())
    for k, (_, output) in enumerate(pairs):
        if output in [o for _, o in pairs[:k]]:
            raise InputError(f"output {output} is given as the next value of two states", fix="pair each state with its own")
    shapes: dict[str, tuple[int, tuple[int, ...]]] = {}
    for entry, model in variants:
        where = f"entry {entry}" if len(variants) > 1 else ""
        inputs, outputs = _types(model.graph.input), _types(model.graph.output)
        for source, target in pairs:
            for name, known, kind in ((source, inputs, "input"), (target, outputs, "output")):
                if name not in known:
                    raise InputError(f"state {source}={target}: the model has no {kind} {name}", where=where,
                                     fix=f"{kind}s: {', '.join(known) or 'none'}")
            a, b = inputs[source], outputs[target]
            if a != b:
                raise ShapeError(f"state {source}={target}: the input is {_text(a)}, the output {_text(b)}", where=where,
                                 fix="a state keeps its type and shape from call to call")
            if shapes.setdefault(source, a) != a:
                raise ShapeError(f"state {source} is {_text(a)} here and {_text(shapes[source])} in another entry", where=where,
                                 fix="entries share their states: bind only dimensions that the states lack, or export apart")
    return pairs


def _types(values: Sequence[onnx.ValueInfoProto]) -> dict[str, tuple[int, tuple[int, ...]]]:
    return {v.name: (v.type.tensor_type.elem_type, tuple(d.dim_value for d in v.type.tensor_type.shape.dim)) for v in values}


def _text(kind: tuple[int, tuple[int, ...]]) -> str:
    return f"{element_name(kind[0])} {list(kind[1])}"
