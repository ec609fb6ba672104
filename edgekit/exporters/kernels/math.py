"""Elementary functions as polynomials: no kernel calls libm, so the numbers are the same on every target.

Each function takes `let`, which names a value so that it is computed once (`Code.let`), and expressions of one floating
type, scalar or vector; it returns an expression of that type. They are branch free, keep NaN, are right at infinities,
zeros and denormals, and never need a fused multiply-add to be correct. Errors are in ulp of float32, against exact values.

TVM's simplifier treats floats as if they were real numbers: it folds x - x, x == x and (x + c) - c. It does not look
through names of floats, so every intermediate value here has one; conditions have none (naming a vector of bool crashes it).
"""
import math as m
from collections.abc import Callable

from tvm import tirx

Let = Callable


def dtype_of(x) -> str:
    """The dtype with its lanes, such as float32x8."""
    return str(x.ty)


def lanes_of(x) -> int:
    return int(dtype_of(x).partition("x")[2] or 1)


def base_of(x) -> str:
    """The dtype of one lane."""
    return dtype_of(x).partition("x")[0]


def as_type(x, base: str):
    """The value converted to `base`, lane by lane."""
    n = lanes_of(x)
    return x.astype(base if n == 1 else f"{base}x{n}")


def like(x, value):
    """The constant `value` in the type of x."""
    return tirx.const(value, dtype_of(x))


def bits(x, base: str = "int32"):
    """The bits of a float32 as int32 (or whatever `base` of the same width)."""
    n = lanes_of(x)
    return tirx.reinterpret(base if n == 1 else f"{base}x{n}", x)


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
    x = let(select(x < like(x, low), like(x, low), x))
    return let(select(x > like(x, high), like(x, high), x))


def copysign(let: Let, magnitude, sign):
    """|magnitude| (given non-negative) with the sign bit of `sign`."""
    return bits(bits(magnitude) | (bits(sign) & like(bits(sign), -(1 << 31))), "float32")


def _power_of_two(let: Let, n):
    """2^n for an int32 n in [-126, 127]."""
    return let(bits((n + like(n, 127)) << like(n, 23), "float32"))


_MAGIC = 12582912.0  # 1.5 * 2^23: adding it rounds to an integer, which is then in the low bits


def _round(let: Let, x):
    """(nearest integer as float, the same as int32) for |x| < 2^22; NaN gives NaN and some integer."""
    t = let(x + like(x, _MAGIC))
    i = let(bits(t))
    return let(t - like(t, _MAGIC)), let(i - like(i, 0x4B400000))


_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)


def _exp_parts(let: Let, x):
    """(r, e^r - 1, n) with x = n ln 2 + r, |r| <= ln 2 / 2 (Cephes); |x| < 1000."""
    n, i = _round(let, let(x * like(x, m.log2(m.e))))
    r = let(x - n * like(x, 0.693359375))
    r = let(r + n * like(x, 2.12194440e-4))
    p = poly(let, r, _EXP)
    return r, let(let(p * let(r * r)) + r), i


def _scale(let: Let, x, n):
    """x * 2^n for an int32 n in [-252, 254], rounded once where x has room."""
    h = let(n >> like(n, 1))
    return let(let(x * _power_of_two(let, h)) * _power_of_two(let, let(n - h)))


def exp(let: Let, x):
    """e^x, 1 ulp; overflows to inf above 88.73, underflows through denormals to 0 below -103.98."""
    x = clamp(let, x, -104.0, 89.0)
    _, p, n = _exp_parts(let, x)
    return _scale(let, let(p + like(p, 1.0)), n)


def sigmoid(let: Let, x):
    """1 / (1 + e^-x), 2 ulp, also where it is tiny."""
    e = exp(let, let(-tirx.abs(x)))
    top = let(select(x < like(x, 0.0), e, like(x, 1.0)))
    y = let(top / let(like(x, 1.0) + e))
    return y


_TANH_P = (-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08,
           1.48572235717979e-05, 6.37261928875436e-04, 4.89352455891786e-03)
_TANH_Q = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)


def tanh(let: Let, x):
    """tanh x as a rational function (Eigen's)."""
    c = clamp(let, x, -7.90531110763549805, 7.90531110763549805)
    s = let(c * c)
    y = let(let(c * poly(let, s, _TANH_P)) / poly(let, s, _TANH_Q))
    return let(select(tirx.abs(x) < like(x, 4e-4), x, y))


_LOG = (7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
        2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1)


def _log_split(let: Let, x):
    """(e, f) with x = 2^e (1 + f), 1 + f in [sqrt 1/2, sqrt 2), for positive finite x, denormals included."""
    small = x < like(x, 2.0**-126)
    x = let(select(small, x * like(x, 2.0**24), x))
    i = let(bits(x) - like(bits(x), 0x3F3504F3))
    e = let(i >> like(i, 23))
    f = let(bits(let(bits(x) - (e << like(e, 23))), "float32") - like(x, 1.0))
    e = let(as_type(e, "float32"))
    return let(select(small, e - like(x, 24.0), e)), f


def log(let: Let, x):
    """Natural logarithm, 1 ulp (Cephes): -inf at 0, NaN below, inf at inf."""
    e, f = _log_split(let, x)
    z = let(f * f)
    y = let(let(poly(let, f, _LOG) * f) * z)
    y = let(y - e * like(x, 2.12194440e-4))
    y = let(y - z * like(x, 0.5))
    y = let(let(f + y) + e * like(x, 0.693359375))
    y = let(select(x < like(x, m.inf), y, x))
    y = let(select(x < like(x, 0.0), like(x, m.nan), y))
    return let(select(tirx.abs(x) <= like(x, 0.0), like(x, -m.inf), y))


_ERFC = (-1.72853470e-5, 3.83197126e-4, -3.88396438e-3, 2.42546219e-2, -1.06777877e-1, -6.34846687e-1, -1.28717512e-1)
_ERF = (-5.96761703e-4, 4.99119423e-3, -2.67681349e-2, 1.12819925e-1, -3.76125336e-1, 1.28379166e-1)


def _erf_parts(let: Let, x):
    """(|x| is large, erf x where it is not, erfc |x| where it is) (N. Juffa's polynomials)."""
    t = let(tirx.abs(x))
    c = let(select(t > like(x, 10.5), like(x, 10.5), t))
    tail = let(let(c * poly(let, c, _ERFC)) - c)
    near = let(x + x * poly(let, let(x * x), _ERF))
    return t > like(x, 0.927734375), near, exp(let, tail)


def erf(let: Let, x):
    """The error function, 2 ulp."""
    large, near, c = _erf_parts(let, x)
    return let(select(large, copysign(let, let(like(x, 1.0) - c), x), near))


def normal_cdf(let: Let, x):
    """(1 + erf(x / sqrt 2)) / 2, without cancellation in the lower tail."""
    large, near, c = _erf_parts(let, let(x * like(x, m.sqrt(0.5))))
    far = let(select(x < like(x, 0.0), c, like(x, 2.0) - c))
    return let(let(select(large, far, like(x, 1.0) + near)) * like(x, 0.5))
