"""Brings one node of any opset to OPSET.

onnx's own version converter is not used: it works on whole graphs, skips subgraphs and functions, refuses models
that need no change (no adapter for an operator whose types alone were widened), and is of no help downwards. Here each
change of an operator's meaning since opset 1 is one rule; whatever no rule names only widened its types.
"""
from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import onnx

from edgekit.errors import InputError, UnsupportedError
from edgekit.exporters.load.call import Call
from edgekit.exporters.load.check import FLOATS
from edgekit.exporters.load.graph import OPSET, Builder, Value

Rule = Callable[[Builder, Call], "Call | list[Value]"]


def normalise(builder: Builder, call: Call) -> Call | list[Value]:
    """The same operation as a call at OPSET, or the values it was turned into."""
    for operators, before, rule in RULES:
        if call.op in operators and call.version < before:
            result = rule(builder, call)
            if isinstance(result, list):
                return result
            call = result
    call = call.without("consumed_inputs")
    schema = onnx.defs.get_schema(call.op, OPSET, "")
    attrs = dict(call.attrs)
    for key in [k for k in attrs if k not in schema.attributes]:
        if not _default(call, key):
            raise UnsupportedError(f"{call.op} has the attribute {key}={attrs[key]!r}, which opset {OPSET} lacks",
                                   where=call.where)
        del attrs[key]
    inputs = list(call.inputs)
    while inputs and inputs[-1] is None:
        inputs.pop()
    if len(inputs) > schema.max_input or len(call.outputs) > schema.max_output:
        raise UnsupportedError(f"{call.op} has inputs or outputs that opset {OPSET} lacks", where=call.where)
    return call.replace(attrs=attrs, inputs=tuple(inputs), version=OPSET)


def _default(call: Call, key: str) -> bool:
    """Whether an attribute has the value it has when absent, so that it can go."""
    from edgekit.exporters.load.call import attribute

    known = onnx.defs.get_schema(call.op, call.version, "").attributes.get(key)
    return known is not None and known.default_value.name != "" and attribute(known.default_value) == call.attrs[key]


def _ints(builder: Builder, call: Call, values: Any, what: str) -> Value:
    return builder.constant(np.asarray(values, np.int64).reshape(-1), f"{call.name}_{what}")


def _to_input(key: str, position: int) -> Rule:
    """An attribute of integers that became input `position`."""
    def rule(builder: Builder, call: Call) -> Call:
        if key not in call.attrs:
            return call
        inputs = [*call.inputs, *[None] * position][:position]
        return call.replace(inputs=(*inputs, _ints(builder, call, call.attrs[key], key))).without(key)
    return rule


def _default_to(**attrs: Any) -> Rule:
    """A default that changed: write the old one down."""
    return lambda builder, call: call.replace(attrs=attrs | call.attrs)


def _drop(*keys: str) -> Rule:
    return lambda builder, call: call.without(*keys)


def _integer(key: str) -> Rule:
    return lambda builder, call: call.having(**{key: int(call.attrs[key])}) if key in call.attrs else call


def _legacy_broadcast(builder: Builder, call: Call) -> Call:
    """Before opset 7 the second operand was aligned at `axis` (suffix if absent), not at the end as in numpy."""
    if not call.attrs.get("broadcast", 0):
        return call.without("broadcast", "axis")
    a, b = call.value(0), call.value(1)
    axis = call.attrs.get("axis")
    if axis is not None:
        axis += len(a.shape) if axis < 0 else 0
        trailing = len(a.shape) - axis - len(b.shape)
        if trailing > 0:
            shape = _ints(builder, call, (*b.shape, *[1] * trailing), "shape")
            b, = builder.emit("Reshape", [b, shape], name=f"{call.name}_align")
    return call.replace(inputs=(a, b)).without("broadcast", "axis")


def _legacy_prelu(builder: Builder, call: Call) -> Call:
    """Before opset 7 a slope of shape (C,) was per channel."""
    x, slope = call.value(0), call.value(1)
    if len(slope.shape) == 1 and slope.shape[0] > 1 and len(x.shape) > 2:
        shape = _ints(builder, call, (slope.shape[0], *[1] * (len(x.shape) - 2)), "shape")
        slope, = builder.emit("Reshape", [slope, shape], name=f"{call.name}_slope")
    return call.replace(inputs=(x, slope))


