"""The elementary work of a kernel: how many vectors it multiplies, loads and stores, how often its loops start over.

Counted from its sizes and from the tiles that `exporters/kernels` cuts it into, without compiling anything. What a unit of
each work costs is measured on a processor (`calibrate`), so that a cost is a sum of products of the two.
"""
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from edgekit.exporters.kernels import spec
from edgekit.exporters.kernels.schedule import Machine
from edgekit.exporters.kernels.spec import Body, Tensor

Work = dict[str, float]

# How long a scalar operation takes: a polynomial or more, a division or root, else an instruction or a few.
_HEAVY = {"pow", "exp", "log", "erf", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh", "tanh", "sigmoid", "elu",
          "celu", "selu", "softplus", "mish", "gelu", "gelu_tanh", "swish"}
_SLOW = {"div", "mod", "fmod", "reciprocal", "sqrt", "rsqrt", "softsign"}


def work(kernel: spec.Kernel, weights: int, machine: Machine, caches: Mapping[str, int]) -> tuple[str, Work]:
    """The kind of a kernel and its work. weights: numbers in its packed matrix, 0 where it has none. caches: bytes by name,
    nearest first: what is read again and again is work by the cache that does not hold it."""
    match kernel:
        case spec.Conv():
            return _conv(kernel, weights, machine.of(kernel.dtype), caches)
        case spec.Linear():
            return _linear(kernel, weights, machine.of(kernel.dtype), caches)
        case spec.Recurrent():
            return _recurrent(kernel, weights, machine, caches)
        case spec.Depthwise():
            return _depthwise(kernel, machine)
        case spec.MatMul():
            return _matmul(kernel, machine, caches)
        case spec.Attention():
            return "attention", _attention(kernel, machine)
        case spec.WinogradInput() | spec.WinogradOutput():
            return _winograd(kernel, machine)
        case spec.Map():
            return "map", _map(kernel, machine)
        case spec.Reduce():
            return "reduce", _reduce(kernel, machine)
        case spec.Norm():
            return _norm(kernel, machine)
    shape = kernel.shape
    return {spec.Arg: "arg", spec.Gather: "gather", spec.Scatter: "scatter"}[type(kernel)], {"element": prod(shape), "row": prod(shape[:-1])}


def _fit(n: int, lanes: int) -> int:
    """Lanes of a loop over n elements: no wider than n needs."""
    while lanes > 1 and lanes > n:
        lanes //= 2
    return lanes


def _vectors(n: int, lanes: int) -> int:
    """Vectors of a loop over n elements: whole ones, then ever smaller ones."""
    lanes = _fit(n, lanes)
    return n // lanes + (n % lanes).bit_count()


def _pieces(extent: int, size: int) -> list[tuple[int, int]]:
    """(how often, size) of the pieces that an extent is cut into."""
    whole, rest = divmod(extent, size)
    return [(n, s) for n, s in ((whole, size), (1, rest)) if n and s]


def _body(body: Body, vectors: float, what: str = "") -> Work:
    """Operations of a fused body on so many vectors, by how long they take."""
    found = Counter("heavy" if op.op in _HEAVY else "slow" if op.op in _SLOW else "light" for op in body if op.op != "const")
    return {what + name: n * vectors for name, n in found.items()}


def _operands(tensors: tuple[Tensor, ...], vectors: float, elements: float) -> Work:
    """Loads of operands over a loop: a vector each where their elements lie side by side, or one by one."""
    scattered = sum(1 for t in tensors if t.strides and t.strides[-1] not in (0, 1))
    return {"load": (len(tensors) - scattered) * vectors, "scattered": scattered * elements}


def _again(what: str, amount: float, size: float, caches: Mapping[str, int]) -> Work:
    """Reads of `size` bytes in turn, over and over."""
    return {f"{what}_past_{name}": amount * past(size, cache) for name, cache in caches.items()}


