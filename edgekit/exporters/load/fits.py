"""Whether an operator's operands fit each other, where onnx's inference does not look: else numbers would be made up.

A damaged weight, or an input shape that the model is not for, is found here and named.
"""
from __future__ import annotations

from collections.abc import Callable
from math import prod

from edgekit.errors import InputError
from edgekit.exporters.load.call import Call


def check_fit(call: Call) -> None:
    """InputError unless the operands of a call at OPSET fit."""
    rule = RULES.get(call.op)
    if rule is not None and not rule(call):
        shapes = ", ".join(str(list(v.shape)) for v in call.tensors() if v is not None)
        raise InputError(f"{call.op} does not accept operands of the shapes {shapes}", where=call.where,
                         fix="the model is damaged, or the input shape is not one that it is for")


def _shape(call: Call, index: int) -> tuple[int, ...] | None:
    value = call.optional(index)
    return None if value is None else value.shape


def _spreads(small: tuple[int, ...] | None, large: tuple[int, ...]) -> bool:
    """Whether `small` broadcasts to `large` without changing it."""
    return small is None or (len(small) <= len(large)
                             and all(a in (1, b) for a, b in zip(small[::-1], large[::-1])))


def _conv(call: Call) -> bool:
    x, w, group = call.value(0).shape, call.value(1).shape, call.attrs.get("group", 1)
    if len(x) < 3 or len(w) != len(x) or group < 1 or w[0] % group:
        return False
    return x[1] == w[1] * group and _shape(call, 2) in (None, (w[0],))


def _conv_transpose(call: Call) -> bool:
    x, w, group = call.value(0).shape, call.value(1).shape, call.attrs.get("group", 1)
    if len(x) < 3 or len(w) != len(x) or group < 1 or w[0] % group:
        return False
    return x[1] == w[0] and _shape(call, 2) in (None, (w[1] * group,))


def _gemm(call: Call) -> bool:
    a, b = call.value(0).shape, call.value(1).shape
    if len(a) != 2 or len(b) != 2:
        return False
    a, b = a[::-1] if call.attrs.get("transA", 0) else a, b[::-1] if call.attrs.get("transB", 0) else b
    return a[1] == b[0] and _spreads(_shape(call, 2), (a[0], b[1]))


def _recurrent(call: Call) -> bool:
    """X (T, N, I), W (D, G*H, I), R (D, G*H, H), B (D, 2*G*H), lengths (N,), states (D, N, H), peepholes (D, 3*H)."""
    gates, hidden = {"LSTM": 4, "GRU": 3, "RNN": 1}[call.op], call.attrs.get("hidden_size")
    x, w, r = (call.value(k).shape for k in range(3))
    if len(x) != 3 or len(w) != 3 or len(r) != 3:
        return False
    hidden = r[2] if hidden is None else hidden
    directions = 2 if call.attrs.get("direction") == "bidirectional" else 1
    first = call.attrs.get("layout", 0)
    batch = x[0] if first else x[1]
    state = (batch, directions, hidden) if first else (directions, batch, hidden)
    return (w == (directions, gates * hidden, x[2]) and r == (directions, gates * hidden, hidden)
            and _shape(call, 3) in (None, (directions, 2 * gates * hidden)) and _shape(call, 4) in (None, (batch,))
            and all(_shape(call, k) in (None, state) for k in ((5, 6) if call.op == "LSTM" else (5,)))
            and (call.op != "LSTM" or _shape(call, 7) in (None, (directions, 3 * hidden))))


def _layer_norm(call: Call) -> bool:
    x, axis = call.value(0).shape, call.attrs.get("axis", -1)
    axis += len(x) if axis < 0 else 0
    return 0 <= axis < len(x) and all(_spreads(_shape(call, k), x) for k in (1, 2))


def _per_channel(call: Call) -> bool:
    x = call.value(0).shape
    return len(x) >= 2 and call.value(1).shape == call.value(2).shape == x[1:2]


def _prelu(call: Call) -> bool:
    return _spreads(call.value(1).shape, call.value(0).shape)


def _einsum(call: Call) -> bool:
    """Every letter has one length (or 1)."""
    terms = call.attrs.get("equation", "").replace(" ", "").split("->")[0].split(",")
    if len(terms) != len(call.inputs):
        return False
    lengths: dict[str, int] = {}
    for k, term in enumerate(terms):
        shape = call.value(k).shape
        if "..." in term:           # the ellipsis broadcasts; the letters around it are counted from both ends
            left, right = term.split("...", 1)
            if len(left) + len(right) > len(shape):
                return False
            pairs = [*zip(left, shape), *zip(right[::-1], shape[::-1])]
        elif len(term) != len(shape):
            return False
        else:
            pairs = [*zip(term, shape)]
        for letter, length in pairs:
            if length != 1 and lengths.setdefault(letter, length) != length:
                return False
    return True


def _gather(call: Call) -> bool:
    """Constant indices lie in range."""
    x, index, axis = call.value(0).shape, call.value(1).data, call.attrs.get("axis", 0)
    if not -len(x) <= axis < len(x):
        return False
    return index is None or not index.size or bool(-x[axis] <= index.min() and index.max() < x[axis])


def _reshape(call: Call) -> bool:
    """A constant target without -1 holds as many elements (0 copies a length unless allowzero)."""
    x, target = call.value(0).shape, call.value(1).data
    if target is None or (target < 0).any() or target.ndim != 1:
        return True
    zero = call.attrs.get("allowzero", 0)
    if not zero and any(n == 0 and k >= len(x) for k, n in enumerate(target)):
        return False
    return prod(x) == prod(int(n) if n or zero else x[k] for k, n in enumerate(target))


RULES: dict[str, Callable[[Call], bool]] = {
    "Conv": _conv, "ConvTranspose": _conv_transpose, "Gemm": _gemm, "LSTM": _recurrent, "GRU": _recurrent,
    "RNN": _recurrent, "LayerNormalization": _layer_norm, "InstanceNormalization": _per_channel,
    "GroupNormalization": _per_channel, "PRelu": _prelu, "Einsum": _einsum, "Gather": _gather, "Reshape": _reshape,
}
