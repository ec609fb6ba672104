"""Networks of random layers, on which the cost of kernels is measured: sizes, sparsities and neighbours that no trained
network has in particular, so that what is found holds between them."""
from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import numpy as np

LEVELS = (0.0, 0.0, 0.3, 0.5, 0.7, 0.9)
UNSTRUCTURED = 0.06  # share of the layers whose zeros have no pattern
PERMUTED = 0.5       # of the others: groups that are no neighbours, as clustering makes them


def samples(count: int, seed: int = 0) -> Iterator[tuple[str, Any]]:
    """(name, ONNX model), the families in turn; the first ones are the same whatever `count` is."""
    for number in range(count):
        family = FAMILIES[number % len(FAMILIES)]
        yield f"{family.__name__}-{number}", family(_Sketch(np.random.default_rng([seed, number])))


def masked(weights: np.ndarray, v: int, kept: int, random: np.random.Generator, permute: bool) -> np.ndarray:
    """weights (outputs, inputs) where groups of v outputs keep `kept` inputs each, drawn at random: neighbours, or (permute)
    outputs from anywhere."""
    outputs, inputs = weights.shape
    drawn = np.argsort(random.random((-(-outputs // v), inputs), np.float32), axis=1)
    keep = np.zeros(drawn.shape, bool)
    np.put_along_axis(keep, drawn[:, :kept], True, axis=1)
    rows = np.repeat(keep, v, axis=0)[:outputs]
    return np.where(random.permutation(rows) if permute else rows, weights, np.zeros((), weights.dtype))


class _Sketch:
    """A graph while it grows: `add` appends a node and follows the shape of its result."""

    def __init__(self, random: np.random.Generator):
        self.random = random
        self.orders = random.spawn(1)[0]
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs: list[Any] = []
        self.shapes: dict[str, tuple[int, ...]] = {}

    def model(self, *outputs: str) -> Any:
        from onnx import TensorProto, helper
        made = [helper.make_tensor_value_info(n, TensorProto.FLOAT, self.shapes[n]) for n in outputs]
        graph = helper.make_graph(self.nodes, "sample", self.inputs, made, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)

    def given(self, *shape: int) -> str:
        from onnx import TensorProto, helper
        name = f"x{len(self.inputs)}"
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        self.shapes[name] = shape
        return name

    def constant(self, array: np.ndarray) -> str:
        from onnx import numpy_helper
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def add(self, op: str, inputs: list[str], shape: tuple[int, ...], **attributes: Any) -> str:
        from onnx import helper
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"{op}_{len(self.nodes)}", **attributes))
        self.shapes[name] = shape
        return name

    # -- choices -----------------------------------------------------------------------------------------------------

    def pick(self, *some: Any) -> Any:
        return some[int(self.random.integers(len(some)))]

    def chance(self, share: float) -> bool:
        return bool(self.random.random() < share)

    def size(self, low: float, high: float, unit: int = 1) -> int:
        """Between the two, evenly by its logarithm, rounded to `unit`."""
        return max(unit, round(float(np.exp(self.random.uniform(np.log(low), np.log(high)))) / unit) * unit)

    def width(self, low: float, high: float) -> int:
        """A number of channels: most often a multiple of 8 or 16."""
        return self.size(low, high, self.pick(1, 8, 16, 16, 32))

    def weights(self, outputs: int, inputs: int, sizes: tuple[int, ...], dense: bool = False) -> np.ndarray:
        """(outputs, inputs) with the zeros of some level, in groups of one of `sizes` or without a pattern."""
        w = (self.random.standard_normal((outputs, inputs)) / np.sqrt(inputs)).astype(np.float32)
        level = 0.0 if dense else self.pick(*LEVELS)
        if not level:
            return w
        if self.chance(UNSTRUCTURED):
            return np.where(self.random.random(w.shape) < self.pick(0.8, 0.9, 0.95), np.float32(0), w)
        v, permute = self.pick(*sizes), bool(self.orders.random() < PERMUTED)
        return masked(w, v, max(1, round(inputs * (1 - level))), self.orders if permute else self.random, permute)

    # -- layers ------------------------------------------------------------------------------------------------------

    def activated(self, x: str, *names: str) -> str:
        op = self.pick(*names)
        return self.add(op, [x], self.shapes[x]) if op else x

    def conv(self, x: str, outputs: int, kernel: tuple[int, int], stride: int = 1, group: int = 1) -> str:
        _, inputs, *size = self.shapes[x]
        w = self.weights(outputs, inputs // group * prod(kernel), (4, 8, 8, 16), dense=group > 1)
        out = [(n + 2 * (k // 2) - k) // stride + 1 for n, k in zip(size, kernel, strict=True)]
        arrays = [self.constant(w.reshape(outputs, inputs // group, *kernel)), self.constant(self.small(outputs))]
        return self.add("Conv", [x, *arrays], (1, outputs, *out), kernel_shape=kernel, strides=[stride] * 2, group=group,
                        pads=[k // 2 for k in kernel] * 2)

    def linear(self, x: str, outputs: int) -> str:
        *rows, inputs = self.shapes[x]
        w = self.constant(self.weights(outputs, inputs, (8, 16, 16, 32)).T.copy())
        if len(rows) == 1:
            return self.add("Gemm", [x, w, self.constant(self.small(outputs))], (*rows, outputs))
        y = self.add("MatMul", [x, w], (*rows, outputs))
        return self.add("Add", [y, self.constant(self.small(outputs))], (*rows, outputs))

    def small(self, *shape: int) -> np.ndarray:
        return (self.random.standard_normal(shape) / 8).astype(np.float32)

    def norm(self, x: str) -> str:
        width = self.shapes[x][-1]
        return self.add("LayerNormalization", [x, self.constant(1 + self.small(width)), self.constant(self.small(width))], self.shapes[x], axis=-1)

    def moved(self, x: str, *order: int) -> str:
        return self.add("Transpose", [x], tuple(self.shapes[x][a] for a in order), perm=order)

    def shaped(self, x: str, *shape: int) -> str:
        return self.add("Reshape", [x, self.constant(np.array(shape, np.int64))], shape)


# --- families ------------------------------------------------------------------------------------------------------------

_IMAGE = ("Relu", "Relu", "Relu", "Sigmoid", "HardSwish", "")


def _image(s: _Sketch) -> Any:
    """Convolutions of all kinds, residual and concatenated, from a large image to a small one."""
    x = s.given(1, s.pick(1, 3, 3, 16), s.size(12, 176), s.size(12, 224))
    x = s.activated(s.conv(x, s.width(8, 64), (s.pick(3, 3, 5, 7),) * 2, s.pick(1, 2)), "Relu", "HardSwish")
    for _ in range(s.pick(5, 7, 9)):
        _, channels, *extent = s.shapes[x]
        area, kind = prod(extent), s.pick("wide", "square", "square", "separable", "inverted", "residual", "fire", "odd")
        stride = s.pick(1, 1, 2) if min(extent) >= 6 else 1
        most = min(768.0, max(16.0, 24e6 / area / channels))  # so that no layer takes long
        if kind == "wide":
            x = s.activated(s.conv(x, s.width(8, most), (1, 1)), *_IMAGE)
        elif kind == "square":
            x = s.activated(s.conv(x, s.width(8, max(12.0, most / 4)), (3, 3), stride), *_IMAGE)
        elif kind == "odd":
            x = s.activated(s.conv(x, s.width(8, max(12.0, most / 8)), s.pick((5, 5), (1, 7), (7, 1), (5, 3)), stride), *_IMAGE)
        elif kind == "separable":
            x = s.activated(s.conv(x, channels, (s.pick(3, 3, 5),) * 2, stride, channels), *_IMAGE)
            x = s.activated(s.conv(x, s.width(8, most), (1, 1)), *_IMAGE)
        elif kind == "inverted":
            y = s.activated(s.conv(x, max(8, min(4 * channels, int(most)) // 8 * 8), (1, 1)), *_IMAGE)
            y = s.activated(s.conv(y, s.shapes[y][1], (3, 3), 1, s.shapes[y][1]), *_IMAGE)
            x = s.add("Add", [s.conv(y, channels, (1, 1)), x], s.shapes[x])
        elif kind == "residual" and channels <= most:
            y = s.activated(s.conv(x, channels, (3, 3) if channels <= most / 4 else (1, 1)), "Relu")
            x = s.activated(s.add("Add", [s.conv(y, channels, (1, 1)), x], s.shapes[x]), "Relu", "")
        elif kind == "fire":
            y = s.activated(s.conv(x, s.width(8, max(12.0, most / 4)), (1, 1)), "Relu")
            parts = [s.activated(s.conv(y, s.width(8, max(12.0, most / 4)), (k, k)), "Relu") for k in (1, 3)]
            x = s.add("Concat", parts, (1, sum(s.shapes[p][1] for p in parts), *extent), axis=1)
        if min(s.shapes[x][2:]) >= 6 and s.chance(0.2):
            pooled = tuple((n - 2) // 2 + 1 for n in s.shapes[x][2:])
            x = s.add(s.pick("MaxPool", "AveragePool"), [x], (*s.shapes[x][:2], *pooled), kernel_shape=[2, 2], strides=[2, 2])
    channels = s.shapes[x][1]
    x = s.shaped(s.add("GlobalAveragePool", [x], (1, channels, 1, 1)), 1, channels)
    return s.model(s.linear(x, s.width(4, 1000)))


def _policy(s: _Sketch) -> Any:
    """Linear layers on one row or a few."""
    x = s.given(s.pick(1, 1, 1, 2, 4, 9, 32), s.size(4, 600))
    for _ in range(s.pick(4, 6, 8)):
        x = s.activated(s.linear(x, s.width(8, s.pick(96, 512, 1536))), "Relu", "Tanh", "Tanh", "Elu", "Sigmoid", "")
    return s.model(s.add("Tanh", [s.linear(x, s.size(1, 16))], (s.shapes[x][0], s.shapes[s.nodes[-1].output[0]][1])))


def _large(s: _Sketch) -> Any:
    """More weights than caches hold."""
    x = s.given(s.pick(1, 1, 3), s.width(1024, 4096))
    for _ in range(4):
        x = s.activated(s.linear(x, s.width(1024, 4096)), "Relu", "Tanh")
    return s.model(s.linear(x, 64))


def _tokens(s: _Sketch) -> Any:
    """Transformer blocks over a batch of token rows."""
    heads, batch, tokens = s.pick(2, 4, 8, 16), s.pick(1, 1, 2, 7), s.pick(s.size(4, 16), s.size(16, 64), s.size(16, 64), s.size(64, 160))
    width = heads * s.pick(8, 16, 32, 64)
    if batch * tokens * width ** 2 > 16e6:  # so that no layer takes long
        batch, width = 1, heads * 16
    x = s.linear(s.given(batch, tokens, s.size(8, 64)), width)
    for _ in range(2):
        y = s.norm(x) if s.chance(0.5) else x
        q, k, v = (s.moved(s.shaped(s.linear(y, width), batch, tokens, heads, width // heads), *order)
                   for order in ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3)))
        scores = s.add("Mul", [s.add("MatMul", [q, k], (batch, heads, tokens, tokens)), s.constant(np.full(1, 0.25, np.float32))], (batch, heads, tokens, tokens))
        mixed = s.add("MatMul", [s.add("Softmax", [scores], s.shapes[scores], axis=-1), v], s.shapes[v])
        x = s.norm(s.add("Add", [s.linear(s.shaped(s.moved(mixed, 0, 2, 1, 3), batch, tokens, width), width), x], s.shapes[x]))
        inner = s.linear(x, s.width(width, 4 * width))
        inner = s.add("Gelu", [inner], s.shapes[inner]) if s.chance(0.7) else s.add("Relu", [inner], s.shapes[inner])
        x = s.norm(s.add("Add", [s.linear(inner, width), x], s.shapes[x]))
    flat = s.shaped(x, batch, tokens * width)
    return s.model(s.linear(flat, s.size(4, 96)) if tokens * width < 40000 else x)


def _sequence(s: _Sketch) -> Any:
    """Recurrent layers over sequences or single steps."""
    steps, batch = s.pick(1, 1, s.size(4, 96)), s.pick(1, 1, 2, 6)
    x = s.given(steps, batch, s.size(2, 128))
    for _ in range(4):
        cell, hidden = s.pick("LSTM", "GRU"), s.width(16, 320)
        gates = {"LSTM": 4, "GRU": 3}[cell]
        w, r = (s.weights(gates * hidden, n, (8, 16, 16, 32))[None] for n in (s.shapes[x][2], hidden))
        given = [x, s.constant(w), s.constant(r), s.constant(s.small(1, 2 * gates * hidden))]
        more = {"linear_before_reset": 1} if cell == "GRU" and s.chance(0.7) else {}
        y = s.add(cell, given, (steps, 1, batch, hidden), hidden_size=hidden, **more)
        x = s.add("Squeeze", [y, s.constant(np.array([1], np.int64))], (steps, batch, hidden))
    return s.model(s.activated(s.linear(s.shaped(x, steps * batch, s.shapes[x][2]), s.size(2, 64)), "Tanh", "Relu"))


def _graph(s: _Sketch) -> Any:
    """A fixed adjacency over nodes with features; gates written out, sums, products, exponentials over whole tensors."""
    nodes, features = s.size(8, 220), s.size(2, 48)
    x = s.linear(s.given(nodes, features), s.width(8, 96))
    for _ in range(3):
        adjacency = s.random.standard_normal((nodes, nodes)).astype(np.float32) / nodes
        if s.chance(0.6):
            adjacency = np.where(s.random.random(adjacency.shape) < s.pick(0.7, 0.9), np.float32(0), adjacency)
        mixed = s.add("MatMul", [s.constant(adjacency), x], s.shapes[x])
        width = s.width(8, 128)
        a, b = s.linear(mixed, width), s.linear(s.add("Concat", [x, mixed], (nodes, 2 * s.shapes[x][1]), axis=1), width)
        gate, shape = s.add("Sigmoid", [a], (nodes, width)), (nodes, width)
        x = s.add("Add", [s.add("Mul", [gate, s.add("Tanh", [b], shape)], shape), s.add("Exp", [s.add("Neg", [gate], shape)], shape)], shape)
    top = s.add("ReduceMax", [s.moved(x, 1, 0), s.constant(np.array([1], np.int64))], (s.shapes[x][1], 1), keepdims=1)
    y = s.add("Div", [x, s.add("Sqrt", [s.add("Abs", [s.add("Add", [x, x], s.shapes[x])], s.shapes[x])], s.shapes[x])], s.shapes[x])
    chosen = s.random.integers(0, nodes, s.size(4, 300))
    near = s.add("Gather", [x, s.constant(chosen)], (len(chosen), s.shapes[x][1]), axis=0)
    best = s.add("Cast", [s.add("ArgMax", [near], (len(chosen), 1), axis=1, keepdims=1)], (len(chosen), 1), to=1)
    places = np.broadcast_to(chosen[:, None], s.shapes[near])
    spread = s.add("ScatterElements", [x, s.constant(np.ascontiguousarray(places)), near], s.shapes[x], axis=0, reduction="add")
    return s.model(top, s.add("Clip", [s.moved(y, 1, 0)], (s.shapes[x][1], nodes)), best, spread)


def _deep(s: _Sketch) -> Any:
    """Convolutions of many channels over small images: more weights than caches hold."""
    x = s.given(1, s.width(128, 512), *[s.size(5, 28)] * 2)
    for _ in range(9):
        _, channels, height, width = s.shapes[x]
        most = min(1024.0, 150e6 / 9 / (height * width) / channels)
        stride = s.pick(1, 1, 2) if height >= 14 else 1
        x = s.activated(s.conv(x, s.width(max(64.0, most / 2), most), s.pick((3, 3), (3, 3), (1, 1)), stride), "Relu", "")
    channels = s.shapes[x][1]
    return s.model(s.linear(s.shaped(s.add("GlobalAveragePool", [x], (1, channels, 1, 1)), 1, channels), 100))


def _between(s: _Sketch) -> Any:
    """What lies between products: pooling, sums, copies, elementwise functions; attention over tokens, with a mask or without."""
    outputs = []
    x = s.given(1, s.size(16, 128), *[s.size(10, 80)] * 2)
    for _ in range(6):
        _, channels, height, width = shape = s.shapes[x]
        kernel, stride = s.pick((3, 2), (3, 2), (3, 1), (2, 2), (5, 1)) if min(height, width) >= 6 else (1, 1)
        pad = s.pick(0, kernel // 2)
        out = tuple((n + 2 * pad - kernel) // stride + 1 for n in (height, width))
        outputs.append(s.add(s.pick("MaxPool", "MaxPool", "AveragePool"), [x], (1, channels, *out), kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4))
        y = s.add("Mul", [s.add(s.pick("Sigmoid", "Tanh", "HardSwish"), [x], shape), x], shape)
        outputs.append(s.moved(s.add("Add", [y, x], shape), 0, 2, 3, 1) if s.chance(0.5) else s.add("ReduceMean", [y, s.constant(np.array([2, 3]))], (1, channels, 1, 1)))
        x = s.add("Concat", [y, outputs[-2]], (1, 2 * channels, *out), axis=1) if out == (height, width) and channels < 200 else y
    for _ in range(4):
        heads, tokens, depth = s.pick(1, 4, 8, 16), s.size(12, 120), s.pick(8, 16, 32, 64)
        q, k, v = (s.given(1, heads, *extent) for extent in ((tokens, depth), (depth, tokens), (tokens, depth)))
        scores = s.add("Mul", [s.add("MatMul", [q, k], (1, heads, tokens, tokens)), s.constant(np.full(1, 0.25, np.float32))], (1, heads, tokens, tokens))
        if s.chance(0.3):
            scores = s.add("Add", [scores, s.constant(s.small(tokens, tokens))], s.shapes[scores])
        outputs.append(s.add("MatMul", [s.add("Softmax", [scores], s.shapes[scores], axis=-1), v], s.shapes[v]))
    return s.model(*outputs)


_USUAL = (_image, _tokens, _image, _policy, _sequence, _image, _graph, _image, _policy, _image, _sequence, _tokens, _image, _large)
FAMILIES: tuple[Callable[[_Sketch], Any], ...] = (*_USUAL, *_USUAL, _deep, _deep, _deep, _deep, _between, _between)
