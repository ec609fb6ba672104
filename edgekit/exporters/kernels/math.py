"""Elementary functions of float32 as polynomials: no kernel calls libm, so the numbers are the same on every target.

Each function takes `let`, which names a value so that it is computed once (`Code.let`), and expressions of float32, scalar
or vector, and returns an expression of the same type. All are branch free, keep NaN, and are right at infinities, zeros,
denormals and overflow; none needs a fused multiply-add to be correct. Errors are the largest seen, in ulp (units in the
last place of float32) against exact values; tests/kernels/test_math.py holds them.

TVM's simplifier treats floats as real numbers (it folds x - x, x == x and (x + c) - c) but does not look through names
made by `let`, so intermediate values have one wherever rounding matters.
"""
import math as m
from collections.abc import Callable

from tvm import tirx

Let = Callable


def base_of(x) -> str:
    """The dtype of one lane, such as float32."""
    return str(x.ty).partition("x")[0]


def lanes_of(x) -> int:
    return int(str(x.ty).partition("x")[2] or 1)


def vector(base: str, lanes: int) -> str:
    return base if lanes == 1 else f"{base}x{lanes}"


def like(x, value):
    """The constant `value` in the type of x."""
    return tirx.const(value, str(x.ty))


def to(x, base: str):
    """The value converted to `base`, lane by lane."""
    return x.astype(vector(base, lanes_of(x)))


def bits(x, base: str):
    """The bits of x seen as `base`, a dtype of the same width."""
    return tirx.reinterpret(vector(base, lanes_of(x)), x)


def select(condition, yes, no):
    return tirx.Select(condition, yes, no)


def isnan(x):
    return tirx.isnan(x)


def poly(let: Let, x, coefficients):
    """Horner's rule, highest power first."""
    y = like(x, coefficients[0])
    for c in coefficients[1:]:
        y = let(y * x + like(x, c))
    return y


def by_pairs(let: Let, x, square, coefficients):
    """Horner's rule in the square of x on pairs of coefficients: a shorter chain than by x and, on AArch64, whose fmla
    overwrites its addend, fewer copies of constants."""
    c = [like(x, v) for v in coefficients]
    y = c.pop(0) if len(c) % 2 else None
    for high, low in zip(c[::2], c[1::2], strict=True):
        pair = let(x * high + low)
        y = pair if y is None else let(y * square + pair)
    return y


def extreme(name: str, a, b):
    """LLVM's `maximum` or `minimum`: NaN where one of them is. One instruction where b is a constant that is not zero."""
    return tirx.call_llvm_pure_intrin(str(a.ty), f"llvm.{name}", a, b)


def within(let: Let, x, low: float, high: float):
    """A float x within [low, high], neither of them zero; NaN stays."""
    return let(extreme("minimum", let(extreme("maximum", x, like(x, low))), like(x, high)))


def clamp(let: Let, x, low: float, high: float):
    """x within [low, high]; NaN stays. Any type."""
    x = let(select(x < like(x, low), like(x, low), x)) if low != -m.inf else x
    return let(select(x > like(x, high), like(x, high), x)) if high != m.inf else x


def copysign(let: Let, magnitude, sign):
    """A magnitude without sign bit, given that of `sign`. Any float type."""
    base = {"float32": "int32", "float64": "int64"}[base_of(sign)]
    i = let(bits(sign, base))
    return let(bits(bits(magnitude, base) | (i & like(i, -(1 << (31 if base == "int32" else 63)))), base_of(sign)))


def nearest(let: Let, x):
    """The nearest integer, half to even, of a float of any type. Like the next three made of additions: SSE2 has no instruction
    for it, and LLVM would call libm. From 2^23 (2^52) on every float is an integer."""
    a, whole = let(tirx.abs(x)), like(x, 2.0**23 if base_of(x) == "float32" else 2.0**52)
    return copysign(let, let(select(a < whole, let(a + whole) - whole, a)), x)


def floor(let: Let, x):
    """The largest integer that is not above x."""
    n = nearest(let, x)
    return let(select(n > x, n - like(x, 1.0), n))


def ceil(let: Let, x):
    """The smallest integer that is not below x."""
    return let(-floor(let, let(-x)))


