"""Drawing ONNX graphs: tensors to read, shapes, numbers, and nodes with the types that ONNX infers for them."""
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx
from onnx import defs, helper, numpy_helper, shape_inference

from tests.lower.graphs import OPSET, model

F = np.float32


@dataclass(frozen=True)
class Sizes:
    """What is drawn: extents, channels, outputs of products, extents of images; the largest tensor; share of empty axes."""

    extents: tuple[int, ...] = (1, 1, 2, 3, 4, 5, 6, 7, 9)
    channels: tuple[int, ...] = (1, 2, 3, 4, 6, 8)
    outputs: tuple[int, ...] = (1, 2, 3, 5, 7, 8, 9, 12, 16, 20)
    images: tuple[int, ...] = (1, 4, 5, 8, 11)
    largest: int = 6000
    empty: float = 0.0


SMALL, EMPTY = Sizes(), Sizes(empty=0.15)
WIDE = Sizes((1, 3, 8, 17, 33), (1, 3, 16, 24, 40), (1, 4, 16, 24, 32, 33, 64), (7, 16, 31, 64, 150), 100_000)


class Drawing:
    """A graph that grows node by node. feeds: input arrays; constants: initializers; shapes, dtypes of all tensors by name."""

    def __init__(self, r, seed: int, sizes: Sizes):
        self.r, self.g, self.sizes, self.zeros = r, np.random.default_rng(seed), sizes, sizes.empty > 0
        self.nodes: list[onnx.NodeProto] = []
        self.feeds: dict[str, np.ndarray] = {}
        self.constants: dict[str, np.ndarray] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, np.dtype] = {}
        self.exact: set[str] = set()   # moved, not computed

    # -- drawing -----------------------------------------------------------------------------------------------------

    def chance(self, share: float) -> bool:
        return self.r.randrange(100) < 100 * share

    def extent(self) -> int:
        return 0 if self.zeros and self.chance(self.sizes.empty) else self.r.choice(self.sizes.extents)

    def shape(self, rank: int) -> tuple[int, ...]:
        shape = tuple(self.extent() for _ in range(rank))
        while prod(shape) > self.sizes.largest:
            shape = tuple(-(-n // 2) for n in shape)
        return shape

    def numbers(self, shape, dtype=F) -> np.ndarray:
        if np.dtype(dtype).kind == "f":
            return np.asarray(self.g.standard_normal(shape), dtype)
        return np.asarray(self.g.integers(0, 2 if np.dtype(dtype).kind == "b" else 9, shape)).astype(dtype)

    def constant(self, array) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(array)
        self.known(name, self.constants[name])
        return name

    def ints(self, *values: int) -> str:
        return self.constant(np.asarray(values, np.int64))

    def input(self, shape, dtype=F) -> str:
        name = f"x{len(self.feeds)}"
        self.feeds[name] = self.numbers(shape, dtype)
        self.known(name, self.feeds[name])
        return name

    def known(self, name: str, array: np.ndarray) -> None:
        self.shapes[name], self.dtypes[name] = array.shape, array.dtype
        self.exact.add(name)

    def fresh(self, shape, dtype=F) -> str:
        """A new input, or sometimes a constant."""
        return self.constant(self.numbers(shape, dtype)) if self.chance(0.25) else self.input(shape, dtype)

    def pick(self, ok=lambda shape: True, shape=None, dtype=F, exact: bool = False) -> str:
        """A tensor whose shape is `ok`: one that is there, of late ones rather, or a new one of the drawn `shape`."""
        names = [n for n, s in self.shapes.items() if self.dtypes[n] == dtype and ok(s) and (n in self.exact or not exact)
                 and n[0] != "c"]
        if names and not self.chance(0.12):
            return names[-1 - min(self.r.randrange(len(names)), self.r.randrange(len(names)))]
        return self.fresh(shape or self.shape(self.r.randrange(1, 5)), dtype)

    def pick_rank(self, low: int, high: int = 5, **how) -> str:
        return self.pick(lambda s: low <= len(s) <= high and (self.zeros or 0 not in s),
                         self.shape(self.r.randint(low, min(high, low + 2))), **how)

    def partner(self, shape) -> str:
        """A tensor that broadcasts against `shape`, a constant or scalar sometimes."""
        if self.chance(0.5):
            def fits(s):
                return len(s) <= 5 and all(a == b or a == 1 or b == 1 for a, b in zip(s[::-1], shape[::-1])) and s != () \
                    and prod(np.broadcast_shapes(s, shape)) <= self.sizes.largest
            return self.pick(fits, shape)
        own = tuple(1 if self.chance(0.3) else n for n in shape)[self.r.randint(0, len(shape)):]
        return self.fresh(own)

    # -- nodes -------------------------------------------------------------------------------------------------------

    def node(self, op: str, inputs, exact: bool = False, outputs: int = 1, **attrs) -> str:
        """A node, its outputs' types inferred; the name of the first output."""
        out = [f"t{len(self.nodes)}" + "_" * k for k in range(outputs)]
        made = helper.make_node(op, list(inputs), out, name=f"n{len(self.nodes)}", **attrs)
        types = {n: helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(self.dtypes[n]), self.shapes[n]) for n in inputs if n}
        data = {n: numpy_helper.from_array(self.constants[n], n) for n in inputs if n in self.constants}
        inferred = shape_inference.infer_node_outputs(defs.get_schema(op, OPSET, ""), made, types, data,
                                                      opset_imports=[helper.make_opsetid("", OPSET)])
        self.nodes.append(made)
        for name in out:
            kind = inferred[name].tensor_type
            self.shapes[name] = tuple(d.dim_value for d in kind.shape.dim)
            self.dtypes[name] = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
            if exact and all(n in self.exact for n in inputs if n):
                self.exact.add(name)
        return out[0]

    # -- the end -----------------------------------------------------------------------------------------------------

    def finish(self) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
        """The model, every tensor that nobody reads an output of it and some others too, and its inputs."""
        made = [n for node in self.nodes for n in node.output]
        read = {n for node in self.nodes for n in node.input}
        outputs = [n for n in made if n not in read or self.chance(0.1)]
        if self.chance(0.2):
            outputs.append(self.node("Identity", [self.r.choice([*self.feeds, *made])]))
        feeds = {n: a for n, a in self.feeds.items() if any(n in node.input for node in self.nodes)}
        return model(self.nodes, feeds, outputs, self.constants), feeds
