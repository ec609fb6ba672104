"""Integer arithmetic that is defined for all values: it wraps around as numpy's does, and division never traps.

LLVM is told that 32- and 64-bit sums, differences and products do not overflow, so those are made in twice the width.
"""
from tvm import tirx

from edgekit.exporters.kernels.convert import is_signed, width
from edgekit.exporters.kernels.math import Let, base_of, like, select, to


def _wrapped(let: Let, operation, a, b, signed: bool):
    base = base_of(a)
    wide = ("int" if signed else "uint") + str(2 * width(base))
    return let(to(operation(to(a, wide), to(b, wide)), base))


def add(let: Let, a, b):
    return _wrapped(let, lambda a, b: a + b, a, b, is_signed(base_of(a)))


def sub(let: Let, a, b):
    return _wrapped(let, lambda a, b: a - b, a, b, True)


def mul(let: Let, a, b):
    return _wrapped(let, lambda a, b: a * b, a, b, is_signed(base_of(a)))


def neg(let: Let, a):
    return sub(let, like(a, 0), a)


def absolute(let: Let, a):
    return let(select(a < like(a, 0), neg(let, a), a)) if is_signed(base_of(a)) else a


def _divisor(let: Let, b):
    """(b, or 1 where dividing by it would trap, b is 0, b is -1)."""
    zero, minus = tirx.EQ(b, like(b, 0)), tirx.EQ(b, like(b, -1 if is_signed(base_of(b)) else 0))
    return let(select(tirx.Or(zero, minus), like(b, 1), b)), zero, minus


def div(let: Let, a, b):
    """The quotient truncated towards zero, as in C; 0 where b is 0."""
    safe, zero, minus = _divisor(let, b)
    q = let(tirx.Div(a, safe))
    q = let(select(minus, neg(let, a), q)) if is_signed(base_of(a)) else q
    return let(select(zero, like(q, 0), q))


def fmod(let: Let, a, b):
    """The remainder with the sign of a, as in C; 0 where b is 0."""
    return let(tirx.Mod(a, _divisor(let, b)[0]))


def mod(let: Let, a, b):
    """The remainder with the sign of b, as in Python; 0 where b is 0."""
    r = fmod(let, a, b)
    if not is_signed(base_of(a)):
        return r
    other = tirx.And(tirx.NE(r, like(r, 0)), (r ^ b) < like(r, 0))
    return let(select(other, add(let, r, b), r))


def pow(let: Let, a, e):
    """a to the power e, wrapping around, by squaring; for e < 0 the exact value truncated, and 0 where a is 0."""
    y, square = like(a, 1), a
    for k in range(width(base_of(e)) - is_signed(base_of(e))):
        bit = tirx.NE((e >> like(e, k)) & like(e, 1), like(e, 0))
        y = let(select(bit, mul(let, y, square), y))
        square = mul(let, square, square)
    if not is_signed(base_of(e)):
        return y
    unit = tirx.EQ(absolute(let, a), like(a, 1))
    return let(select(e < like(e, 0), select(unit, y, like(a, 0)), y))


def shift(let: Let, a, n, left: bool):
    """a shifted by n bits; 0 where n is the width or more (unsigned)."""
    last = like(n, width(base_of(a)) - 1)
    inside = let(select(n > last, last, n))
    y = let(a << inside if left else a >> inside)
    return let(select(n > last, like(y, 0), y))
