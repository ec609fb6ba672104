"""Elementary functions of float64, for double inputs and, by way of conversion, for the rarer functions of float32.

The same conventions as `math`. Polynomials and reductions are those of FreeBSD's msun and of Cephes. Against exact values
the error is below 4 ulp of float64 unless stated otherwise; rounded to float32 that is 0.51 ulp of float32.
"""
import math as m

from tvm import tirx

from edgekit.exporters.kernels.math import Let, bits, clamp, copysign, isnan, like, poly, select, to, trunc

_MAGIC = 6755399441055744.0  # 1.5 * 2^52, see math


def _round(let: Let, x):
    """(nearest integer as float64, its low 32 bits as int32) for |x| < 2^51."""
    t = let(x + like(x, _MAGIC))
    return let(t - like(t, _MAGIC)), let(to(bits(t, "int64"), "int32"))


def _power_of_two(let: Let, n):
    """2^n for an int32 n in [-1022, 1023]."""
    wide = let(to(let(n + like(n, 1023)), "int64"))
    return let(bits(wide << like(wide, 52), "float64"))


_EXP = (4.13813679705723846039e-08, -1.65339022054652515390e-06, 6.61375632143793436117e-05,
        -2.77777777770155933842e-03, 1.66666666666666019037e-01)


def exp(let: Let, x):
    """e^x."""
    x = clamp(let, x, -746.0, 710.0)
    n, i = _round(let, let(x * like(x, m.log2(m.e))))
    high = let(x - n * like(x, 6.93147180369123816490e-01))
    low = let(n * like(x, 1.90821492927058770002e-10))
    r = let(high - low)
    z = let(r * r)
    c = let(r - let(z * poly(let, z, _EXP)))
    y = let(let(let(let(r * c) / let(like(x, 2.0) - c)) - low) + high)
    half = let(i >> like(i, 1))
    return let(let(let(y + like(y, 1.0)) * _power_of_two(let, half)) * _power_of_two(let, let(i - half)))


_LOG = (1.479819860511658591e-01, 1.531383769920937332e-01, 1.818357216161805012e-01, 2.222219843214978396e-01,
        2.857142874366239149e-01, 3.999999999940941908e-01, 6.666666666666735130e-01)


def log(let: Let, x):
    """Natural logarithm."""
    small = x < like(x, 2.0**-1022)
    normal = let(bits(let(select(small, x * like(x, 2.0**54), x)), "int64"))
    top = let(to(normal >> like(normal, 32), "int32") + like(to(normal, "int32"), 0x3FF00000 - 0x3FE6A09E))
    k = let(to(let((top >> like(top, 20)) - like(top, 0x3FF)), "float64") - select(small, like(x, 54.0), like(x, 0.0)))
    top = let(to((top & like(top, 0xFFFFF)) + like(top, 0x3FE6A09E), "int64"))
    f = let(bits((top << like(top, 32)) | (normal & like(normal, 0xFFFFFFFF)), "float64"))
    f = let(f - like(f, 1.0))
    half = let(let(f * f) * like(f, 0.5))
    s = let(f / let(f + like(f, 2.0)))
    z = let(s * s)
    y = let(let(s * let(half + let(z * poly(let, z, _LOG)))) + k * like(x, 1.90821492927058770002e-10))
    y = let(k * like(x, 6.93147180369123816490e-01) - let(let(half - y) - f))
    y = let(select(x < like(x, m.inf), y, x))
    y = let(select(x < like(x, 0.0), like(x, m.nan), y))
    return let(select(tirx.abs(x) <= like(x, 0.0), like(x, -m.inf), y))


def log1p(let: Let, x):
    """log(1 + x)."""
    u = let(x + like(x, 1.0))
    lost = let(let(x - let(u - like(x, 1.0))) / u)
    return let(select(tirx.abs(u) < like(x, m.inf), log(let, u) + select(u > like(u, 0.0), lost, like(u, 0.0)), u))


_SINH = tuple(1.0 / m.factorial(k) for k in range(19, 0, -2))


def _sinh_near(let: Let, x):
    """sinh x for |x| <= 1, by its series."""
    return let(x * poly(let, let(x * x), _SINH))


