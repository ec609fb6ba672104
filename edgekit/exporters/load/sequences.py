"""Sequences and optionals exist while tracing only: their operators pick and place values."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgekit.errors import InputError
from edgekit.exporters.load.call import Call, Item, Missing, Sequence
from edgekit.exporters.load.graph import Builder, Value


def stack(builder: Builder, parts: list[Value], axis: int, name: str) -> Value:
    """The parts, all of one shape, along a new axis."""
    where = builder.constant(np.asarray([axis], np.int64), f"{name}_axis")
    columns = [builder.emit("Unsqueeze", [part, where], name=f"{name}_part")[0] for part in parts]
    return columns[0] if len(columns) == 1 else builder.emit("Concat", columns, {"axis": axis}, name=name)[0]


def _items(call: Call) -> tuple[Value, ...]:
    item = call.item(0)
    if not isinstance(item, Sequence):
        raise InputError(f"{call.op} is given something that is no sequence", where=call.where)
    return item.items


def _position(call: Call, index: int, length: int, default: int) -> int:
    """Constant position in a sequence, negative ones from its end."""
    if call.item(index) is None:
        return default
    position = int(call.known(index, "the position").item())
    position += length if position < 0 else 0
    if not 0 <= position <= length:
        raise InputError(f"{call.op} reaches outside its sequence of {length}", where=call.where)
    return position


def _construct(builder: Builder, call: Call) -> list[Item]:
    return [Sequence(tuple(call.value(k) for k in range(len(call.inputs))))]


def _empty(builder: Builder, call: Call) -> list[Item]:
    return [Sequence(())]


def _at(builder: Builder, call: Call) -> list[Item]:
    items = _items(call)
    position = _position(call, 1, len(items), 0)
    if position == len(items):
        raise InputError(f"SequenceAt reaches outside its sequence of {len(items)}", where=call.where)
    return [items[position]]


def _insert(builder: Builder, call: Call) -> list[Item]:
    items = _items(call)
    position = _position(call, 2, len(items), len(items))
    return [Sequence((*items[:position], call.value(1), *items[position:]))]


def _erase(builder: Builder, call: Call) -> list[Item]:
    items = _items(call)
    position = _position(call, 1, len(items), len(items) - 1)
    return [Sequence((*items[:position], *items[position + 1:]))]


def _length(builder: Builder, call: Call) -> list[Item]:
    return [builder.constant(np.int64(len(_items(call))), call.outputs[0])]


def _concat(builder: Builder, call: Call) -> list[Item]:
    items, axis = list(_items(call)), call.attrs.get("axis", 0)
    if not items:
        raise InputError("ConcatFromSequence of an empty sequence", where=call.where)
    if call.attrs.get("new_axis", 0):
        return [stack(builder, items, axis, call.name)]
    if len(items) == 1:
        return [items[0]]
    return list(builder.emit("Concat", items, {"axis": axis}, call.outputs, call.name))


def _split(builder: Builder, call: Call) -> list[Item]:
    """SplitToSequence: by one length, by several, or into single slices (whose axis goes unless keepdims)."""
    x, axis = call.value(0), call.attrs.get("axis", 0)
    axis += len(x.shape) if axis < 0 else 0
    if not 0 <= axis < len(x.shape):
        raise InputError(f"SplitToSequence has no axis {axis}", where=call.where)
    length, drop = x.shape[axis], False
    if call.item(1) is None:
        sizes, drop = [1] * length, not call.attrs.get("keepdims", 1)
    else:
        given = call.known(1, "split")
        step = int(given.reshape(-1)[0]) if given.ndim == 0 else 0
        if given.ndim == 0 and step < 1:
            raise InputError(f"SplitToSequence into parts of {step}", where=call.where)
        sizes = ([min(step, length - k) for k in range(0, length, step)] if given.ndim == 0
                 else [int(v) for v in given])
    parts = [x]
    if len(sizes) > 1:
        split = builder.constant(np.asarray(sizes, np.int64), f"{call.name}_split")
        parts = builder.emit("Split", [x, split], {"axis": axis}, [""] * len(sizes), call.name)
    if drop:
        axes = builder.constant(np.asarray([axis], np.int64), f"{call.name}_axes")
        parts = [builder.emit("Squeeze", [part, axes], name=f"{call.name}_squeeze")[0] for part in parts]
    return [Sequence(tuple(parts))]


def _optional(builder: Builder, call: Call) -> list[Item]:
    return [Missing() if call.item(0) is None else call.item(0)]


def _has_element(builder: Builder, call: Call) -> list[Item]:
    return [builder.constant(np.bool_(not isinstance(call.item(0), (Missing, type(None)))), call.outputs[0])]


def _get_element(builder: Builder, call: Call) -> list[Item]:
    if isinstance(call.item(0), (Missing, type(None))):
        raise InputError("OptionalGetElement of an empty optional", where=call.where)
    return [call.item(0)]


RULES: dict[str, Callable[[Builder, Call], list[Item]]] = {
    "SequenceConstruct": _construct, "SequenceEmpty": _empty, "SequenceAt": _at, "SequenceInsert": _insert,
    "SequenceErase": _erase, "SequenceLength": _length, "ConcatFromSequence": _concat, "SplitToSequence": _split,
    "Optional": _optional, "OptionalHasElement": _has_element, "OptionalGetElement": _get_element,
}
