"""The scalar operations of fused bodies (`spec.Op`) by name: `apply` makes expressions of them.

A bool is a uint8 of 0 or 1, in memory and in expressions alike (any other byte reads as 1). float16 is computed in float32
and rounded after every operation. Integers wrap around, never trap and are never undefined (see `integers`, `convert`).
float64 has functions of its own except for erf and gelu, which go through float32. NaN passes through max, min, relu, clip.
"""
import math as m
from collections.abc import Callable

from tvm import tirx

from edgekit.errors import UnsupportedError
from edgekit.exporters.kernels import convert, integers, math, math64
from edgekit.exporters.kernels.math import base_of, isnan, like, select, to

Builder = Callable  # (let, *args, *attrs) -> expression


def _function(single: Callable | None, double: Callable | None) -> Builder:
    """A function of floats, by its version for the type at hand or through the other type."""
    versions = {base: f for base, f in (("float32", single), ("float64", double)) if f is not None}

    def build(let, *args):
        have = base_of(args[0])
        if have in versions:
            return versions[have](let, *args)
        through, function = next(iter(versions.items()))
        return let(to(function(let, *[let(to(a, through)) for a in args]), have))
    return build


def _periodic(double: Callable) -> Builder:
    return _function(lambda let, x: to(double(let, let(to(x, "float64")), True), "float32"), double)


_exp = _function(math.exp, math64.exp)
_exp_below_40 = _function(math.exp_below_40, math64.exp)
_expm1 = _function(math.expm1, math64.expm1)
_log1p = _function(math.log1p, math64.log1p)
_sigmoid = _function(math.sigmoid, math64.sigmoid)
_cdf = _function(math.normal_cdf, None)
_pow = _function(None, math64.pow)


def _is_float(x) -> bool:
    return base_of(x) in convert.FLOATS


def _arithmetic(real: Callable, whole: Callable) -> Builder:
    """One operation of floats, another of integers."""
    return lambda let, *args: (real if _is_float(args[0]) else whole)(let, *args)


def _condition(test: Callable) -> Builder:
    """A comparison: its result as a bool."""
    return lambda let, *args: to(test(*args), "uint8")


def _true(x):
    return tirx.NE(x, like(x, 0))


def _max(let, a, b):
    return select(tirx.Or(a > b, isnan(a)) if _is_float(a) else a > b, a, b)


def _min(let, a, b):
    return select(tirx.Or(a < b, isnan(a)) if _is_float(a) else a < b, a, b)


def _if_negative(x, yes, no):
    """By the sign of x. (Asking whether an unsigned number is negative crashes TVM's simplifier.)"""
    return no if base_of(x).startswith("uint") else select(x < like(x, 0), yes, no)


def _clip(let, x, low, high):
    return math.clamp(let, x, low, high)


def _sign(let, x):
    one = select(x > like(x, 0), like(x, 1), x)
    return one if base_of(x).startswith("uint") else select(x < like(x, 0), like(x, -1), one)


def _pow_any(let, x, y):
    if isinstance(y, int | float):
        return _power(let, x, y)
    if _is_float(x):
        return _pow(let, x, convert.cast(let, y, base_of(x)))
    if _is_float(y):  # as C's pow on doubles, truncated
        z = math64.pow(let, let(to(x, "float64")), let(to(y, "float64")))
        whole = math.nearest(let, z)
        exact = tirx.abs(z - whole) <= tirx.abs(z) * like(z, 1e-12)  # an integer, but for the error of pow
        return convert.cast(let, let(select(exact, whole, z)), base_of(x))
    return integers.pow(let, x, y)


def _power(let, x, exponent: float):
    """x to a known power: by products and roots where they are as exact as the general way."""
    if not _is_float(x):
        return _pow_any(let, x, like(x, int(exponent)) if exponent == int(exponent) else let(tirx.const(exponent, "float64")))
    if exponent in (1.0, 2.0, 3.0, 4.0):
        y = x if exponent == 1 else let(x * x)
        return y if exponent < 3 else y * (x if exponent == 3 else y)
    if exponent == -1.0:
        return like(x, 1) / x
    return _pow(let, x, like(x, exponent))