def sinh(let: Let, x):
    """Hyperbolic sine."""
    h = exp(let, let(tirx.abs(x) * like(x, 0.5)))  # of half the argument, which does not overflow before the result
    far = let(let(h * like(h, 0.5)) * h - like(h, 0.5) / let(h * h))
    return let(select(tirx.abs(x) < like(x, 1.0), _sinh_near(let, x), copysign(let, far, x)))


def cosh(let: Let, x):
    """Hyperbolic cosine."""
    h = exp(let, let(tirx.abs(x) * like(x, 0.5)))
    return let(let(h * like(h, 0.5)) * h + like(h, 0.5) / let(h * h))


def tanh(let: Let, x):
    """Hyperbolic tangent."""
    a = let(tirx.abs(x))
    far = let(like(a, 1.0) - let(like(a, 2.0) / let(exp(let, let(a + a)) + like(a, 1.0))))
    near = let(_sinh_near(let, x) / cosh(let, clamp(let, x, -1.0, 1.0)))
    return let(select(a < like(a, 1.0), near, copysign(let, far, x)))


def expm1(let: Let, x):
    """e^x - 1."""
    near = let(let(_sinh_near(let, let(x * like(x, 0.5))) * like(x, 2.0)) * exp(let, let(x * like(x, 0.5))))
    return let(select(tirx.abs(x) < like(x, 1.0), near, exp(let, x) - like(x, 1.0)))


def sigmoid(let: Let, x):
    """1 / (1 + e^-x)."""
    e = exp(let, let(-tirx.abs(x)))
    return let(select(x < like(x, 0.0), e, like(x, 1.0)) / let(e + like(e, 1.0)))


def asinh(let: Let, x):
    """Inverse hyperbolic sine."""
    a = let(tirx.abs(x))
    z = let(a * a)
    near = log1p(let, let(a + z / let(tirx.sqrt(let(z + like(z, 1.0))) + like(z, 1.0))))
    far = let(log(let, a) + like(a, m.log(2.0)))
    return copysign(let, let(tirx.abs(let(select(a < like(a, 2.0**28), near, far)))), x)


def acosh(let: Let, x):
    """Inverse hyperbolic cosine: NaN below 1."""
    t = let(x - like(x, 1.0))
    near = log1p(let, let(t + tirx.sqrt(let(t * let(t + like(t, 2.0))))))
    far = let(log(let, x) + like(x, m.log(2.0)))
    y = let(select(x < like(x, 2.0**28), near, far))
    return let(select(x < like(x, 1.0), like(x, m.nan), y))


def atanh(let: Let, x):
    """Inverse hyperbolic tangent: infinite at -1 and 1, NaN outside."""
    a = let(tirx.abs(x))
    y = log1p(let, let(let(a + a) / let(like(a, 1.0) - a)))
    y = let(select(a > like(a, 1.0), like(a, m.nan), y * like(y, 0.5)))
    return copysign(let, let(tirx.abs(y)), x)


_ASIN_P = (3.47933107596021167570e-05, 7.91534994289814532176e-04, -4.00555345006794114027e-02,
           2.01212532134862925881e-01, -3.25565818622400915405e-01, 1.66666666666666657415e-01)
_ASIN_Q = (7.70381505559019352791e-02, -6.88283971605453293030e-01, 2.02094576023350569471e+00,
           -2.40339491173441421878e+00, 1.0)


def _asin_parts(let: Let, x):
    """(asin x where |x| < 1/2, acos |x| where it is more)."""
    a = let(tirx.abs(x))
    far = a >= like(a, 0.5)
    z = let(select(far, (like(a, 1.0) - a) * like(a, 0.5), a * a))
    r = let(let(z * poly(let, z, _ASIN_P)) / poly(let, z, _ASIN_Q))
    s = let(tirx.sqrt(z))
    return let(x + x * r), let(let(s + s * r) * like(s, 2.0))


def asin(let: Let, x):
    """Arc sine: NaN outside [-1, 1]."""
    near, far = _asin_parts(let, x)
    return let(select(tirx.abs(x) < like(x, 0.5), near, copysign(let, let(like(x, m.pi / 2) - far), x)))


def acos(let: Let, x):
    """Arc cosine: NaN outside [-1, 1]."""
    near, far = _asin_parts(let, x)
    far = let(select(x < like(x, 0.0), like(x, m.pi) - far, far))
    return let(select(tirx.abs(x) < like(x, 0.5), like(x, m.pi / 2) - near, far))


