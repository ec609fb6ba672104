"""Einsum: diagonals and sums of one operand first, then one batched matrix product for every further operand."""
from dataclasses import replace
from math import prod

from edgekit.exporters.lower.builder import Builder, Node
from edgekit.exporters.lower.matmul import matmul_values
from edgekit.exporters.lower.products import in_float32
from edgekit.exporters.lower.reductions import reduce_axes
from edgekit.exporters.lower.values import Value, of_view
from edgekit.exporters.lower.views import View

DTYPES = ("float32", "float64", "int32", "int64", "uint32", "uint64")


def _terms(node: Node, values: list[Value]) -> tuple[list[str], str]:
    """A letter for every axis of every operand, and those of the result; '...' becomes letters of its own."""
    equation = node.attrs["equation"].replace(" ", "")
    left, arrow, out = equation.partition("->")
    terms = left.split(",")
    spare = [c for c in map(chr, range(0x100, 0x200)) if c not in equation]
    ranks = [len(v.shape) - len(t.replace("...", "")) for t, v in zip(terms, values, strict=True)]
    most = max([r for t, r in zip(terms, ranks, strict=True) if "..." in t], default=0)
    dots = "".join(spare[:most])
    full = [t.replace("...", dots[most - r:]) for t, r in zip(terms, ranks, strict=True)]
    if any(len(t) != len(v.shape) for t, v in zip(full, values, strict=True)):
        raise node.unsupported(f"equation {equation!r} does not fit the ranks of its operands", "correct the equation")
    if not arrow:
        out = "..." + "".join(sorted(c for c in set(left) - set(",.") if left.count(c) == 1))
    return full, out.replace("...", dots)


def _alone(b: Builder, value: Value, term: str, needed: set[str]) -> tuple[Value, str]:
    """The operand with each letter once, and without those that nothing else needs."""
    for c in dict.fromkeys(term):
        while term.count(c) > 1:
            first, second = term.index(c), term.index(c, term.index(c) + 1)

            def diagonal(v: View, first=first, second=second) -> View:
                strides = list(v.strides)
                strides[first] += strides[second]
                return replace(v, shape=v.shape[:second] + v.shape[second + 1:], strides=tuple(strides[:second] + strides[second + 1:]))
            value, term = of_view(diagonal(b.memory(value))), term[:second] + term[second + 1:]
    gone = [a for a, c in enumerate(term) if c not in needed]
    if gone:
        kept = [n for a, n in enumerate(value.shape) if a not in gone]
        value = of_view(b.memory(reduce_axes(b, value, gone, "sum", kept, "Einsum")))
        term = "".join(c for c in term if c in needed)
    return value, term


def _product(b: Builder, x: Value, s: str, y: Value, t: str, needed: set[str]) -> tuple[Value, str]:
    """Two operands as one batched matrix product; letters that nothing further needs are summed."""
    size = {c: max(n, m) for c in (*s, *t) for n in [dict(zip(s, x.shape, strict=True)).get(c, 1)]
            for m in [dict(zip(t, y.shape, strict=True)).get(c, 1)]}

    def wide(v: Value, term: str) -> Value:
        shape = tuple(size[c] for c in term)
        return v if v.shape == shape else b.moved(v, lambda w: w.broadcast(shape))
    x, y = wide(x, s), wide(y, t)
    batch = [c for c in s if c in t and c in needed]
    summed = [c for c in s if c in t and c not in needed]
    rows, cols = [c for c in s if c not in t], [c for c in t if c not in s]

    def extents(*groups: list[str]) -> tuple[int, ...]:
        return (*(size[c] for c in batch), *(prod(size[c] for c in g) for g in groups))
    x = b.reshaped(b.transposed(x, [s.index(c) for c in (*batch, *rows, *summed)]), extents(rows, summed))
    y = b.reshaped(b.transposed(y, [t.index(c) for c in (*batch, *summed, *cols)]), extents(summed, cols))
    z = matmul_values(b, x, y, extents(rows, cols))
    if z.dtype != "float32":
        z = of_view(b.memory(z))
    order = "".join((*batch, *rows, *cols))
    return b.reshaped(z, tuple(size[c] for c in order)), order


def einsum(b: Builder, node: Node) -> None:
    values = [b.value(n) for n in node.inputs]
    if values[0].dtype not in DTYPES:
        raise node.unsupported(f"{values[0].dtype} products are not compiled", "convert the model to float32")
    terms, out = _terms(node, values)
    value, term = _alone(b, values[0], terms[0], set(out).union(*terms[1:]))
    for k in range(1, len(values)):
        other, t = _alone(b, values[k], terms[k], set(out).union(term, *terms[k + 1:]))
        value, term = _product(b, value, term, other, t, set(out).union(*terms[k + 1:]))
    b.set(node.output(0), b.transposed(value, [term.index(c) for c in out]))


OPERATORS = {"Einsum": in_float32(einsum)}