def _float_fmod(let, x, y):
    if base_of(x) == "float64":
        return math64.fmod(let, x, y)
    return to(math64.fmod(let, let(to(x, "float64")), let(to(y, "float64")), True), "float32")


def _float_mod(let, x, y):
    r = let(_float_fmod(let, x, y))
    other = tirx.Or(tirx.And(r < like(r, 0), y > like(y, 0)), tirx.And(r > like(r, 0), y < like(y, 0)))
    r = let(select(other, r + y, r))
    return select(tirx.EQ(r, like(r, 0)), math.copysign(let, like(r, 0), y), r)


def _elu(let, x, alpha=1.0):
    return select(x < like(x, 0), _expm1(let, x) * like(x, alpha), x)


def _celu(let, x, alpha=1.0):
    return select(x < like(x, 0), _expm1(let, let(x / like(x, alpha))) * like(x, alpha), x)


def _selu(let, x, alpha=1.6732632423543772, gamma=1.0507009873554805):
    return _elu(let, x, alpha) * like(x, gamma)


def _hardsigmoid(let, x, alpha=0.2, beta=0.5):
    return math.clamp(let, let(x * like(x, alpha) + like(x, beta)), 0.0, 1.0)


def _softplus(let, x):
    """log(1 + e^x), of the tail that is small."""
    return select(x > like(x, 0), x, like(x, 0)) + _log1p(let, _exp_below_40(let, let(-tirx.abs(x))))


def _mish(let, x):
    """x tanh(log(1 + e^x)) = x n / (n + 2) with n = e^2x + 2 e^x."""
    e = _exp_below_40(let, let(select(x > like(x, 20), like(x, 20), x)))
    n = let(e * let(e + like(e, 2)))
    return x * let(n / let(n + like(n, 2)))


def _swish(let, x, alpha=1.0):
    return x * _sigmoid(let, let(x * like(x, alpha)))


def _gelu_tanh(let, x):
    """x (1 + tanh(u)) / 2 = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3)."""
    cube = let(let(x * x) * let(x * like(x, 0.044715)))
    return x * _sigmoid(let, let(let(x + cube) * like(x, 2 * m.sqrt(2 / m.pi))))


def _shrink(let, x, lambd=0.5, bias=0.0):
    if not _is_float(x):
        return convert.cast(let, let(_shrink(let, convert.cast(let, x, "float64"), lambd, bias)), base_of(x))
    low = select(x < like(x, -lambd), x + like(x, bias), like(x, 0))
    return select(x > like(x, lambd), x - like(x, bias), low)


def _isinf(let, x, positive=1, negative=1):
    high, low = tirx.EQ(x, like(x, m.inf)), tirx.EQ(x, like(x, -m.inf))
    if positive and negative:
        return to(tirx.Or(high, low), "uint8")
    return to(high if positive else low, "uint8") if positive or negative else to(like(x, 0), "uint8")