def _cast_by_name(builder: Builder, call: Call) -> Call:
    try:
        return call.having(to=onnx.TensorProto.DataType.Value(str(call.attrs.get("to")).upper()))
    except ValueError:
        raise InputError(f"Cast to the unknown type {call.attrs.get('to')!r}", where=call.where) from None


def _clip(builder: Builder, call: Call) -> Call:
    x = call.value(0)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(x.dtype)
    bounds = [builder.constant(np.asarray(call.attrs[key], dtype), f"{call.name}_{key}") if key in call.attrs else None
              for key in ("min", "max")]
    return call.replace(inputs=(x, *bounds)).without("min", "max")


def _flattening(builder: Builder, call: Call) -> Call | list[Value]:
    """Before opset 13 Softmax and its kin worked on the input flattened to 2-D at `axis` (default 1)."""
    x = call.value(0)
    axis = call.attrs.get("axis", 1)
    axis += len(x.shape) if axis < 0 else 0
    if axis == len(x.shape) - 1:
        return call.having(axis=-1)
    flat = _ints(builder, call, (prod(x.shape[:axis]), prod(x.shape[axis:])), "flat")
    y, = builder.emit("Reshape", [x, flat], name=f"{call.name}_flatten")
    y, = builder.emit(call.op, [y], {"axis": -1}, name=call.name)
    return builder.emit("Reshape", [y, _ints(builder, call, x.shape, "shape")], {"allowzero": 1}, call.outputs,
                        f"{call.name}_unflatten")


def _pad(builder: Builder, call: Call) -> Call:
    x = call.value(0)
    pads = call.attrs.get("pads", call.attrs.get("paddings"))
    if pads is None:
        raise InputError("Pad has no pads", where=call.where)
    value = np.asarray(call.attrs.get("value", 0.0), onnx.helper.tensor_dtype_to_np_dtype(x.dtype))
    return call.replace(inputs=(x, _ints(builder, call, pads, "pads"), builder.constant(value, f"{call.name}_value"))
                        ).without("pads", "paddings", "value")


def _slice(builder: Builder, call: Call) -> Call:
    attrs = call.attrs
    if "starts" not in attrs or "ends" not in attrs:
        raise InputError("Slice has no starts or ends", where=call.where)
    axes = attrs.get("axes", range(len(attrs["starts"])))
    return call.replace(inputs=(call.value(0), *(_ints(builder, call, v, k) for k, v in
                        (("starts", attrs["starts"]), ("ends", attrs["ends"]), ("axes", axes))))
                        ).without("starts", "ends", "axes")


def _split_parts(builder: Builder, call: Call) -> Call:
    """Since opset 18 an even split says so in an attribute. A wrong one ends the process in onnx's inference."""
    if call.item(1) is not None:
        return call
    if call.attrs.get("num_outputs", len(call.outputs)) != len(call.outputs):
        raise InputError(f"Split into {call.attrs['num_outputs']} has {len(call.outputs)} outputs", where=call.where)
    return call.having(num_outputs=len(call.outputs))


def _tile(builder: Builder, call: Call) -> Call:
    """Tile-1 repeated one axis: inputs tiles and axis, both scalars."""
    x = call.value(0)
    repeats = np.ones(len(x.shape), np.int64)
    repeats[int(call.known(2, "axis").item())] = int(call.known(1, "tiles").item())
    return call.replace(inputs=(x, _ints(builder, call, repeats, "repeats")))


def _upsample(builder: Builder, call: Call) -> Call:
    """Upsample (and Resize-10) scaled from the corner: asymmetric, nearest takes the floor (downwards the ceiling)."""
    attrs = dict(call.attrs)
    if "scales" in attrs:
        scales = np.asarray(attrs.pop("scales"), np.float32)
    elif "height_scale" in attrs or "width_scale" in attrs:
        scales = np.asarray([1, 1, attrs.pop("height_scale", 1), attrs.pop("width_scale", 1)], np.float32)
    else:
        scales = call.known(1, "scales")
    mode = {"bilinear": "linear"}.get(attrs.get("mode", "nearest"), attrs.get("mode", "nearest"))
    if mode == "nearest" and (scales < 1).any() and (scales > 1).any():
        raise UnsupportedError(f"{call.op} of opset {call.version} scales some axes up and some down", where=call.where,
                               fix="export the model with opset 11 or newer")
    nearest = "ceil" if (scales < 1).any() else "floor"
    return call.replace(op="Resize", inputs=(call.value(0), None, builder.constant(scales, f"{call.name}_scales")),
                        attrs={"mode": mode, "coordinate_transformation_mode": "asymmetric", "nearest_mode": nearest},
                        version=11)