_ATAN_P = (-8.750608600031904122785e-1, -1.615753718733365076637e1, -7.500855792314704667340e1,
           -1.228866684490136173410e2, -6.485021904942025371773e1)
_ATAN_Q = (1.0, 2.485846490142306297962e1, 1.650270098316988542046e2, 4.328810604912902668951e2,
           4.853903996359136964868e2, 1.945506571482613964425e2)


def atan(let: Let, x):
    """Arc tangent."""
    a = let(tirx.abs(x))
    big, middle = a > like(a, 2.41421356237309504880), a > like(a, 0.66)
    t = let(select(big, like(a, -1.0) / a, select(middle, (a - like(a, 1.0)) / (a + like(a, 1.0)), a)))
    base = let(select(big, like(a, m.pi / 2), select(middle, like(a, m.pi / 4), like(a, 0.0))))
    rest = let(select(big, like(a, 6.123233995736765886130e-17), select(middle, like(a, 3.061616997868383e-17), like(a, 0.0))))
    z = let(t * t)
    y = let(let(let(z * poly(let, z, _ATAN_P)) / poly(let, z, _ATAN_Q)) * t)
    return copysign(let, let(tirx.abs(let(base + let(let(y + rest) + t)))), x)


_TWO_OVER_PI = 0xA2F9836E4E441529FC2757D1F534DDC0DB6295993C439041FE5163ABDEBBC561B7246E3A424DD2E006492EEA09D1921C  # 2^-384
_QUARTER = 1.5707963267948966


def _slices(power: int) -> tuple[float, ...]:
    """2^power * 2/pi modulo 4 as three numbers of 29 bits and the rest."""
    whole, slices = (_TWO_OVER_PI << power) % (4 << 384), []
    for end in (27, 56, 85, 384):
        part = whole >> (384 - end) << (384 - end)
        slices.append(part / 2**384)
        whole -= part
    return tuple(slices)


def _reduce_single(let: Let, x):
    """(angle in [-pi/4, pi/4], quadrant) of x, a float32 held in float64.

    x = M 2^16j with 24 bits in M, an integer where j > 0, so M times 29 bits is exact and whole turns can be dropped.
    """
    scale, slices = like(x, 1.0), [like(x, c) for c in _slices(0)]
    for j in range(1, 7):
        far = tirx.abs(x) >= like(x, 2.0**(24 + 16 * j))
        scale = let(select(far, like(x, 2.0**(-16 * j)), scale))
        slices = [let(select(far, like(x, c), s)) for c, s in zip(_slices(16 * j), slices, strict=True)]
    mantissa = let(x * scale)
    first, second, third, rest = (let(mantissa * s) for s in slices)
    n1, i1 = _round(let, first)
    n2, i2 = _round(let, second)
    first, second = let(first - n1), let(second - n2)
    n3, i3 = _round(let, let(first + second))
    turn = let(let(let(let(let(first - n3) + second) + third) + rest) * like(x, _QUARTER))
    quadrant = let(let(i1 & like(i1, 3)) + let(i2 & like(i2, 3)) + let(i3 & like(i3, 3)))
    return turn, quadrant


def _parts_of_quarter_turn() -> tuple[float, ...]:
    """pi/2 as six numbers of 22 bits."""
    scale = 384 + 128
    rest, parts = (1 << (384 + scale)) // _TWO_OVER_PI, []
    for end in range(21, 21 + 6 * 22, 22):
        part = rest >> (scale - end) << (scale - end)
        parts.append(part / 2**scale)
        rest -= part
    return tuple(parts)


def _reduce_double(let: Let, x):
    """(angle, quadrant) by subtracting quarter turns in pieces; NaN for |x| > 3e9."""
    x = let(select(tirx.abs(x) > like(x, 3e9), like(x, m.nan), x))
    n, i = _round(let, let(x * like(x, 2 / m.pi)))
    for part in _parts_of_quarter_turn():
        x = let(x - n * like(x, part))
    return x, i


_SIN = (1.58969099521155010221e-10, -2.50507602534068634195e-08, 2.75573137070700676789e-06,
        -1.98412698298579493134e-04, 8.33333333332248946124e-03, -1.66666666666666324348e-01)
