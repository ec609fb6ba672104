"""8-bit and other quantised operators, by their definitions: integers are moved and scaled, products are sums of integers."""
from math import prod

from edgekit.exporters.lower.builder import Builder, Node
from edgekit.exporters.lower.matmul import matmul_values
from edgekit.exporters.lower.selection import calc, kept
from edgekit.exporters.lower.values import Value
from edgekit.exporters.lower.windows import conv_by_windows

F = "float32"


def _scaled_shape(x: Value, node: Node, scale: Value) -> tuple[tuple[int, ...], int]:
    """(shape under which scale and zero point meet x, elements a block along `axis`): per tensor, axis or block."""
    rank, axis = len(x.shape), node.attrs.get("axis", 1)
    block = node.attrs.get("block_size", 0)
    if block:
        return scale.shape, block
    if prod(scale.shape) == 1 and len(scale.shape) <= 1:
        return (1,) * rank, 0
    axis %= rank
    return tuple(n if a == axis else 1 for a, n in enumerate(x.shape)), 0


def _spread(b: Builder, node: Node, value: Value, x: Value, shape: tuple[int, ...], block: int) -> Value:
    """A scale or zero point as it meets every element of x."""
    if not block:
        return b.reshaped(value, shape)
    axis = node.attrs.get("axis", 1) % len(x.shape)
    thin = (*shape[:axis + 1], 1, *shape[axis + 1:])
    wide = (*shape[:axis + 1], block, *shape[axis + 1:])
    full = b.reshaped(b.moved(b.reshaped(value, thin), lambda v: v.broadcast(wide)), (*shape[:axis], shape[axis] * block, *shape[axis + 1:]))
    return b.sliced(full, axis, 0, x.shape[axis])


def _cast(b: Builder, x: Value, dtype: str) -> Value:
    return x if x.dtype == dtype else calc(b, "cast", x, dtype=dtype)


def quantize(b: Builder, x: Value, scale: Value, zero: Value | None, dtype: str) -> Value:
    """saturate(round(x / scale) + zero); x and scale are float32."""
    y = calc(b, "round", calc(b, "div", x, scale))
    if zero is not None:
        y = calc(b, "add", y, _cast(b, zero, F))
    return calc(b, "cast", y, dtype=dtype)  # which clamps


def quantize_linear(b: Builder, node: Node) -> None:
    x, scale = b.value(node.input(0)), b.value(node.input(1))
    out = b.dtype(node.output(0))
    shape, block = _scaled_shape(x, node, scale)
    zero = _spread(b, node, b.value(node.input(2)), x, shape, block) if node.input(2) else None
    b.set(node.output(0), quantize(b, _cast(b, x, F), _cast(b, _spread(b, node, scale, x, shape, block), F), zero, out))


def dequantize_linear(b: Builder, node: Node) -> None:
    x, scale = b.value(node.input(0)), b.value(node.input(1))
    shape, block = _scaled_shape(x, node, scale)
    y = _cast(b, x, "int32" if x.dtype != "int32" else x.dtype)
    if node.input(2):
        y = calc(b, "sub", y, _cast(b, _spread(b, node, b.value(node.input(2)), x, shape, block), "int32"))
    y = calc(b, "mul", _cast(b, y, F), _cast(b, _spread(b, node, scale, x, shape, block), F))
    b.set(node.output(0), _cast(b, y, b.dtype(node.output(0))))


def _centred(b: Builder, name: str, zero: str, axis: int) -> Value:
    """An integer tensor less its zero point, as int32. axis: the one that a vector of zero points runs along."""
    x = _cast(b, b.value(name), "int32")
    if not zero:
        return kept(b, x)
    z = _cast(b, b.value(zero), "int32")
    if len(z.shape) == 1:
        size = z.shape[0]
        z = b.reshaped(z, [size if a == axis % len(x.shape) else 1 for a in range(len(x.shape))])
    return kept(b, calc(b, "sub", x, z))


def matmul_integer(b: Builder, node: Node) -> None:
    x, y = _centred(b, node.input(0), node.input(2), -2), _centred(b, node.input(1), node.input(3), -1)
    b.set(node.output(0), _product(b, x, y, b.shape(node.output(0))))


def _product(b: Builder, x: Value, y: Value, shape) -> Value:
    """numpy's matmul of int32."""
    full = tuple(shape)
    if len(x.shape) == 1:
        x, full = b.reshaped(x, (1, *x.shape)), (*full[:-1], 1, *full[-1:])
    if len(y.shape) == 1:
        y, full = b.reshaped(y, (*y.shape, 1)), (*full, 1)
    return b.reshaped(kept(b, matmul_values(b, x, y, full)), shape)


def _requantized(b: Builder, node: Node, sums: Value, scales: tuple[Value, ...], zero: str) -> None:
    """sums * scale_a * scale_b / scale_y, quantised."""
    a, w, y = (_cast(b, s, F) for s in scales)
    ratio = calc(b, "div", calc(b, "mul", a, w), y)
    value = calc(b, "round", calc(b, "mul", calc(b, "cast", sums, dtype=F), ratio))
    b.set(node.output(0), calc(b, "cast", calc(b, "add", value, _cast(b, b.value(zero), F)), dtype=b.dtype(node.output(0))))


def qlinear_matmul(b: Builder, node: Node) -> None:
    a, a_scale, a_zero, w, w_scale, w_zero, y_scale, y_zero = node.inputs
    sums = _product(b, _centred(b, a, a_zero, -2), _centred(b, w, w_zero, -1), b.shape(node.output(0)))

    def facing(name: str, axis: int) -> Value:
        s = b.value(name)
        return b.reshaped(s, (s.shape[0], 1)) if len(s.shape) == 1 and axis == -2 and s.shape[0] > 1 else b.reshaped(s, s.shape or (1,))
    _requantized(b, node, sums, (facing(a_scale, -2), facing(w_scale, -1), b.value(y_scale)), y_zero)


def conv_integer(b: Builder, node: Node) -> None:
    b.set(node.output(0), conv_by_windows(b, node, _centred(b, node.input(0), node.input(2), 1), _centred(b, node.input(1), node.input(3), 0)))


def qlinear_conv(b: Builder, node: Node) -> None:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = node.inputs[:8]
    sums = conv_by_windows(b, node, _centred(b, x, x_zero, 1), _centred(b, w, w_zero, 0))
    per_channel = (1, sums.shape[1], *[1] * (len(sums.shape) - 2))
    if node.input(8):
        sums = calc(b, "add", sums, b.reshaped(b.value(node.input(8)), per_channel))
    ws = b.value(w_scale)
    ws = b.reshaped(ws, per_channel if prod(ws.shape) > 1 else ())
    xs, ys = (b.reshaped(b.value(s), ()) for s in (x_scale, y_scale))
    _requantized(b, node, sums, (xs, ws, ys), y_zero)


OPERATORS = {
    "QuantizeLinear": quantize_linear, "DequantizeLinear": dequantize_linear, "MatMulInteger": matmul_integer,
    "QLinearMatMul": qlinear_matmul, "ConvInteger": conv_integer, "QLinearConv": qlinear_conv,
}
