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


def clamp(let: Let, x, low: float, high: float):
    """x within [low, high]; NaN stays."""
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


_MAGIC = 12582912.0  # 1.5 * 2^23: adding it rounds to an integer, which is then in the low bits


def _round(let: Let, x):
    """(nearest integer as float, the same as int32) for |x| < 2^22; NaN gives NaN and some integer."""
    t = let(x + like(x, _MAGIC))
    i = let(bits(t, "int32"))
    return let(t - like(t, _MAGIC)), let(i - like(i, 0x4B400000))


def _power_of_two(let: Let, n):
    """2^n for an int32 n in [-126, 127]."""
    return let(bits((n + like(n, 127)) << like(n, 23), "float32"))


_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)


def _exp_parts(let: Let, x):
    """(e^r - 1, n) with x = n ln 2 + r, |r| <= ln 2 / 2 (Cephes), for |x| < 1000."""
    n, i = _round(let, let(x * like(x, m.log2(m.e))))
    r = let(x - n * like(x, 0.693359375))
    r = let(r + n * like(x, 2.12194440e-4))
    return let(let(poly(let, r, _EXP) * let(r * r)) + r), i


def exp(let: Let, x):
    """e^x, 1 ulp: inf above 88.73, through denormals to 0 below -103.98."""
    p, n = _exp_parts(let, clamp(let, x, -104.0, 89.0))
    half = let(n >> like(n, 1))  # in two steps, because 2^n itself may be out of range
    return let(let(let(p + like(p, 1.0)) * _power_of_two(let, half)) * _power_of_two(let, let(n - half)))


def expm1(let: Let, x):
    """e^x - 1, 2 ulp, for x < 88."""
    p, n = _exp_parts(let, clamp(let, x, -18.0, 88.0))
    s = _power_of_two(let, n)
    return let(select(tirx.abs(x) < like(x, 2.0**-24), x, let(s - like(s, 1.0)) + p * s))


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
    """1 / (1 + e^-x), 3 ulp, also where it is tiny."""
    e = exp(let, let(-tirx.abs(x)))
    return let(select(x < like(x, 0.0), e, like(x, 1.0)) / let(e + like(e, 1.0)))


_TANH = (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1)


def tanh(let: Let, x):
    """Hyperbolic tangent, 2 ulp (Cephes)."""
    a = let(tirx.abs(x))
    z = let(x * x)
    near = let(let(let(poly(let, z, _TANH) * z) * a) + a)
    p, n = _exp_parts(let, clamp(let, let(a + a), 0.0, 20.0))
    e = let(let(p + like(p, 1.0)) * _power_of_two(let, n))
    far = let(like(x, 1.0) - let(like(x, 2.0) / let(e + like(e, 1.0))))
    return copysign(let, let(select(a < like(a, 0.625), near, far)), x)


_ERFC = (-1.72853470e-5, 3.83197126e-4, -3.88396438e-3, 2.42546219e-2, -1.06777877e-1, -6.34846687e-1, -1.28717512e-1)
_ERF = (-5.96761703e-4, 4.99119423e-3, -2.67681349e-2, 1.12819925e-1, -3.76125336e-1, 1.28379166e-1)


def _erf_parts(let: Let, x):
    """(erf x where |x| <= 0.928, erfc |x| where it is larger), by N. Juffa's polynomials."""
    a = let(tirx.abs(x))
    c = clamp(let, a, 0.0, 10.5)
    tail = let(let(c * poly(let, c, _ERFC)) - c)
    return let(x + x * poly(let, let(x * x), _ERF)), exp(let, tail)


def erf(let: Let, x):
    """The error function, 2 ulp."""
    near, c = _erf_parts(let, x)
    return let(select(tirx.abs(x) > like(x, 0.927734375), copysign(let, let(like(x, 1.0) - c), x), near))


def normal_cdf(let: Let, x):
    """(1 + erf(x / sqrt 2)) / 2, 3 ulp for x > -1 and within 5e-9 below, where (1 + erf) would cancel."""
    y = let(x * like(x, m.sqrt(0.5)))
    near, c = _erf_parts(let, y)
    far = let(select(x < like(x, 0.0), c, like(x, 2.0) - c))
    return let(select(tirx.abs(y) > like(x, 0.927734375), far, let(near + like(x, 1.0))) * like(x, 0.5))
