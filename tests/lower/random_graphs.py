"""Random ONNX graphs: what any of the common operators may read and how they may follow each other.

`Graph` draws from anything with the methods of `random.Random`, so hypothesis shrinks what it draws and a seed gives the
same graph again. Values stay tame (no long products, no division by what may be zero), and operators that jump (floor,
arg max, comparisons) read only numbers that were moved, never rounded, so that two correct machines agree.
"""
from math import prod

import numpy as np
import onnx

from tests.lower.drawing import SMALL, Drawing, F, Sizes


class Graph(Drawing):
    """A graph that grows by `step`, one or a few nodes of a kind."""

    def step(self) -> None:
        plain = (self.unary, self.binary, self.where, self.transpose, self.reshape, self.slice, self.concat, self.split, self.expand,
                 self.tile, self.pad, self.gather, self.reduce, self.matmul)
        if self.zeros:
            return self.r.choice(plain)()
        self.r.choice(plain + (self.gather_computed, self.softmax, self.norm, self.pool, self.conv, self.conv, self.conv_transpose,
                               self.gemm, self.weights, self.weights_left, self.recurrent, self.order, self.compare, self.scatter))()

    def unary(self) -> None:
        op, attrs = self.r.choice([("Relu", {}), ("Tanh", {}), ("Sigmoid", {}), ("LeakyRelu", {"alpha": 0.2}), ("Abs", {}), ("Neg", {}),
                                   ("Gelu", {}), ("HardSwish", {}), ("Softplus", {}), ("Identity", {}), ("Erf", {}), ("Elu", {}), ("Clip", {})])
        x = self.pick()
        more = [self.constant(F(-0.7)), self.constant(F(1.5))] if op == "Clip" else []
        self.node(op, [x, *more], exact=op in ("Neg", "Identity", "Abs", "Relu", "Clip"), **attrs)

    def binary(self) -> None:
        op = self.r.choice(["Add", "Sub", "Mul", "Min", "Max", "Div", "Sum", "PRelu", "Pow"])
        x = self.pick()
        y = self.partner(self.shapes[x])
        if op == "Pow":
            x = self.node("Tanh", [x])
            y = self.constant(F(self.r.choice([2, 3, 1])))
        elif op == "PRelu":
            y = self.fresh(tuple(1 if self.chance(0.3) else n for n in self.shapes[x])[self.r.randint(0, len(self.shapes[x])):])
        elif op == "Mul":  # one side at most 1, so that products of products stay tame
            y = self.node("Tanh", [y])
        elif op == "Div":
            y = self.node("Add", [self.node("Sigmoid", [y]), self.constant(F(0.5))])
        inputs = [x, y] if op in ("Div", "PRelu", "Pow") or self.chance(0.5) else [y, x]
        if op == "Sum" and self.chance(0.5):
            inputs.append(self.partner(np.broadcast_shapes(self.shapes[x], self.shapes[y])))
        self.node(op, inputs, exact=op in ("Min", "Max"))

    def where(self) -> None:
        x = self.pick()
        y = self.partner(self.shapes[x])
        condition = self.fresh(tuple(1 if self.chance(0.3) else n for n in np.broadcast_shapes(self.shapes[x], self.shapes[y])), bool)
        self.node("Where", [condition, x, y], exact=True)

    def compare(self) -> None:
        x = self.pick(exact=True)
        y = self.fresh(tuple(1 if self.chance(0.3) else n for n in self.shapes[x]))
        self.node("Cast", [self.node(self.r.choice(["Less", "Greater", "LessOrEqual"]), [x, y], exact=True)], exact=True, to=1)

    def transpose(self) -> None:
        x = self.pick()
        rank = len(self.shapes[x])
        self.node("Transpose", [x], exact=True, **({"perm": self.r.sample(range(rank), rank)} if rank and self.chance(0.9) else {}))

    def reshape(self) -> None:
        x = self.pick()
        shape = self.shapes[x]
        kind = self.r.randrange(4)
        ones = [a for a, n in enumerate(shape) if n == 1]
        if kind == 0:
            self.node("Flatten", [x], exact=True, axis=self.r.randint(0, len(shape)))
        elif kind == 1 and ones:
            self.node("Squeeze", [x, self.ints(*self.r.sample(ones, self.r.randint(1, len(ones))))], exact=True)
        elif kind == 2 and len(shape) < 5:
            self.node("Unsqueeze", [x, self.ints(self.r.randint(0, len(shape)))], exact=True)
        else:
            self.node("Reshape", [x, self.ints(*self.factors(prod(shape)))], exact=True, **({"allowzero": 1} if 0 in shape else {}))

    def factors(self, n: int) -> list[int]:
        """A shape of n elements."""
        if n == 0:
            shape = list(self.shape(self.r.randint(0, 3)))
            return shape + [0] if 0 not in shape else shape
        shape = []
        while n > 1 and len(shape) < 4:
            d = self.r.choice([d for d in range(1, n + 1) if n % d == 0])
            shape.append(d)
            n //= d
        shape += [n] if n > 1 or self.chance(0.2) else []
        self.r.shuffle(shape)
        if shape and self.chance(0.3):
            shape[self.r.randrange(len(shape))] = -1
        return shape

    def slice(self) -> None:
        x = self.pick_rank(1)
        shape = self.shapes[x]
        axes = self.r.sample(range(len(shape)), self.r.randint(1, len(shape)))
        starts, ends, steps = [], [], []
        for a in axes:
            n = shape[a]
            lo = self.r.randrange(n) if n else 0
            hi = self.r.randint(lo + 1, n) if n else 0
            step = self.r.choice([1, 1, 2, 3, -1, -1, -2])
            if step > 0:
                starts.append(lo if self.chance(0.7) else lo - n), ends.append(hi if hi < n or self.chance(0.5) else 1 << 40)
            else:
                starts.append(hi - 1 if n else 0), ends.append(lo - 1 if lo else -(1 << 40))
            steps.append(step)
        named = [a if self.chance(0.6) else a - len(shape) for a in axes]
        self.node("Slice", [x, self.ints(*starts), self.ints(*ends), self.ints(*named), self.ints(*steps)], exact=True)

    def concat(self) -> None:
        x = self.pick_rank(1)
        shape = self.shapes[x]
        axis = self.r.randrange(len(shape))
        names = [x]
        for _ in range(self.r.randint(1, 2)):
            def fits(s):
                return len(s) == len(shape) and all(a == b or k == axis for k, (a, b) in enumerate(zip(s, shape)))
            names.append(self.pick(fits, tuple(self.extent() if k == axis else n for k, n in enumerate(shape))))
        self.r.shuffle(names)
        if sum(prod(self.shapes[n]) for n in names) <= self.sizes.largest:
            self.node("Concat", names, exact=True, axis=axis if self.chance(0.6) else axis - len(shape))

    def split(self) -> None:
        x = self.pick_rank(1)
        axis = self.r.randrange(len(self.shapes[x]))
        n = self.shapes[x][axis]
        cuts = sorted(self.r.randint(0, n) for _ in range(self.r.randint(1, 2)))
        sizes = [b - a for a, b in zip([0, *cuts], [*cuts, n])]
        if self.zeros or 0 not in sizes:
            self.node("Split", [x, self.ints(*sizes)], exact=True, outputs=len(sizes), axis=axis)

    def expand(self) -> None:
        x = self.pick()
        shape = [self.r.choice([2, 3]) if n == 1 and self.chance(0.7) else n for n in self.shapes[x]]
        front = [2] * (self.chance(0.3) and len(shape) < 5)
        if prod(shape) * prod(front) <= self.sizes.largest:
            asked = [1 if self.chance(0.2) else n for n in shape]
            self.node("Expand", [x, self.ints(*front, *asked)], exact=True)

    def tile(self) -> None:
        x = self.pick()
        repeats = [self.r.choice([1, 1, 2, 3]) for _ in self.shapes[x]]
        if prod(self.shapes[x]) * prod(repeats) <= self.sizes.largest:
            self.node("Tile", [x, self.ints(*repeats)], exact=True)

    def pad(self) -> None:
        x = self.pick_rank(1)
        shape = self.shapes[x]
        mode = self.r.choice(["constant", "constant", "reflect", "edge"]) if 0 not in shape else "constant"
        before, after = [], []
        for n in shape:
            low = 1 - n if mode == "constant" and self.chance(0.15) else 0
            high = n - 1 if mode == "reflect" else 3
            before.append(self.r.randint(min(low, 0), high) if self.chance(0.5) else 0)
            after.append(self.r.randint(0, high) if self.chance(0.5) else 0)
        if prod(n + a + b for n, a, b in zip(shape, before, after)) <= self.sizes.largest:
            value = [self.fresh(())] if mode == "constant" and self.chance(0.5) else []
            self.node("Pad", [x, self.ints(*before, *after), *value], exact=True, mode=mode)

    def gather(self) -> None:
        x = self.pick(lambda s: len(s) > 0 and 0 not in s, self.shape(3) if not self.zeros else (2, 3))
        shape = self.shapes[x]
        axis, n = self.r.randrange(len(shape)), None
        n = shape[axis]
        index = self.r.choice([(), (1,), (3,), (2, 2)])
        at = self.g.integers(-n, n, index) if self.chance(0.6) else np.asarray(self.r.randrange(n))
        if prod(shape) * 4 <= self.sizes.largest:
            self.node("Gather", [x, self.constant(np.asarray(at, self.r.choice([np.int64, np.int32])))], exact=True, axis=axis)

    def gather_computed(self) -> None:
        x = self.pick_rank(1)
        shape = self.shapes[x]
        axis = self.r.randrange(len(shape))
        if self.chance(0.5):
            index = tuple(n if a == axis and self.chance(0.5) else self.r.randint(1, n) for a, n in enumerate(shape))
            op = "GatherElements"
        else:
            index, op = self.shape(self.r.randint(0, 2)), "Gather"
        if prod(index) * prod(shape) > self.sizes.largest:
            return
        name = self.input(index, np.int64)
        self.feeds[name] = self.g.integers(-shape[axis], shape[axis], index)
        self.node(op, [x, name], exact=True, axis=axis)

    def scatter(self) -> None:
        x = self.pick_rank(1)
        shape = self.shapes[x]
        axis = self.r.randrange(len(shape))
        index = tuple(self.r.randint(1, n) for n in shape)
        kind = self.r.choice(["none", "add", "max"])
        last = np.argsort(self.g.random(tuple(n for n in shape)), axis=axis)  # no index twice
        name = self.constant(last[tuple(slice(0, n) for n in index)].astype(np.int64))
        self.node("ScatterElements", [x, name, self.fresh(index)], axis=axis, reduction=kind)

    def reduce(self) -> None:
        op = self.r.choice(["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp"])
        if self.zeros:
            op = self.r.choice(["ReduceSum", "ReduceL1", "ReduceSumSquare"])
        x = self.pick_rank(0)
        rank = len(self.shapes[x])
        axes = self.r.sample(range(rank), self.r.randint(0, rank))
        named = [a if self.chance(0.6) else a - rank for a in axes]
        y = self.node(op, [x, self.ints(*named)] if axes or self.chance(0.5) else [x], keepdims=self.r.randrange(2),
                      noop_with_empty_axes=self.r.randrange(2))
        if op in ("ReduceSum", "ReduceL1", "ReduceSumSquare") and self.chance(0.7):
            self.node("Tanh", [y])

    def softmax(self) -> None:
        x = self.pick_rank(1)
        rank = len(self.shapes[x])
        self.node(self.r.choice(["Softmax", "Softmax", "LogSoftmax"]), [x], axis=self.r.randrange(-rank, rank))

    def norm(self) -> None:
        op = self.r.choice(["LayerNormalization", "LayerNormalization", "InstanceNormalization", "BatchNormalization"])
        x = self.pick_rank(1 if op == "LayerNormalization" else 2 if op[0] == "B" else 3)
        shape = self.shapes[x]
        if op == "LayerNormalization":
            axis = self.r.randrange(len(shape))
            more = [self.constant(self.numbers(shape[axis:])) for _ in range(self.r.randint(1, 2))]
            self.node(op, [x, *more], axis=axis if self.chance(0.5) else axis - len(shape), epsilon=0.1)
            return
        scale, bias = self.constant(self.numbers(shape[1:2])), self.constant(self.numbers(shape[1:2]))
        if op[0] == "B":
            self.node(op, [x, scale, bias, self.constant(self.numbers(shape[1:2])), self.constant(1 + np.abs(self.numbers(shape[1:2])))])
        else:
            self.node(op, [x, scale, bias], epsilon=0.1)

    def windows(self, extents, dilated: bool = True) -> dict | None:
        """Attributes of a window that fits, and its kernel."""
        r = len(extents)
        kernel, strides = [self.r.choice([1, 2, 3, 3]) for _ in range(r)], [self.r.choice([1, 1, 2, 3]) for _ in range(r)]
        dilations = [self.r.choice([1, 1, 2]) if dilated else 1 for _ in range(r)]
        attrs: dict = {"kernel_shape": kernel, "strides": strides, "dilations": dilations}
        mode = self.r.choice(["", "pads", "pads", "SAME_UPPER", "SAME_LOWER", "VALID"])
        pads = [0] * 2 * r
        if mode == "pads":
            pads = [self.r.randint(0, k - 1) for k in kernel * 2]
            attrs["pads"] = pads
        elif mode:
            attrs["auto_pad"] = mode
        if mode[:1] == "S" and max(dilations) > 1:
            return None
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations)]
        fits = mode[:1] == "S" or all(n + pads[a] + pads[a + r] >= m for a, (n, m) in enumerate(zip(extents, reach)))
        return attrs if fits else None

    def image(self) -> str:
        rank = self.r.choice([1, 2, 2, 3])
        shape = (self.r.choice([1, 1, 2, 3]), self.r.choice(self.sizes.channels), *(self.r.choice(self.sizes.images) for _ in range(rank)))
        return self.pick(lambda s: 3 <= len(s) <= 5 and max(s[2:]) > 1 and prod(s) <= self.sizes.largest // 3, shape)

    def pool(self) -> None:
        x = self.image()
        if self.chance(0.2):
            self.node(self.r.choice(["GlobalAveragePool", "GlobalMaxPool"]), [x])
            return
        op = self.r.choice(["MaxPool", "AveragePool"])
        attrs = self.windows(self.shapes[x][2:], dilated=self.chance(0.5))
        if attrs and max(attrs["dilations"]) > 1 and any(attrs.get("pads", [])):
            return  # a window of padding only is -inf for some, the least number for others
        short = attrs and any(k < s for k, s in zip(attrs["kernel_shape"], attrs["strides"]))
        if attrs and not (short and "auto_pad" in attrs):  # onnxruntime takes a negative padding for SAME where others take none
            more = {"count_include_pad": self.r.randrange(2)} if op == "AveragePool" else {}
            if not short and not any(attrs.get("pads", [])):  # else ONNX and onnxruntime disagree on windows past the end
                more["ceil_mode"] = self.r.randrange(2)
            self.node(op, [x], exact=op == "MaxPool", **attrs, **more)

    def conv(self) -> None:
        x = self.image()
        n, c, *extents = self.shapes[x]
        attrs = self.windows(extents)
        if attrs is None:
            return
        groups = self.r.choice([1, 1, 1, c, *[d for d in range(2, c) if c % d == 0]])
        outputs = groups * self.r.choice([1, 1, 2, 3, 4]) if groups > 1 else self.r.choice(self.sizes.outputs)
        if n * outputs * prod(extents) > self.sizes.largest:
            return
        self.node("Conv", [x, self.weight((outputs, c // groups, *attrs["kernel_shape"])), *self.bias(outputs)], group=groups, **attrs)

    def weight(self, shape) -> str:
        fan_in = prod(shape[1:])
        w = self.numbers(shape) / F(np.sqrt(max(1, fan_in)))
        return self.constant(self.zeroed(w.reshape(shape[0], -1)).reshape(shape) if self.chance(0.4) else w)

    def zeroed(self, w: np.ndarray) -> np.ndarray:
        """w (outputs, inputs) with a pattern of zeros: groups, unequal groups, dead rows, unstructured."""
        outputs, inputs = w.shape
        v = self.r.choice([4, 8, 16, 32, 5])
        kind = self.r.choice(["groups", "neighbours", "unequal", "unstructured", "dead"])
        order = self.g.permutation(outputs) if kind in ("groups", "unequal") else np.arange(outputs)
        keep = np.zeros(w.shape, bool)
        for first in range(0, outputs, v):
            kept = max(1, inputs // 2) if kind != "unequal" else self.r.randint(0, inputs)
            keep[order[first:first + v, None], self.g.permutation(inputs)[:kept]] = True
        if kind == "unstructured":
            keep = self.g.random(w.shape) < self.r.choice([0.05, 0.3, 0.6])
        if kind == "dead":
            keep[self.g.random(outputs) < 0.4] = False
        if self.chance(0.3):
            keep &= self.g.random(w.shape) < 0.97
        return np.where(keep, w, F(0))

    def bias(self, outputs: int) -> list[str]:
        return [self.constant(self.numbers(outputs))] if self.chance(0.6) else []

    def conv_transpose(self) -> None:
        x = self.image()
        n, c, *extents = self.shapes[x]
        attrs = self.windows(extents)
        groups = self.r.choice([1, 1, c])
        outputs = self.r.choice([1, 2, 4, 8])
        if attrs is None or attrs.get("auto_pad", "").startswith("S"):
            return
        if n * groups * outputs * prod(e * s + 4 for e, s in zip(extents, attrs["strides"])) > self.sizes.largest:
            return
        out = [(e - 1) * s + (k - 1) * d + 1 for e, s, k, d in zip(extents, attrs["strides"], attrs["kernel_shape"], attrs["dilations"])]
        pads = attrs.get("pads", [0] * 2 * len(out))
        if any(o - pads[a] - pads[a + len(out)] < 1 for a, o in enumerate(out)):
            return
        w = self.constant(self.numbers((c, outputs, *attrs["kernel_shape"])))
        if "pads" in attrs and self.chance(0.4):
            attrs["output_padding"] = [self.r.randrange(s) for s in attrs["strides"]]
        self.node("ConvTranspose", [x, w, *self.bias(outputs * groups)], group=groups, **attrs)

    def gemm(self) -> None:
        a = self.pick_rank(2, 2)
        trans = self.r.randrange(2)
        m, k = self.shapes[a][::-1] if trans else self.shapes[a]
        n = self.r.choice(self.sizes.outputs)
        tb = self.r.randrange(2)
        w = self.constant(self.zeroed(self.numbers((n, k)))) if self.chance(0.5) else self.fresh((n, k))
        if not tb:
            w = self.constant(self.constants[w].T) if w in self.constants else self.node("Transpose", [w], perm=[1, 0])
        c = [self.fresh(self.r.choice([(n,), (1, n), (m, 1), (m, n), (1,), ()]))] if self.chance(0.7) else []
        self.node("Gemm", [a, w, *c], transA=trans, transB=tb, alpha=self.r.choice([1.0, 0.5]), beta=self.r.choice([1.0, 2.0, 0.0]))

    def weights(self) -> None:
        x = self.pick_rank(1)
        k, n = self.shapes[x][-1], self.r.choice(self.sizes.outputs)
        if prod(self.shapes[x][:-1]) * n <= self.sizes.largest:
            w = self.numbers((n, k)) / F(np.sqrt(k))
            self.node("MatMul", [x, self.constant((self.zeroed(w) if self.chance(0.4) else w).T)])

    def weights_left(self) -> None:
        x = self.pick_rank(1)
        shape = self.shapes[x]
        k, n = shape[-2] if len(shape) > 1 else shape[0], self.r.choice(self.sizes.outputs)
        w = self.numbers((n, k)) / F(np.sqrt(k))
        self.node("MatMul", [self.constant(self.zeroed(w) if self.chance(0.4) else w), x])

    def matmul(self) -> None:
        a = self.pick_rank(1)
        shape = self.shapes[a]
        k, n = shape[-1], self.r.choice(self.sizes.outputs)
        batch = tuple(1 if self.chance(0.3) else m for m in shape[:-2])[self.r.randint(0, max(0, len(shape) - 2)):]
        other = (k,) if self.chance(0.15) else (*batch, k, n)
        b = self.pick(lambda s: s == other, other)
        if prod(shape[:-1]) * n <= self.sizes.largest:
            self.node("Tanh", [self.node("MatMul", [a, b])])

    def recurrent(self) -> None:
        op = self.r.choice(["LSTM", "GRU", "RNN"])
        gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
        x = self.pick(lambda s: len(s) == 3 and prod(s) <= 400, (self.r.choice([1, 3]), self.r.choice([1, 2, 5]), self.r.choice([1, 4])))
        steps, batch, inputs = self.shapes[x]
        d, hidden = self.r.randint(1, 2), self.r.choice([1, 3, 8, 12])
        w, r = ([self.numbers((gates * hidden, k)) for _ in range(d)] for k in (inputs, hidden))
        if self.chance(0.4):
            w, r = ([self.zeroed(m) for m in ms] for ms in (w, r))
        names = [x, self.constant(np.stack(w) / F(2)), self.constant(np.stack(r) / F(3))]
        names.append(self.constant(self.numbers((d, 2 * gates * hidden))) if self.chance(0.6) else "")
        lens = ""
        if self.chance(0.4):
            lens = self.input((batch,), np.int32)
            self.feeds[lens] = self.g.integers(1, steps + 1, batch).astype(np.int32)
        names.append(lens)
        if self.chance(0.5):
            names += [self.fresh((d, batch, hidden)) for _ in range(2 if op == "LSTM" else 1)]
        attrs = {"linear_before_reset": self.r.randrange(2)} if op == "GRU" else {}
        direction = "bidirectional" if d == 2 else self.r.choice(["forward", "reverse"])
        self.node(op, names, outputs=3 if op == "LSTM" else 2, hidden_size=hidden, direction=direction, **attrs)

    def order(self) -> None:
        x = self.pick(lambda s: len(s) > 0 and prod(s) <= 400, self.shape(2), exact=True)
        shape = self.shapes[x]
        axis = self.r.randrange(len(shape))
        kind = self.r.randrange(3)
        if kind == 0:
            self.node("TopK", [x, self.ints(self.r.randint(1, shape[axis]))], outputs=2, exact=True, axis=axis, largest=self.r.randrange(2))
        elif kind == 1:
            y = self.node(self.r.choice(["ArgMax", "ArgMin"]), [x], axis=axis, keepdims=self.r.randrange(2), select_last_index=self.r.randrange(2))
            self.node("Cast", [y], to=1)
        else:
            y = self.node("CumSum", [x, self.constant(np.asarray(axis))], exclusive=self.r.randrange(2), reverse=self.r.randrange(2))
            self.node("Tanh", [y])


def random_graph(r, seed: int, sizes: Sizes = SMALL) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model of 3 to 15 drawn steps and inputs for it."""
    graph = Graph(r, seed, sizes)
    for _ in range(r.randint(3, 15)):
        graph.step()
    while not graph.nodes:
        graph.unary()
    return graph.finish()
