"""Conversions between the number types, all defined: no value is undefined behaviour, and no library is called.

Floats become integers by truncation, clamped to the integer's range, NaN to 0. Integers wrap around. float16 is converted
by its bits, rounded to nearest even, so that processors without it give the same numbers.
"""
from tvm import tirx

from edgekit.exporters.kernels.math import Let, base_of, bits, isnan, like, select, to

FLOATS = ("float32", "float64")


def is_signed(base: str) -> bool:
    return base.startswith("int")


def width(base: str) -> int:
    return int(base.lstrip("uintfloa"))


def differs(a, b):
    """a != b as a bool, true for NaN (for which TVM's own != is false)."""
    equal = to(tirx.EQ(a, b), "uint8")
    return equal ^ like(equal, 1)


def from_half(let: Let, x):
    """float16 to float32, exact."""
    h = let(to(bits(x, "uint16"), "int32"))
    size = let((h & like(h, 0x7FFF)) << like(h, 13))
    special = size >= like(size, 0x0F800000)
    exponent = select(special, like(size, (255 - 31) << 23), like(size, (127 - 15) << 23))
    normal = let(bits(let(size + exponent), "float32"))
    tiny = let(to(size >> like(size, 13), "float32") * like(normal, 2.0**-24))
    y = let(select(size < like(size, 0x00800000), tiny, normal))
    return let(bits(bits(y, "int32") | ((h & like(h, 0x8000)) << like(h, 16)), "float32"))


def to_half(let: Let, x):
    """float32 to float16, to nearest even."""
    i = let(bits(x, "int32"))
    size = let(i & like(i, 0x7FFFFFFF))
    odd = let((size >> like(size, 13)) & like(size, 1))
    safe = let(select(size < like(size, 0x47800000), size, like(size, 0)))
    normal = let((let(let(safe - like(safe, (127 - 15) << 23)) + odd) + like(odd, 0xFFF)) >> like(odd, 13))
    tiny = let(bits(let(bits(size, "float32") + like(x, 0.5)), "int32") - like(size, 0x3F000000))
    y = let(select(size < like(size, 113 << 23), tiny, normal))
    y = let(select(size >= like(size, 0x47800000), like(size, 0x7C00), y))
    y = let(select(size > like(size, 0x7F800000), like(size, 0x7E00), y))
    return let(bits(to(y | ((i >> like(i, 16)) & like(i, 0x8000)), "uint16"), "float16"))


def _to_single_odd(let: Let, x):
    """float64 to float32 rounded to odd, so that rounding it again, to fewer bits, is right."""
    y = let(to(x, "float32"))
    back = let(to(y, "float64"))
    i = let(bits(y, "int32"))
    less = let(select(tirx.abs(back) > tirx.abs(x), i - like(i, 1), i))
    odd = let(select(tirx.Or(back < x, back > x), less | like(i, 1), less))
    return let(bits(odd, "float32"))


def _to_integer(let: Let, x, base: str):
    """A float to an integer type."""
    low = -(1 << (width(base) - 1)) if is_signed(base) else 0
    high = (1 << (width(base) - is_signed(base))) - 1
    under = x < like(x, float(low))
    over = x >= like(x, float(high + 1))
    inside = let(select(tirx.Or(isnan(x), tirx.Or(under, over)), like(x, 0.0), x))
    y = let(to(inside, base))
    y = let(select(under, like(y, low), y))
    return let(select(over, like(y, high), y))


def cast(let: Let, x, base: str):
    """x converted to the dtype `base`; bool is a uint8 of 0 or 1."""
    have = base_of(x)
    if base == "bool":
        x = from_half(let, x) if have == "float16" else x
        return differs(x, like(x, 0))
    if have == base:
        return x
    if have == "float16":
        return cast(let, from_half(let, x), base)
    if base == "float16":
        single = _to_single_odd(let, x) if have == "float64" else let(to(x, "float32"))
        return to_half(let, single)
    if have in FLOATS and base not in FLOATS:
        return _to_integer(let, x, base)
    return let(to(x, base))