def _resize(builder: Builder, call: Call) -> Call:
    """Resize-11 wrote absent inputs as empty tensors."""
    inputs = [call.value(0), *(call.optional(k) for k in range(1, len(call.inputs)))]
    kept = [v if v is not None and v.shape != (0,) else None for v in inputs]
    if "half_pixel_symmetric" != call.attrs.get("coordinate_transformation_mode") != "tf_half_pixel_for_nn":
        return call.replace(inputs=tuple(kept))
    raise UnsupportedError("Resize with coordinate_transformation_mode tf_half_pixel_for_nn", where=call.where,
                           fix="export the model with opset 13 or newer")


def _grid_mode(builder: Builder, call: Call) -> Call:
    mode = call.attrs.get("mode", "bilinear")
    return call.having(mode={"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode))


def _dft_axis(builder: Builder, call: Call) -> Call:
    axis = builder.constant(np.int64(call.attrs.get("axis", 1)), f"{call.name}_axis")
    return call.replace(inputs=(call.value(0), call.item(1), axis)).without("axis")


def _no_float_mod(builder: Builder, call: Call) -> Call:
    """Opset 28 gave Mod of floats a meaning without fmod; before, it had none."""
    if call.value(0).dtype in FLOATS and not call.attrs.get("fmod", 0):
        raise UnsupportedError("Mod of floats with fmod=0", where=call.where, fix="write a - floor(a / b) * b")
    return call


def _forward(builder: Builder, call: Call) -> Call:
    """The first GRU's default direction was misspelt."""
    return call.having(direction="forward") if call.attrs.get("direction") == "foward" else call


_REDUCE = frozenset({"ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
                     "ReduceProd", "ReduceSumSquare"})
_BINARY = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less"})
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})


def _of(*operators: str) -> frozenset[str]:
    return frozenset(operators)


EVER = 1_000_000

# (operators, the opset that changed them, what to do before it); in the order of the chain for one operator.
RULES: tuple[tuple[frozenset[str], int, Rule], ...] = (
    (_BINARY, 7, _legacy_broadcast),
    (_of("Gemm"), 7, _drop("broadcast")),
    (_of("PRelu"), 7, _legacy_prelu),
    (_of("Cast"), 6, _cast_by_name),
    (_of("Clip"), 11, _clip),
    (_of("Concat"), 4, _default_to(axis=1)),
    (_of("Selu"), 6, _default_to(alpha=1.6732, gamma=1.0507)),
    (_RECURRENT, 7, _drop("output_sequence")),
    (_RECURRENT, 3, _forward),
    (_of("GlobalLpPool", "LpPool"), 2, _integer("p")),
    (_of("Softmax", "LogSoftmax", "Hardmax"), 13, _flattening),
    (_of("Pad"), 11, _pad),
    (_of("Reshape"), 5, _to_input("shape", 1)),
    (_of("Slice"), 10, _slice),
    (_of("Split"), 2, _default_to(axis=1)),
    (_of("Split"), 13, _to_input("split", 1)),
    (_of("Split"), EVER, _split_parts),
    (_of("Squeeze", "Unsqueeze", "ReduceSum"), 13, _to_input("axes", 1)),
    (_REDUCE, 18, _to_input("axes", 1)),
    (_of("TopK"), 10, _to_input("k", 1)),
    (_of("Tile"), 6, _tile),
    (_of("Upsample"), EVER, _upsample),
    (_of("Resize"), 11, _upsample),
    (_of("Resize"), 19, _resize),
    (_of("Scatter"), EVER, lambda builder, call: call.replace(op="ScatterElements")),
    (_of("RoiAlign"), 16, _default_to(coordinate_transformation_mode="output_half_pixel")),
    (_of("GridSample"), 20, _grid_mode),
    (_of("DFT"), 20, _dft_axis),
    (_of("Mod"), EVER, _no_float_mod),
)