def past(size: float, cache: int) -> float:
    """Share of `size` bytes, used in turn, that a cache does not hold: none up to three quarters of it, all from five quarters on."""
    return min(1.0, max(0.0, 2 * size / cache - 1.5))


def _sum(*parts: Mapping[str, float]) -> Work:
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return dict(total)


# --- products ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Line:
    """How a line of positions is covered. vectors: for each row of weights; tiles: times that the weights are loaded."""

    vectors: float
    tiles: float
    lanes: int


def _line(columns: int, rows: int, wide: int, machine: Machine) -> tuple[_Line, int]:
    """Of `columns` positions; and how many lines a tile takes at once."""
    most = machine.accumulators + (0 if machine.accumulators < 24 else 2 if machine.by_element else 4)
    lanes = _fit(1 << (columns - 1).bit_length(), machine.lanes)
    whole, over = divmod(columns, lanes)
    wide = -(-max(whole, 1) // -(-max(whole, 1) // wide))
    parts = -(-rows // min(lanes, rows))
    alone = over > 0 and rows & (rows - 1) == 0 and over * parts <= min(rows - 1 if machine.by_element else 4, rows - 1)
    vectors = whole + (over * parts / rows if alone else 1.0 if over else 0.0)
    tail = (over * parts if alone else rows) if over else 0
    first = whole % wide if tail + rows * (whole % wide) <= most else 0
    tiles = whole // wide + (1 if whole % wide or over else 0) + (1 if over and whole % wide and not first else 0)
    sums = rows * whole + tail
    at_once = 1
    if tiles == 1 and sums <= most:
        at_once = max(1, min(most // sums, (most + 4) // (sums + (sums // rows if rows > 1 else 0))))
    return _Line(vectors, tiles, lanes), at_once


def _conv(k: spec.Conv, weights: int, machine: Machine, caches: Mapping[str, int]) -> tuple[str, Work]:
    *outer, height, width = (1, *k.spatial) if len(k.spatial) == 1 else k.spatial
    rows, wide = machine.conv.tile(k.v)
    tall, long = _block(k, machine, height, width, wide * machine.lanes)
    inputs, taps = weights / k.v, prod(k.kernel)                # of all groups
    parts = k.v // rows
    blocks = prod(outer) * -(-height // tall) * -(-width // long)
    vectors, tiles, lines = 0.0, 0.0, prod(outer) * height
    for times, columns in _pieces(width, long):
        line, at_once = _line(columns, rows, wide, machine)
        vectors += times * lines * line.vectors
        tiles += times * line.tiles * prod(outer) * sum(n * -(-size // at_once) for n, size in _pieces(height, tall))
    narrow = "_narrow" if line.lanes < machine.lanes else ""
    stored = k.groups * k.v * vectors
    reads = "sparse" if k.index else "dense"
    found = {"fma" + narrow: weights * vectors, "row": weights * tiles, "load" + narrow: inputs * parts * vectors,
             f"input_{reads}": inputs * parts * tiles, "tile": k.groups * parts * tiles, "store": stored, "unit": k.groups * blocks,
             "decode": inputs * blocks if k.index and taps > 1 else 0.0, "list": k.groups * blocks if k.starts else 0.0,
             "stall": _stall(rows * vectors / max(tiles, 1), k.kept, 8) * inputs * parts * tiles}
    reach = 4 * k.fan_in * prod(n for n, t in zip(k.stride, k.kernel, strict=True) if t > 1) * tall * long  # bytes that a block reads
    found = _sum(found, _body(k.post, stored), {"extra": len(k.extras) * stored}, _again("load", inputs * parts * vectors, reach, caches),
                 _again("weights_again", 4 * weights * (blocks - 1), 4 * weights, caches))
    if k.output.strides[-1] != 1:
        found["scattered"] = k.channels * prod(k.spatial)
    return "conv", found


def _stall(sums: float, inputs: int, chains: int) -> float:
    """Vectors of products, for each input of a tile, that wait for the sum before: what its own `sums`, times the chains
    that the kernel splits them into, leave of the latency of an addition."""
    split = max(1.0, min(chains // max(sums, 1), inputs / 8))
    return max(0.0, 8 / split - sums)


def _block(k: spec.Conv, machine: Machine, height: int, width: int, tile: int) -> tuple[int, int]:
    """Lines and positions of a block, as `kernels/convolution.py` chooses them."""
    s = machine.conv
    per = k.fan_in * prod(n for n, taps in zip(k.stride, k.kernel, strict=True) if taps > 1)
    floats = s.near_floats if s.near_floats >= per * tile and prod(k.kernel) == 1 else s.far_floats
    positions = max(floats // per // tile, 1) * tile

    def share(extent: int, most: int, unit: int) -> int:
        size = extent // -(-extent // most)
        return min(extent, max(1, size // unit) * unit)
    return (1, share(width, positions, tile)) if width > positions else (share(height, max(1, positions // width), 1), width)


def _product(v: int, groups: int, kept: int, weights: int, rows: int, tall: int, vectors: int, chains: int, machine: Machine) -> tuple[Work, int, int]:
    """The position-major product of `rows` rows; the lanes of its sums; the tiles that the rows are cut into."""
    lanes = machine.lanes
    while v % lanes:
        lanes //= 2
    vectors = next(c for c in (4, 2, 1) if v // lanes % c == 0 and c <= vectors)
    tall = max(1, min(rows, tall, machine.accumulators // vectors))
    parts, tiles = v // (lanes * vectors), -(-rows // tall)
    inputs = weights / v
    split = 1 << max(min(chains // (tall * vectors), kept // 4), 1).bit_length() - 1
    loads = inputs * parts * tiles
    narrow = "_narrow" if lanes < machine.lanes else ""
    return {"fma" + narrow: weights / lanes * rows, "weight" + narrow: weights / lanes * tiles, "broadcast": inputs * parts * rows, "input": loads,
            "stall": max(0.0, 8 / split - tall * vectors) * loads, "tile": groups * parts * tiles}, lanes, tiles


def _linear(k: spec.Linear, weights: int, machine: Machine, caches: Mapping[str, int]) -> tuple[str, Work]:
    s = machine.linear
    found, lanes, tiles = _product(k.v, k.groups, k.kept, weights, k.rows, s.rows, s.vectors, s.chains, machine)
    stored = k.groups * k.v / lanes * k.rows
    found |= {"store": stored, "indexed": found["input"] if k.index else 0.0, "ordered": k.groups * k.v * k.rows if k.order else 0.0,
              "lane": k.groups * k.v * tiles if k.order else 0.0, "unit": k.groups * -(-k.rows // s.rows_a_unit), "list": k.groups if k.starts else 0.0}
    extras = sum(1 for t in k.extras if t.strides[-1])  # where outputs are ordered, they are read one by one
    found = _sum(found, _body(k.post, stored), {"extra_ordered": extras * k.groups * k.v * k.rows} if k.order else {"extra": extras * stored},
                 _again("weights_again", 4 * weights * (tiles - 1), 4 * weights / k.groups, caches))
    if k.output.strides[-1] != 1 and not k.order:
        found["scattered"] = k.rows * k.outputs
    return "linear", found


def _recurrent(k: spec.Recurrent, weights: int, machine: Machine, caches: Mapping[str, int]) -> tuple[str, Work]:
    s = machine.recurrent
    product, _, tiles = _product(k.v, k.groups, k.kept, weights, k.batch, s.sequences, s.vectors, machine.linear.chains, machine)
    times = k.steps * (2 if k.reset_first else 1)
    cell = k.steps * k.batch * _vectors(k.hidden, machine.lanes)
    heavy = sum(1 for body in k.activations for op in body if op.op in _HEAVY) + (1 if k.cell == "LSTM" else 0) + (1 if k.cell != "RNN" else 0)
    found = {name: n * times for name, n in product.items()}
    found |= {"indexed": found["input"] if k.index else 0.0, "ordered": times * k.batch * k.groups * k.v if k.order else 0.0,
              "lane": times * tiles * k.groups * k.v if k.order else 0.0,
              "heavy": cell * heavy, "cell": cell, "step": k.steps * -(-k.batch // s.sequences)}
    return "recurrent", _sum(found, _again("weights_again", 4 * weights * (times * tiles - 1), 4 * weights, caches))


def _matmul(k: spec.MatMul, machine: Machine, caches: Mapping[str, int]) -> tuple[str, Work]:
    many = prod(k.batch)
    if k.a.strides[-1] == k.b.strides[-2] == 1 != k.b.strides[-1]:
        lanes = _fit(min(k.n, k.k), machine.lanes)
        tiles = many * k.m * -(-k.n // lanes)
        return "matmul", _sum({"dots": tiles * lanes * (k.k // lanes), "across": tiles * lanes, "store": tiles, "over": tiles * (k.k % lanes)},
                              _body(k.post, tiles))
    lanes = _fit(k.n, machine.lanes)
    vectors = -(-k.n // lanes)
    count = -(-vectors // -(-vectors // machine.matmul.vectors))
    tall = -(-k.m // -(-k.m // max(1, min(machine.matmul.rows, machine.accumulators // count))))
    stripes = many * -(-k.m // tall) * -(-vectors // count)  # of tiles
    stored = many * k.m * vectors
    found = {"fma": stored * k.k, "load": many * -(-k.m // tall) * vectors * k.k, "broadcast": many * k.m * -(-vectors // count) * k.k,
             "tile": stripes, "store": stored, "input": stripes * k.k, "stall": max(0.0, 8 - tall * count) * stripes * k.k}
    if k.b.strides[-1] != 1:
        found["scattered"] = found["load"] * lanes
    again = 4 * many * (-(-k.m // tall) - 1) * k.k * k.n
    return "matmul", _sum(found, _body(k.post, stored), {"extra": len(k.extras) * stored}, _again("again", again, 4 * k.k * k.n, caches))


def _attention(k: spec.Attention, machine: Machine) -> Work:
    lanes = _fit(k.m, machine.lanes)
    vectors = -(-k.m // lanes)
    tiles = -(-vectors // 3)
    images = prod(k.batch)
    wide = images * tiles * -(-vectors // tiles)  # vectors of queries, those of a last tile that reaches back included
    stored = wide * lanes * -(-k.width // lanes)
    factors = images * tiles * k.n * (k.depth + k.width)
    found = {"fma": wide * k.n * (k.depth + k.width), "broadcast": factors, "exp": wide * k.n, "tile": images * tiles, "turned": wide * (k.depth + k.width),
             "store": stored, "masked": len(k.masks) * wide * k.n}
    return _sum(found, _body(k.pre, wide * k.n), _body(k.post, stored), {"extra": len(k.extras) * stored})


def _depthwise(k: spec.Depthwise, machine: Machine) -> tuple[str, Work]:
    (height, width), taps = k.spatial, prod(k.kernel)
    lanes = _fit(1 << (width - 1).bit_length(), machine.lanes)
    images = k.batch * k.channels
    across = -(-width // lanes)
    border = sum(1 for at in (min(n, max(0, width - lanes)) for n in range(0, width, lanes)) for tap in range(k.kernel[1])
                 if (first := at * k.stride[1] + tap * k.dilation[1] - k.pads[1]) < 0 or first + k.stride[1] * (lanes - 1) >= k.size[1])
    stored = images * height * across
    kind = "strided" if k.stride[1] > 1 else "column"
    found = {"fma" if taps < machine.accumulators else "fma_reloaded": stored * taps, kind: images * k.size[0] * across * k.kernel[1], "border": images * k.size[0] * border,
             "store": stored, "image": images, "tap": images * taps}
    return "depthwise", _sum(found, _body(k.post, stored), {"extra": len(k.extras) * stored})


def _winograd(k: spec.WinogradInput | spec.WinogradOutput, machine: Machine) -> tuple[str, Work]:
    size, images = k.m + 2, k.batch * k.channels
    if isinstance(k, spec.WinogradInput):
        down, across = k.tiles
        lanes = _fit(1 << (across * k.m + 1).bit_length(), machine.lanes)
        rows = images * down
        return "winograd_input", {"column": rows * -(-(across * k.m + 2) // lanes) * size, "store": rows * size * size * -(-across // _fit(across, machine.lanes)),
                                  "row": rows, "image": images}
    height, width = k.spatial
    down, across = -(-height // k.m), -(-width // k.m)
    stored = images * height * _vectors(width, machine.lanes)
    found = {"load": images * down * size * size * -(-across // _fit(across, machine.lanes)), "store": stored, "row": images * down, "image": images}
    return "winograd_output", _sum(found, _body(k.post, stored), {"extra": len(k.extras) * stored})


# --- all else ------------------------------------------------------------------------------------------------------------


def _map(k: spec.Map, machine: Machine) -> Work:
    shape = k.shape or (1,)
    rows, n = prod(shape[:-1]), shape[-1]
    side_by_side = not k.output.strides or k.output.strides[-1] == 1
    vectors = rows * (_vectors(n, machine.lanes) if k.output.strides and k.output.strides[-1] else n)
    found = _sum({"row": rows, "vector": vectors}, _operands(k.inputs, vectors, rows * n), _body(k.body, vectors),
                 {"store": vectors} if side_by_side else {"scattered": rows * n})
    return found


def _reduce(k: spec.Reduce, machine: Machine) -> Work:
    outer, inner = k.shape[:k.outer], k.shape[k.outer:]
    results, n = prod(outer), prod(inner)
    apart = {t.strides[k.outer - 1] for t in k.inputs} if outer and outer[-1] > 1 else {-1}
    strided = any(t.strides[-1] not in (0, 1) for t in k.inputs)
    along_outer = inner[-1] <= 7 and apart <= {0, 1, 2} or strided and apart <= {0, 1}
    if along_outer:
        stored = results // outer[-1] * _vectors(outer[-1], machine.lanes)
        vectors = stored * n
        loads: Work = {"load_apart" if 2 in apart else "load": len(k.inputs) * vectors}
        return _sum({"row": results // outer[-1], "result": stored, f"step_{k.op}": vectors}, loads, _body(k.pre, vectors), _body(k.post, stored))
    rows = results * prod(inner[:-1])
    vectors = rows * (_vectors(inner[-1], machine.lanes) if inner[-1] > 7 else inner[-1])
    return _sum({"row": rows, "result": results, "vector": vectors}, _operands(k.inputs, vectors, results * n),
                _body(k.pre, vectors), _body(k.post, results, "single_"))


def _norm(k: spec.Norm, machine: Machine) -> tuple[str, Work]:
    inner = k.shape[-k.axes:]
    rows = prod(k.shape[:-k.axes])
    vectors = rows * prod(inner[:-1]) * _vectors(inner[-1], machine.lanes)
    kind = "softmax" if "softmax" in k.kind else "norm"
    lanes = _fit(inner[-1], machine.lanes)
    short = k.axes == 1 and lanes > 1 and -(-inner[-1] // lanes) <= max(2, machine.accumulators // 3) and k.x.strides[-1] == 1
    length = "_short" if short else ""  # a row that stays in registers
    return kind, _sum({"row" + length: rows, "vector" + length: vectors}, _body(k.post, vectors), {"extra": len(k.extras) * vectors})


def describe(found: Any) -> str:
    """A line for people."""
    kind, parts = found
    return f"{kind}: " + ", ".join(f"{n:.0f} {name}" for name, n in parts.items() if n)
