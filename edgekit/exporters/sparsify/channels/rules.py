"""How labels go through each operator. A rule gives the labels of the node's outputs, or None to keep all that it reads."""
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from edgekit.exporters.sparsify.channels.coupling import Axes, Graph

UNARY = {"Relu", "Sigmoid", "Tanh", "Clip", "LeakyRelu", "Elu", "Gelu", "HardSigmoid", "HardSwish", "Erf", "Sqrt", "Exp",
         "Log", "Neg", "Abs", "Identity", "Cast", "Softplus", "Softsign", "Mish", "Selu", "Celu", "ThresholdedRelu", "Sin",
         "Cos", "Floor", "Ceil", "Round", "Reciprocal", "Sign", "Not", "Swish", "Dropout"}
BROADCAST = {"Add", "Sub", "Mul", "Div", "Min", "Max", "Sum", "Mean", "Pow", "PRelu", "Where", "Equal", "Less", "Greater",
             "LessOrEqual", "GreaterOrEqual", "And", "Or"}
POOLS = {"MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"}
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
Outputs = list[Axes] | None


def label_outputs(g: Graph, number: int, node: Any) -> Outputs:
    """Labels of the outputs of node `number`."""
    if node.op_type in UNARY:
        return [list(g.axes(node.input[0]))] if len(node.output) == 1 else None
    rule = RULES.get(node.op_type)
    return rule(g, number, node) if rule else None


def attribute(node: Any, name: str, default: Any = None) -> Any:
    for a in node.attribute:
        if a.name == name:
            return {1: a.f, 2: a.i, 3: a.s, 7: list(a.ints)}.get(a.type, default)
    return default


def broadcast(g: Graph, number: int, node: Any) -> Outputs:
    return [_united(g, [g.axes(n) for n in node.input if n])]


def _united(g: Graph, operands: list[Axes]) -> Axes:
    """The axes of operands that broadcast against each other, from the last one."""
    out: Axes = []
    for back in range(1, max(map(len, operands)) + 1):
        there = [o[-back] for o in operands if len(o) >= back]
        wide = [a for a in there if len(a) != 1] or there[:1]
        for other in wide[1:]:
            g.labels.unite(wide[0], other)
        out.insert(0, wide[0])
    return out


