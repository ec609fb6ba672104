"""What one node at OPSET becomes: nothing (its result is an input), a plainer node, or itself."""
from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
import onnx

from edgekit.errors import InputError, UnsupportedError
from edgekit.exporters.load.call import Call, Item
from edgekit.exporters.load.graph import Builder, Value

EVAL = "put the model into inference mode before exporting it (in torch: module.eval())"


def same_shape(builder: Builder, call: Call) -> list[Item] | None:
    """Reshape, Expand, Tile, Squeeze... that change nothing; Reshape otherwise gets its target spelt out."""
    x = call.value(0)
    if call.op == "Reshape" and x.data is None:
        y, = builder.emit("Reshape", call.tensors(), call.attrs, call.outputs, call.name)
        if y.shape == x.shape or y.data is not None:
            return [_withdraw(builder, x, y)]
        plain = builder.constant(np.asarray(y.shape, np.int64), f"{call.name}_shape")
        builder.nodes[-1].input[1] = plain.name
        del builder.nodes[-1].attribute[:]
        return [y]
    y, = call.emit(builder)
    return [_withdraw(builder, x, y)]


def _withdraw(builder: Builder, x: Value, y: Value) -> Value:
    """x in place of y if y is x in the same shape."""
    if y.data is None and y.shape == x.shape:
        builder.nodes.pop()
        del builder.values[y.name]
        return x
    return y


def cast(builder: Builder, call: Call) -> list[Item] | None:
    return [call.value(0)] if call.attrs.get("to") == call.value(0).dtype else None


def cast_like(builder: Builder, call: Call) -> list[Item] | None:
    """CastLike is a Cast whose type is known."""
    call = call.replace(op="Cast", inputs=call.inputs[:1]).having(to=call.value(1).dtype)
    return cast(builder, call) or list(call.emit(builder))


def transpose(builder: Builder, call: Call) -> list[Item] | None:
    rank = len(call.value(0).shape)
    return [call.value(0)] if call.attrs.get("perm", list(range(rank))[::-1]) == list(range(rank)) else None


def slice_all(builder: Builder, call: Call) -> list[Item] | None:
    """A Slice that keeps everything, in order."""
    steps = call.optional(4)
    if call.value(0).data is not None or (steps is not None and (steps.data is None or (steps.data < 0).any())):
        return None
    return same_shape(builder, call)


def pad_nothing(builder: Builder, call: Call) -> list[Item] | None:
    pads = call.value(1).data
    return [call.value(0)] if pads is not None and not pads.any() else None


def concat(builder: Builder, call: Call) -> list[Item] | None:
    """Empty parts go; one part alone is the result."""
    parts = [call.value(k) for k in range(len(call.inputs))]
    full = [part for part in parts if prod(part.shape)]
    if not full or len(full) == len(parts) > 1:
        return None
    if len(full) == 1:
        return [full[0]]
    return list(call.replace(inputs=tuple(full)).emit(builder))


def single(builder: Builder, call: Call) -> list[Item] | None:
    """Sum, Max, Min and Mean of one operand."""
    return [call.value(0)] if len(call.inputs) == 1 else None


def split_single(builder: Builder, call: Call) -> list[Item] | None:
    return [call.value(0)] if len(call.outputs) == 1 else None


def dropout(builder: Builder, call: Call) -> list[Item]:
    """Dropout at inference is its input. UnsupportedError in training mode with a ratio other than 0."""
    x, mode, ratio = call.value(0), call.optional(2), call.optional(1)
    training = mode is not None and (mode.data is None or bool(mode.data))
    if training and not (ratio is not None and ratio.data is not None and float(ratio.data) == 0):
        raise UnsupportedError("Dropout is in training mode", where=call.where, fix=EVAL)
    return [x, *(builder.constant(np.ones(x.shape, np.bool_), wish) for wish in call.outputs[1:])]


def batch_normalization(builder: Builder, call: Call) -> list[Item]:
    """y = x * s + t with s = scale / sqrt(var + epsilon), t = bias - mean * s: a product and a sum, of any opset.

    `fold_affine` then moves them into the layer before. UnsupportedError in training mode.
    """
    if call.attrs.get("training_mode", 0) or any(call.outputs[1:]):
        raise UnsupportedError("BatchNormalization is in training mode", where=call.where, fix=EVAL)
    x, params = call.value(0), [call.value(k) for k in range(1, 5)]
    epsilon = call.attrs.get("epsilon", 1e-5)
    rank = len(x.shape)
    if rank < 1 or any(p.shape != (x.shape[1:2] if call.attrs.get("spatial", 1) else x.shape[1:]) for p in params):
        raise InputError("BatchNormalization's parameters do not fit its input", where=call.where)

    def column(v: Value) -> Value:
        """(C,) -> (C, 1, 1...): one value a channel."""
        shape = (*v.shape, *[1] * (rank - 1 - len(v.shape)))
        if shape == v.shape:
            return v
        target = builder.constant(np.asarray(shape, np.int64), f"{call.name}_shape")
        return builder.emit("Reshape", [v, target], name=f"{call.name}_column")[0]

    scale, bias, mean, var = params
    if all(p.data is not None for p in params):
        c, b, m, v = (np.asarray(p.data, np.float64) for p in params)
        with np.errstate(all="ignore"):
            s = c / np.sqrt(v + epsilon)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(x.dtype)
        scale = builder.constant(s.astype(dtype), f"{call.name}_scale")
        shift = builder.constant((b - m * s).astype(dtype), f"{call.name}_shift")
    else:
        eps = builder.constant(np.asarray(epsilon, onnx.helper.tensor_dtype_to_np_dtype(var.dtype)))
        root, = builder.emit("Sqrt", builder.emit("Add", [var, eps]), name=f"{call.name}_deviation")
        scale, = builder.emit("Div", [scale, root], name=f"{call.name}_scale")
        product, = builder.emit("Mul", [mean, scale], name=f"{call.name}_mean")
        shift, = builder.emit("Sub", [bias, product], name=f"{call.name}_shift")
    y, = builder.emit("Mul", [x, column(scale)], name=call.name)
    return list(builder.emit("Add", [y, column(shift)], outputs=call.outputs[:1], name=f"{call.name}_bias"))


_FORM = ("Reshape", "Expand", "Tile", "Squeeze", "Unsqueeze", "Flatten")

# Rules for operators at OPSET; None: no change.
SIMPLER: dict[str, Callable[[Builder, Call], list[Item] | None]] = {
    **dict.fromkeys(_FORM, same_shape), **dict.fromkeys(("Sum", "Max", "Min", "Mean"), single),
    "Cast": cast, "CastLike": cast_like, "Transpose": transpose, "Slice": slice_all, "Pad": pad_nothing,
    "Concat": concat, "Split": split_single,
}