def trunc(let: Let, x):
    """x without its fraction."""
    return copysign(let, floor(let, let(tirx.abs(x))), x)


_MAGIC = 12582912.0  # 1.5 * 2^23: adding it and an integer rounds to an integer, and leaves the sum of both in the low bits


def _nearest_plus(let: Let, x, bias: int):
    """(-n as float, an int32 whose low 9 bits are n + bias) of the integer n nearest to x, for |x| < 2^21; NaN gives NaN.
    (Of n itself LLVM would make the sum of t and another constant, in a register of its own.)"""
    t = let(x + like(x, _MAGIC + bias))
    return let(like(t, _MAGIC + bias) - t), let(bits(t, "int32"))


def _float_of(let: Let, exponent):
    """2^(e - 127), for an int32 whose low 9 bits are e, in [1, 254]; 0 for e = 0."""
    return let(bits(exponent << like(exponent, 23), "float32"))


_EXP = (1.3882003e-3, 8.369118e-3, 4.1667316e-2, 1.6666517e-1, 4.9999997e-1)  # minimax, error 2^-28 of e^r


def _exp_parts(let: Let, x, bias: int):
    """(e^r - 1, an exponent n + bias) with x = n ln 2 + r, |r| <= ln 2 / 2, for |x| < 1000."""
    minus, exponent = _nearest_plus(let, x * like(x, m.log2(m.e)), bias)
    r = let(x + minus * like(x, 0.693359375))  # ln 2 in two parts, as products by the first are exact
    r = let(r + minus * like(x, -2.12194440e-4))
    square = let(r * r)
    return let(r + square * by_pairs(let, r, square, _EXP)), exponent


def exp(let: Let, x):
    """e^x, 1 ulp: inf above 88.73, through denormals to 0 below -103.98."""
    p, both = _exp_parts(let, within(let, x, -104.0, 89.0), 254)
    half = let(both >> like(both, 1))  # in two steps, because 2^n itself may be out of range
    return let(let(let(p + like(p, 1.0)) * _float_of(let, half)) * _float_of(let, let(both - half)))


def exp_below_0(let: Let, x):
    """e^x for x <= 0, 2 ulp; 0 from -87.7 on, where floats end to be normal."""
    p, exponent = _exp_parts(let, let(extreme("maximum", x, like(x, -88.0))), 127)
    s = _float_of(let, exponent)
    return let(s + p * s)


def exp_below_40(let: Let, x):
    """e^x for x < 40, 1 ulp: through denormals to 0 below -103.98."""
    p, exponent = _exp_parts(let, let(extreme("maximum", x, like(x, -104.0))), 127 + 64)
    return let(let(let(p + like(p, 1.0)) * _float_of(let, exponent)) * like(x, 2.0**-64))


def expm1(let: Let, x):
    """e^x - 1, 2 ulp, for x < 88. The sign of a zero is lost."""
    p, exponent = _exp_parts(let, within(let, x, -18.0, 88.0), 127)
    s = _float_of(let, exponent)
    return let(let(s - like(s, 1.0)) + p * s)


_LOG = (7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
        2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1)


def _log_split(let: Let, x):
    """(e, f) with x = 2^e (1 + f) and 1 + f in [sqrt 1/2, sqrt 2), for positive finite x, denormals included."""
    small = x < like(x, 2.0**-126)
    normal = let(select(small, x * like(x, 2.0**24), x))
    i = let(bits(normal, "int32"))
    e = let((i - like(i, 0x3F3504F3)) >> like(i, 23))
    f = let(bits(i - (e << like(e, 23)), "float32"))
    return let(to(e, "float32") - select(small, like(x, 24.0), like(x, 0.0))), let(f - like(f, 1.0))


def log(let: Let, x):
    """Natural logarithm, 1 ulp (Cephes): -inf at 0, NaN below."""
    e, f = _log_split(let, x)
    z = let(f * f)
    y = let(let(poly(let, f, _LOG) * f) * z)
    y = let(y - e * like(x, 2.12194440e-4))
    y = let(y - z * like(x, 0.5))
    y = let(let(f + y) + e * like(x, 0.693359375))
    y = let(select(x < like(x, m.inf), y, x))
    y = let(select(x < like(x, 0.0), like(x, m.nan), y))
    return let(select(tirx.abs(x) <= like(x, 0.0), like(x, -m.inf), y))