OPS: dict[str, Builder] = {
    "identity": lambda let, x: x,
    "add": _arithmetic(lambda let, a, b: a + b, integers.add),
    "sub": _arithmetic(lambda let, a, b: a - b, integers.sub),
    "mul": _arithmetic(lambda let, a, b: a * b, integers.mul),
    "div": _arithmetic(lambda let, a, b: a / b, integers.div),
    "mod": _arithmetic(_float_mod, integers.mod),      # sign of the divisor
    "fmod": _arithmetic(_float_fmod, integers.fmod),   # sign of the dividend
    "pow": _pow_any,                                   # (x, y), or x and y as attribute
    "max": _max,
    "min": _min,
    "neg": _arithmetic(lambda let, x: -x, integers.neg),
    "abs": _arithmetic(lambda let, x: tirx.abs(x), integers.absolute),
    "sign": _sign,
    "reciprocal": lambda let, x: like(x, 1) / x,
    "floor": math.floor,
    "ceil": math.ceil,
    "round": math.nearest,                             # half to even
    "sqrt": lambda let, x: tirx.sqrt(x),
    "rsqrt": lambda let, x: like(x, 1) / let(tirx.sqrt(x)),
    "exp": _exp,
    "log": _function(math.log, math64.log),
    "erf": _function(math.erf, None),
    "sin": _periodic(math64.sin),
    "cos": _periodic(math64.cos),
    "tan": _periodic(math64.tan),
    "asin": _function(None, math64.asin),
    "acos": _function(None, math64.acos),
    "atan": _function(None, math64.atan),
    "sinh": _function(None, math64.sinh),
    "cosh": _function(None, math64.cosh),
    "asinh": _function(None, math64.asinh),
    "acosh": _function(None, math64.acosh),
    "atanh": _function(None, math64.atanh),
    "tanh": _function(math.tanh, math64.tanh),
    "sigmoid": _sigmoid,
    "relu": lambda let, x: _if_negative(x, like(x, 0), x),
    "leakyrelu": lambda let, x, alpha=0.01: _if_negative(x, x * like(x, alpha), x),
    "prelu": lambda let, x, slope: _if_negative(x, OPS["mul"](let, x, slope), x),
    "elu": _elu,
    "celu": _celu,
    "selu": _selu,
    "hardsigmoid": _hardsigmoid,
    "hardswish": lambda let, x: x * _hardsigmoid(let, x, 1 / 6, 0.5),
    "softplus": _softplus,
    "softsign": lambda let, x: x / let(tirx.abs(x) + like(x, 1)),
    "mish": _mish,
    "gelu": lambda let, x: x * _cdf(let, x),
    "gelu_tanh": _gelu_tanh,
    "swish": _swish,
    "thresholdedrelu": lambda let, x, alpha=1.0: select(x > like(x, alpha), x, like(x, 0)),
    "shrink": _shrink,
    "clip": _clip,                                     # attributes low, high
    "equal": _condition(tirx.EQ),
    "notequal": lambda let, a, b: convert.differs(a, b),
    "less": _condition(lambda a, b: a < b),
    "lessequal": _condition(lambda a, b: a <= b),
    "greater": _condition(lambda a, b: a > b),
    "greaterequal": _condition(lambda a, b: a >= b),
    "and": _condition(lambda a, b: tirx.And(_true(a), _true(b))),
    "or": _condition(lambda a, b: tirx.Or(_true(a), _true(b))),
    "xor": _condition(lambda a, b: tirx.NE(to(_true(a), "uint8"), to(_true(b), "uint8"))),
    "not": _condition(lambda a: tirx.EQ(a, like(a, 0))),
    "bitand": lambda let, a, b: a & b,
    "bitor": lambda let, a, b: a | b,
    "bitxor": lambda let, a, b: a ^ b,
    "bitnot": lambda let, a: tirx.bitwise_not(a),
    "shiftleft": lambda let, a, n: integers.shift(let, a, n, True),
    "shiftright": lambda let, a, n: integers.shift(let, a, n, False),
    "where": lambda let, c, a, b: select(_true(c), a, b),
    "isnan": _condition(isnan),
    "isinf": _isinf,                                   # attributes positive, negative
}


def apply(op: str, args: list, dtype: str, attrs: tuple, lanes: int, let: Callable):
    """The operation as an expression of `dtype` with `lanes` lanes; `let` (`Code.let`) names values.

    "const" has no arguments and its value as attribute; "cast" converts its argument, of any dtype, to `dtype`.
    UnsupportedError for a name that is not in OPS.
    """
    if op == "const":
        stored = "uint8" if dtype == "bool" else "float32" if dtype == "float16" else dtype
        value = tirx.const(attrs[0], math.vector(stored, lanes))
        return convert.to_half(let, value) if dtype == "float16" else value
    args = [let(a) for a in args]  # each under a name of its own, so that nothing is simplified across them
    if op == "cast":
        return convert.cast(let, args[0], dtype)
    if op not in OPS:
        raise UnsupportedError(f"there is no scalar operation {op!r}")
    half = [base_of(a) == "float16" for a in args]
    args = [convert.from_half(let, a) if h else a for a, h in zip(args, half, strict=True)]
    if op == "pow" and attrs:
        return _halved(let, _power(let, args[0], attrs[0]), dtype)
    return _halved(let, OPS[op](let, *args, *attrs), dtype)


def _halved(let, value, dtype: str):
    return convert.to_half(let, let(value)) if dtype == "float16" else value