def conv(g: Graph, number: int, node: Any) -> Outputs:
    """Convolutions of either direction: W (outputs, inputs / group, *kernel), transposed (inputs, outputs / group, *kernel)."""
    x, w, turned = g.axes(node.input[0]), g.axes(node.input[1]), node.op_type == "ConvTranspose"
    groups = attribute(node, "group", 1)
    if node.input[1] not in g.constants:
        return None
    g.keep_axes(node.input[0], range(2, len(x)))
    g.keep_axes(node.input[1], range(2, len(w)))
    inputs, outputs = (w[0], w[1]) if turned else (w[1], w[0])
    if groups == 1:
        g.labels.unite(inputs, x[1])
        g.sums.append((number, 0, 1))
        made = outputs
    elif groups == len(x[1]) and not turned and len(w[1]) == 1:
        made = np.repeat(x[1], len(outputs) // groups)
        g.labels.unite(outputs, made)
    else:
        return None
    if len(node.input) > 2 and node.input[2]:
        g.labels.unite(g.axes(node.input[2])[0], made)
    return [[x[0], made, *(np.zeros(n, int) for n in g.shapes[node.output[0]][2:])]]


def gemm(g: Graph, number: int, node: Any) -> Outputs:
    a, b = g.axes(node.input[0]), g.axes(node.input[1])
    k = 0 if attribute(node, "transA", 0) else 1
    (m, inner), (n, other) = (a[1 - k], a[k]), (b if attribute(node, "transB", 0) else b[::-1])
    g.labels.unite(inner, other)
    g.sums.append((number, 0, k))
    return [_united(g, [[m, n], *([g.axes(node.input[2])] if len(node.input) > 2 and node.input[2] else [])])]


def matmul(g: Graph, number: int, node: Any) -> Outputs:
    a, b = g.axes(node.input[0]), g.axes(node.input[1])
    if min(len(a), len(b)) < 2:
        return None
    g.labels.unite(a[-1], b[-2])
    g.sums.append((number, 0, len(a) - 1))
    batch = _united(g, [a[:-2], b[:-2]]) if max(len(a), len(b)) > 2 else []
    return [[*batch, a[-2], b[-1]]]


def einsum(g: Graph, number: int, node: Any) -> Outputs:
    left, arrow, right = attribute(node, "equation", b"").decode().replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow or "." in left or any(len(set(t)) < len(t) for t in (*terms, right)):
        return None
    by_letter: dict[str, np.ndarray] = {}
    for operand, (name, term) in enumerate(zip(node.input, terms, strict=True)):
        for axis, (letter, labels) in enumerate(zip(term, g.axes(name), strict=True)):
            if letter not in by_letter:
                by_letter[letter] = labels
                if letter not in right:
                    g.sums.append((number, operand, axis))
            elif len(labels) != len(by_letter[letter]):
                return None
            g.labels.unite(by_letter[letter], labels)
    return [[by_letter[letter] for letter in right]]


def pool(g: Graph, number: int, node: Any) -> Outputs:
    x = g.axes(node.input[0])
    if len([o for o in node.output if o]) > 1:
        return None
    g.keep_axes(node.input[0], range(2, len(x)))
    return [[x[0], x[1], *(np.zeros(n, int) for n in g.shapes[node.output[0]][2:])]]


def norm(g: Graph, number: int, node: Any) -> Outputs:
    """Batch and instance normalisation: constants for each channel of axis 1."""
    x = g.axes(node.input[0])
    if len([o for o in node.output if o]) > 1 or any(i not in g.constants for i in node.input[1:]):
        return None
    if node.op_type == "InstanceNormalization":
        g.keep_axes(node.input[0], range(2, len(x)))
    for name in node.input[1:]:
        g.labels.unite(g.axes(name)[0], x[1])
    return [list(x)]


def layer_norm(g: Graph, number: int, node: Any) -> Outputs:
    """Over the last axis: mean and deviation become those of the channels that stay."""
    x = g.axes(node.input[0])
    if attribute(node, "axis", -1) not in (-1, len(x) - 1) or len([o for o in node.output if o]) > 1:
        return None
    for name in node.input[1:]:
        if name and (name not in g.constants or len(g.axes(name)) != 1):
            return None
        if name:
            g.labels.unite(g.axes(name)[0], x[-1])
    return [list(x)]


def softmax(g: Graph, number: int, node: Any) -> Outputs:
    x = g.axes(node.input[0])
    if g.opset < 13:  # it flattened axes then
        return None
    g.keep_axes(node.input[0], [attribute(node, "axis", -1)])
    return [list(x)]


def concat(g: Graph, number: int, node: Any) -> Outputs:
    parts = [g.axes(n) for n in node.input]
    axis = attribute(node, "axis", 0) % len(parts[0])
    for other in parts[1:]:
        for k in range(len(other)):
            if k != axis:
                g.labels.unite(parts[0][k], other[k])
    return [[np.concatenate([p[k] for p in parts]) if k == axis else parts[0][k] for k in range(len(parts[0]))]]


def split(g: Graph, number: int, node: Any) -> Outputs:
    x = g.axes(node.input[0])
    axis = attribute(node, "axis", 0) % len(x)
    ends = np.cumsum([g.shapes[o][axis] if o in g.shapes else 0 for o in node.output])
    if any(not o or o not in g.shapes for o in node.output) or ends[-1] != len(x[axis]):
        return None
    return [[part if k == axis else a for k, a in enumerate(x)] for part in np.split(x[axis], ends[:-1])]


def slices(g: Graph, node: Any) -> list[tuple[int, int, int, int]] | None:
    """(axis, start, end, step) of a Slice with constant operands, in range."""
    x = g.axes(node.input[0])
    starts, ends = g.ints(node, 1), g.ints(node, 2)
    if starts is None or ends is None:
        return None
    axes, steps = g.ints(node, 3), g.ints(node, 4)
    if (axes is None and len(node.input) > 3 and node.input[3]) or (steps is None and len(node.input) > 4 and node.input[4]):
        return None
    found = []
    for s, e, a, step in zip(starts, ends, axes or range(len(starts)), steps or [1] * len(starts)):
        a %= len(x)
        found.append((a, *slice(s, e, step).indices(len(x[a]))))
    return found


def take_slice(g: Graph, number: int, node: Any) -> Outputs:
    parts = slices(g, node)
    if parts is None:
        return None
    out = list(g.axes(node.input[0]))
    for axis, start, end, step in parts:
        if step != 1:
            g.labels.keep(out[axis])
            out[axis] = np.zeros(g.shapes[node.output[0]][axis], int)
        else:
            out[axis] = out[axis][start:end]
    return [out]


def gather(g: Graph, number: int, node: Any) -> Outputs:
    x = g.axes(node.input[0])
    axis = attribute(node, "axis", 0) % len(x)
    index = g.constants.get(node.input[1])
    if index is None or index.ndim > 1:
        g.labels.keep(x[axis])
        inner = g.axes(node.input[1])
        g.keep(node.input[1])
        return [[*x[:axis], *inner, *x[axis + 1:]]]
    if index.ndim == 0:
        g.labels.keep(x[axis])
        return [[*x[:axis], *x[axis + 1:]]]
    return [[*x[:axis], x[axis][index.astype(int) % len(x[axis])], *x[axis + 1:]]]


def transpose(g: Graph, number: int, node: Any) -> Outputs:
    x = g.axes(node.input[0])
    return [[x[k] for k in attribute(node, "perm", list(range(len(x)))[::-1])]]


def reshape(g: Graph, number: int, node: Any) -> Outputs:
    """Blocks of axes that hold the same numbers on both sides: one axis may be spread over several, or several become one.

    Of several that become one, one may lose indices, all positions of the others with it. Where an axis is spread, its
    last part may (of attention heads, a feature of all of them at once), unless what it came from says another one.
    """
    x, shape = g.axes(node.input[0]), g.shapes.get(node.output[0])
    if shape is None or 0 in shape or math.prod(shape) != math.prod(map(len, x)):
        return None
    out: Axes = []
    i = j = 0
    while i < len(x) or j < len(shape):
        before, after = i, j
        i, j = min(i + 1, len(x)), min(j + 1, len(shape))
        while math.prod(map(len, x[before:i])) != math.prod(shape[after:j]):
            if math.prod(map(len, x[before:i])) < math.prod(shape[after:j]):
                i += 1
            else:
                j += 1
        out += _spread(g, _merged(g, x[before:i]), shape[after:j])
    return [out]


def _merged(g: Graph, axes: Axes) -> np.ndarray:
    """Axes as one: at most one of them can lose indices, the first that may."""
    free = [k for k, a in enumerate(axes) if g.labels.roots(a).any()]
    for k in free[1:]:
        g.labels.keep(axes[k])
    sizes = [len(a) for a in axes]
    if not free:
        return np.zeros(math.prod(sizes), int)
    place = np.unravel_index(np.arange(math.prod(sizes)), sizes)[free[0]]
    return axes[free[0]][place]


def _spread(g: Graph, labels: np.ndarray, shape: tuple[int, ...]) -> Axes:
    cube = labels.reshape(shape)
    out: Axes = [np.zeros(n, int) for n in shape]
    wide = [k for k, n in enumerate(shape) if n > 1]
    if not labels.size or not wide or not g.labels.roots(labels).any():
        return out
    roots = g.labels.roots(labels).reshape(shape)

    def follows(k: int) -> bool:
        """Whether the labels depend on this axis alone."""
        rows = np.moveaxis(roots, k, 0).reshape(shape[k], -1)
        return bool((rows == rows[:, :1]).all())
    own = next((k for k in wide if follows(k)), wide[-1])
    rows = np.moveaxis(cube, own, 0).reshape(shape[own], -1)
    for k in range(1, rows.shape[1]):
        g.labels.unite(rows[:, 0], rows[:, k])
    out[own] = rows[:, 0]
    return out


def expand(g: Graph, number: int, node: Any) -> Outputs:
    x, shape = g.axes(node.input[0]), g.shapes.get(node.output[0])
    if shape is None or g.ints(node, 1) is None:
        return None
    return [_united(g, [list(x), [np.zeros(1 if k < len(shape) - len(x) or n == len(x[k - len(shape)]) else n, int)
                                  for k, n in enumerate(shape)]])]


def tile(g: Graph, number: int, node: Any) -> Outputs:
    repeats = g.ints(node, 1)
    return None if repeats is None else [[np.tile(a, n) for a, n in zip(g.axes(node.input[0]), repeats, strict=True)]]


def pad(g: Graph, number: int, node: Any) -> Outputs:
    x, pads = g.axes(node.input[0]), g.ints(node, 1)
    if pads is None or len(pads) != 2 * len(x) or min(pads) < 0:
        return None
    out = []
    for k, a in enumerate(x):
        before, after = pads[k], pads[k + len(x)]
        if (before or after) and attribute(node, "mode", b"constant") != b"constant":
            g.labels.keep(a)
        out.append(np.pad(a, (before, after)))
    return [out]


def resize(g: Graph, number: int, node: Any) -> Outputs:
    x, shape = g.axes(node.input[0]), g.shapes.get(node.output[0])
    if shape is None or attribute(node, "axes") or attribute(node, "coordinate_transformation_mode") == b"tf_crop_and_resize":
        return None
    if any(i and i not in g.constants for i in node.input[1:]):
        return None
    changed = [k for k, n in enumerate(shape) if n != len(x[k])]
    g.keep_axes(node.input[0], changed)
    return [[np.zeros(n, int) if k in changed else x[k] for k, n in enumerate(shape)]]


def reduce(g: Graph, number: int, node: Any) -> Outputs:
    """A sum over channels leaves the removed ones out; a mean, maximum and the like keeps them."""
    x = g.axes(node.input[0])
    axes = attribute(node, "axes") or g.ints(node, 1)
    if axes is None:
        if len(node.input) > 1 and node.input[1]:
            return None
        axes = [] if attribute(node, "noop_with_empty_axes", 0) else list(range(len(x)))
    axes = [a % len(x) for a in axes]
    if node.op_type == "ReduceSum":
        g.sums += [(number, 0, a) for a in axes]
    else:
        g.keep_axes(node.input[0], axes)
    if attribute(node, "keepdims", 1):
        return [[np.zeros(1, int) if k in axes else a for k, a in enumerate(x)]]
    return [[a for k, a in enumerate(x) if k not in axes]]


def recurrent(g: Graph, number: int, node: Any) -> Outputs:
    """W (1, gates * hidden, inputs), R (1, gates * hidden, hidden), B, initial states and peepholes by hidden unit."""
    operands = [*node.input, *[""] * (8 - len(node.input))]
    x, (w, r) = g.axes(operands[0]), (g.axes(operands[k]) for k in (1, 2))
    if any(operands[k] not in g.constants for k in (1, 2)) or len(w[0]) != 1 or attribute(node, "layout", 0) or operands[1] == operands[2]:
        return None
    g.labels.unite(w[2], x[2])
    g.sums.append((number, 0, 2))
    g.columns.append((operands[2], 2))
    hidden = r[2]
    for name, axis, times in ((operands[1], 1, GATES[node.op_type]), (operands[2], 1, GATES[node.op_type]),
                              (operands[3], 1, 2 * GATES[node.op_type]), (operands[5], 2, 1), (operands[6], 2, 1), (operands[7], 1, 3)):
        if name:
            g.labels.unite(g.axes(name)[axis], np.tile(hidden, times))
    if operands[4]:
        g.keep(operands[4])
    one, batch = np.zeros(1, int), x[1]
    return [[x[0], one, batch, hidden], [one, batch, hidden], [one, batch, hidden]][:len(node.output)]


RULES: dict[str, Callable[[Graph, int, Any], Outputs]] = {
    **dict.fromkeys(BROADCAST, broadcast), **dict.fromkeys(POOLS, pool), **dict.fromkeys(GATES, recurrent),
    "Conv": conv, "ConvTranspose": conv, "Gemm": gemm, "MatMul": matmul, "Einsum": einsum, "BatchNormalization": norm,
    "InstanceNormalization": norm, "LayerNormalization": layer_norm, "Softmax": softmax, "LogSoftmax": softmax,
    "Concat": concat, "Split": split, "Slice": take_slice, "Gather": gather, "Transpose": transpose, "Expand": expand,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), reshape), "Tile": tile, "Pad": pad, "Resize": resize,
    **dict.fromkeys(("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2"), reduce)}