def log1p(let: Let, x):
    """log(1 + x), 2 ulp, for x >= 0: the logarithm of the rounded sum, and what rounding lost."""
    u = let(x + like(x, 1.0))
    lost = let(let(x - let(u - like(x, 1.0))) / u)
    return let(select(x < like(x, m.inf), log(let, u) + lost, x))


def sigmoid(let: Let, x):
    """1 / (1 + e^-x), 3 ulp, also where it is tiny: as 2^-64 / (2^-64 + 2^-64 e^-x), which does not overflow."""
    p, exponent = _exp_parts(let, let(-within(let, x, -104.0, 18.0)), 127 - 64)
    s, one = _float_of(let, exponent), like(x, 2.0**-64)
    return let(one / let(let(s + one) + p * s))


_TANH = (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1)


def tanh(let: Let, x):
    """Hyperbolic tangent, 2 ulp: a polynomial (Cephes) up to 0.625, then 1 - 2 / (e^2x + 1)."""
    a, z = let(tirx.abs(x)), let(x * x)
    near = let(a + a * let(z * by_pairs(let, z, let(z * z), _TANH)))
    c = let(extreme("minimum", a, like(x, 10.0)))
    p, exponent = _exp_parts(let, let(c + c), 126)
    s = _float_of(let, exponent)
    far = let(like(x, 1.0) - let(like(x, 1.0) / let(let(s + like(s, 0.5)) + p * s)))
    return copysign(let, let(select(a < like(a, 0.625), near, far)), x)


_ERFC = (-1.72853470e-5, 3.83197126e-4, -3.88396438e-3, 2.42546219e-2, -1.06777877e-1, -6.34846687e-1, -1.128717512)
_ERF = (-5.96761703e-4, 4.99119423e-3, -2.67681349e-2, 1.12819925e-1, -3.76125336e-1, 1.28379166e-1)
_ERFC_END = 8.943  # here erfc is 2^-126
_EXP2 = (0.00015476366, 0.001340035, 0.0096180037, 0.055503276, 0.24022651, 0.69314721)  # minimax, error 2^-29 of 2^r


def _scaled(coefficients, unit: float, factor: float) -> list[float]:
    """factor * p(unit * x) as a polynomial of x."""
    return [factor * c * unit**k for k, c in zip(range(len(coefficients) - 1, -1, -1), coefficients, strict=True)]


def _erfc(let: Let, x, unit: float, factor: int):
    """2^factor erfc(unit x) as a power of 2, for x > 0: N. Juffa's polynomial of its logarithm."""
    x = let(extreme("minimum", x, like(x, _ERFC_END / unit)))
    power = let(x * by_pairs(let, x, let(x * x), _scaled(_ERFC, unit, unit * m.log2(m.e))))
    minus, exponent = _nearest_plus(let, power, 127 + factor)
    r, s = let(power + minus), _float_of(let, exponent)
    return let(s + s * let(r * by_pairs(let, r, let(r * r), _EXP2)))


def erf(let: Let, x):
    """The error function, 2 ulp: up to 0.928 by N. Juffa's polynomial."""
    a, z = let(tirx.abs(x)), let(x * x)
    near = let(x + x * by_pairs(let, z, let(z * z), _ERF))
    far = copysign(let, let(like(x, 1.0) - _erfc(let, a, 1.0, 0)), x)
    return let(select(a > like(x, 0.927734375), far, near))


def normal_cdf(let: Let, x):
    """(1 + erf(x / sqrt 2)) / 2, 3 ulp for x > -1 and within 4e-8 below, without cancelling in the tail; 0 from -12.7 on."""
    a, z, unit = let(tirx.abs(x)), let(x * x), m.sqrt(0.5)
    first = let(x * like(x, unit / 2))
    near = let(let(first + first * by_pairs(let, z, let(z * z), _scaled(_ERF, 0.5, 1.0))) + like(x, 0.5))
    c = _erfc(let, a, unit, -1)
    return let(select(a > like(x, 0.927734375 / unit), let(select(x < like(x, 0.0), c, like(x, 1.0) - c)), near))
