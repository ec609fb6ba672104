"""If, Loop and Scan become straight code: their conditions and trip counts must be constants once shapes are known."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import GraphProto, helper

from edgekit.errors import InputError, UnsupportedError
from edgekit.exporters.load.call import Call, Item
from edgekit.exporters.load.graph import Builder, Value
from edgekit.exporters.load.sequences import stack

Run = Callable[[GraphProto, "dict[str, Item]", str], "list[Item]"]      # (body, its inputs, prefix of names) -> outputs
TRIP_LIMIT = 10_000


def branch(builder: Builder, call: Call, run: Run) -> list[Item]:
    """If: the branch that a constant condition takes; else both are computed, and Where picks (one shape for both)."""
    condition = call.value(0)
    if condition.data is not None:
        return run(_body(call, "then_branch" if _truth(call, condition, "the condition") else "else_branch"), {},
                   f"{call.name}/")
    both = [run(_body(call, key), {}, f"{call.name}/{key[:4]}/") for key in ("then_branch", "else_branch")]
    if condition.shape:
        scalar = builder.constant(np.zeros(0, np.int64), f"{call.name}_scalar")
        condition, = builder.emit("Reshape", [condition, scalar], name=f"{call.name}_condition")
    picked: list[Item] = []
    for wish, a, b in zip(call.outputs, *both):
        if not isinstance(a, Value) or not isinstance(b, Value) or (a.dtype, a.shape) != (b.dtype, b.shape):
            raise UnsupportedError("the condition of If depends on the model's inputs, and its branches give different "
                                   "shapes", where=call.where, fix="give both branches outputs of one shape")
        picked += builder.emit("Where", [condition, a, b], outputs=[wish], name=call.name)
    return picked


def loop(builder: Builder, call: Call, run: Run) -> list[Item]:
    """Loop(M, cond, carried...): the body(i, cond, carried...) -> (cond, carried..., scanned...) once a trip.

    Either of M and cond may be absent. Scanned outputs are stacked along a new first axis.
    """
    body = _body(call, "body")
    carried = list(call.inputs[2:])
    if len(body.input) != 2 + len(carried) or len(body.output) < 1 + len(carried):
        raise InputError("the body of Loop does not fit its inputs", where=call.where)
    scanned: list[list[Value]] = [[] for _ in body.output[1 + len(carried):]]
    trips = TRIP_LIMIT if call.item(0) is None else int(call.known(0, "the trip count").item())
    if trips > TRIP_LIMIT:
        raise UnsupportedError(f"Loop runs {trips} times", where=call.where, fix=f"edgekit unrolls up to {TRIP_LIMIT}")
    going = call.item(1) is None or _truth(call, call.value(1), "the condition")
    trip = 0
    while going and trip < trips:
        inner = [builder.constant(np.int64(trip), f"{call.name}_trip"), builder.constant(np.bool_(True)), *carried]
        results = run(body, dict(zip((v.name for v in body.input), inner)), f"{call.name}/{trip}/")
        condition = results[0]
        if not isinstance(condition, Value):
            raise InputError("the condition of Loop is no tensor", where=call.where)
        going = _truth(call, condition, "the condition")
        carried = results[1:1 + len(carried)]
        _collect(call, scanned, results[1 + len(carried):])
        trip += 1
    if going and call.item(0) is None:
        raise UnsupportedError(f"Loop does not end within {TRIP_LIMIT} trips", where=call.where)
    stacked = [_stack(builder, call, parts, 0, body.output[1 + len(carried) + k].type.tensor_type)
               for k, parts in enumerate(scanned)]
    return [*carried, *stacked]


def scan(builder: Builder, call: Call, run: Run) -> list[Item]:
    """Scan-9 and later: the body(state..., slices...) -> (state..., scanned...) once a position of the scanned axis."""
    body, count = _body(call, "body"), call.attrs.get("num_scan_inputs", 0)
    if call.version < 9:
        raise UnsupportedError("Scan of opset 8", where=call.where, fix="export the model with opset 9 or newer")
    states, sources = list(call.inputs[:len(call.inputs) - count]), [call.value(len(call.inputs) - count + k)
                                                                     for k in range(count)]
    outputs = len(body.output) - len(states)
    if count < 1 or len(body.input) != len(call.inputs) or outputs < 0:
        raise InputError("the body of Scan does not fit its inputs", where=call.where)
    axes = call.attrs.get("scan_input_axes", [0] * count)
    backward = call.attrs.get("scan_input_directions", [0] * count)
    lengths = {source.shape[axis] for source, axis in zip(sources, axes)}
    if len(lengths) != 1:
        raise InputError("the inputs of Scan have different lengths", where=call.where)
    length, = lengths
    scanned: list[list[Value]] = [[] for _ in range(outputs)]
    for trip in range(length):
        slices = [builder.emit("Gather", [source, builder.constant(np.int64(length - 1 - trip if back else trip))],
                               {"axis": axis}, name=f"{call.name}_slice")[0]
                  for source, axis, back in zip(sources, axes, backward)]
        given = dict(zip((v.name for v in body.input), [*states, *slices]))
        results = run(body, given, f"{call.name}/{trip}/")
        states = results[:len(states)]
        _collect(call, scanned, results[len(states):])
    out_axes = call.attrs.get("scan_output_axes", [0] * outputs)
    reverse = call.attrs.get("scan_output_directions", [0] * outputs)
    declared = [value.type.tensor_type for value in body.output[len(states):]]
    stacked = [_stack(builder, call, parts[::-1] if back else parts, axis, declared[k])
               for k, (parts, axis, back) in enumerate(zip(scanned, out_axes, reverse))]
    return [*states, *stacked]


def _body(call: Call, key: str) -> GraphProto:
    body = call.attrs.get(key)
    if not isinstance(body, GraphProto):
        raise InputError(f"{call.op} has no {key}", where=call.where)
    return body


def _truth(call: Call, value: Value, what: str) -> bool:
    if value.data is None:
        raise UnsupportedError(f"{what} of {call.op} depends on the model's inputs", where=call.where,
                               fix="compute both ways and choose with Where, or run a fixed number of steps")
    if value.data.size != 1:
        raise InputError(f"{what} of {call.op} is not one value", where=call.where)
    return bool(value.data.reshape(-1)[0])


def _collect(call: Call, scanned: list[list[Value]], results: list[Item]) -> None:
    for parts, item in zip(scanned, results):
        if not isinstance(item, Value):
            raise UnsupportedError(f"{call.op} stacks sequences", where=call.where)
        parts.append(item)


def _stack(builder: Builder, call: Call, parts: list[Value], axis: int, declared: onnx.TypeProto.Tensor) -> Value:
    """The parts along a new axis. declared: the body's type of one part, which counts if there is none."""
    if parts:
        return stack(builder, parts, axis, f"{call.name}_stack")
    dims = [d.dim_value for d in declared.shape.dim]
    dtype = helper.tensor_dtype_to_np_dtype(declared.elem_type)
    return builder.constant(np.zeros([*dims[:axis], 0, *dims[axis:]], dtype))