_COS = (-1.13596475577881948265e-11, 2.08757232129817482790e-09, -2.75573143513906633035e-07,
        2.48015872894767294178e-05, -1.38888888888741095749e-03, 4.16666666666666019037e-02)


def _sin_cos(let: Let, x, single: bool):
    """(sine and cosine of the reduced angle, quadrant)."""
    y, quadrant = (_reduce_single if single else _reduce_double)(let, x)
    z = let(y * y)
    s = let(y * let(let(z * poly(let, z, _SIN)) + like(z, 1.0)))  # keeps the sign of 0
    half = let(z * like(z, 0.5))
    w = let(like(z, 1.0) - half)
    c = let(w + let(let(let(like(z, 1.0) - w) - half) + let(z * z) * poly(let, z, _COS)))
    return s, c, quadrant


def _bit(i, mask: int):
    return (i & like(i, mask)) != like(i, 0)


def sin(let: Let, x, single: bool = False):
    """Sine. single: x holds a float32, of any size; otherwise NaN for |x| > 3e9."""
    s, c, q = _sin_cos(let, x, single)
    y = let(select(_bit(q, 1), c, s))
    return let(select(_bit(q, 2), -y, y))


def cos(let: Let, x, single: bool = False):
    """Cosine, as sin."""
    s, c, q = _sin_cos(let, x, single)
    q = let(q + like(q, 1))
    y = let(select(_bit(q, 1), c, s))
    return let(select(_bit(q, 2), -y, y))


def tan(let: Let, x, single: bool = False):
    """Tangent, as sin."""
    s, c, q = _sin_cos(let, x, single)
    odd = _bit(q, 1)
    return let(let(select(odd, -c, s)) / let(select(odd, s, c)))


def pow(let: Let, x, y):
    """x to the power y with the special cases of C99; relative error 2e-16 times (2 + |y log x|)."""
    a = let(tirx.abs(x))
    size = exp(let, let(log(let, a) * y))
    size = let(select(tirx.EQ(a, like(a, 1.0)), a, size))
    whole = trunc(let, y)
    half = let(y * like(y, 0.5))
    odd = let(half - trunc(let, half))  # +-0.5 for odd integers
    odd = let(select(tirx.abs(y) < like(y, m.inf), odd, like(y, 0.0)))
    fraction = let(select(tirx.abs(y) < like(y, m.inf), y - whole, like(y, 0.0)))
    negative = let(bits(x, "int64")) < like(bits(x, "int64"), 0)
    signed = tirx.And(negative, tirx.abs(odd) >= like(odd, 0.5))
    signed = tirx.And(signed, tirx.abs(fraction) <= like(odd, 0.0))
    z = let(select(signed, -size, size))
    no_root = tirx.And(tirx.And(x < like(x, 0.0), a < like(a, m.inf)), tirx.abs(fraction) > like(y, 0.0))
    z = let(select(no_root, like(x, m.nan), z))
    one = tirx.Or(tirx.EQ(y, like(y, 0.0)), tirx.EQ(x, like(x, 1.0)))
    return let(select(one, like(x, 1.0), select(tirx.Or(isnan(x), isnan(y)), like(x, m.nan), z)))


def fmod(let: Let, x, y, single: bool = False):
    """The remainder of x / y with the sign of x, exact. single: both hold float32; otherwise NaN where |x / y| > 2^77.

    Long division, some bits of the quotient at a time, so that every product is exact.
    """
    digits, steps = (28, 11) if single else (26, 3)
    r, a = let(tirx.abs(x)), let(tirx.abs(y))
    far = r / a
    for k in reversed(range(steps)):
        s = let(a * like(a, 2.0**(digits * k)))
        q = trunc(let, let(r / s))
        top = let(bits(bits(s, "int64") & like(bits(s, "int64"), -1 << 27), "float64"))
        rest = let(let(r - q * top) - q * let(s - top))
        rest = let(select(rest < like(r, 0.0), rest + s, rest))  # q was rounded
        rest = let(select(rest >= s, rest - s, rest))
        r = let(select(r < s, r, rest))
    if not single:
        r = let(select(far < like(r, 2.0**77), r, like(r, m.nan)))
    r = let(select(tirx.And(a >= like(a, m.inf), tirx.abs(x) < like(x, m.inf)), tirx.abs(x), r))
    return copysign(let, let(tirx.abs(r)), x)
