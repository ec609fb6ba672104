"""The scalar operations of fused bodies in numpy: op -> function(dtype, attrs, *arrays)."""
import math

import numpy as np

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _f(function):
    """In float64, rounded once."""
    return lambda dtype, attrs, *a: np.asarray(function(*(np.asarray(x, np.float64) for x in a))).astype(dtype)


def _g(function):
    """In float64, with attributes."""
    return lambda dtype, attrs, *a: np.asarray(function(attrs, *(np.asarray(x, np.float64) for x in a))).astype(dtype)


def _same(function):
    return lambda dtype, attrs, *a: np.asarray(function(*a)).astype(dtype)


def _softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _int_div(a, b):
    q = np.floor_divide(np.abs(a), np.maximum(np.abs(b), 1))
    return np.where(b == 0, 0, np.sign(a) * np.sign(b) * q)


def _div(dtype, attrs, a, b):
    return (a / b).astype(dtype) if np.dtype(dtype).kind == "f" else _int_div(a, b).astype(dtype)


def _cast(dtype, attrs, x):
    if np.dtype(dtype).kind in "iu" and np.asarray(x).dtype.kind == "f":  # clamped, NaN is 0
        i = np.iinfo(dtype)
        x = np.clip(np.trunc(np.where(np.isnan(x), 0, x).astype(np.float64)), i.min, i.max)
    return np.asarray(x).astype(dtype)


def _rest(remainder):
    return _same(lambda a, b: remainder(a, b) if np.asarray(a).dtype.kind == "f" else np.where(b == 0, 0, remainder(a, np.where(b == 0, 1, b))))


SCALAR = {
    "const": lambda dtype, attrs: np.asarray(attrs[0], dtype),
    "identity": _same(lambda x: x), "add": _same(np.add), "sub": _same(np.subtract), "mul": _same(np.multiply), "div": _div,
    "max": _same(np.maximum), "min": _same(np.minimum), "neg": _same(np.negative), "abs": _same(np.abs), "sign": _same(np.sign),
    "relu": _same(lambda x: np.maximum(x, 0)), "clip": lambda dtype, attrs, x: np.clip(x, *attrs).astype(dtype),
    "leakyrelu": _g(lambda p, x: np.where(x < 0, x * p[0], x)), "prelu": _f(lambda x, s: np.where(x < 0, x * s, x)),
    "elu": _g(lambda p, x: np.where(x < 0, p[0] * np.expm1(x), x)), "celu": _g(lambda p, x: np.maximum(x, 0) + np.minimum(0, p[0] * np.expm1(x / p[0]))),
    "selu": _g(lambda p, x: p[1] * np.where(x < 0, p[0] * np.expm1(x), x)),
    "hardsigmoid": _g(lambda p, x: np.clip(p[0] * x + p[1], 0, 1)), "hardswish": _f(lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    "thresholdedrelu": _g(lambda p, x: np.where(x > p[0], x, 0)),
    "shrink": _g(lambda p, x: np.where(x < -p[0], x + p[1], np.where(x > p[0], x - p[1], 0))),
    "softplus": _f(_softplus), "softsign": _f(lambda x: x / (1 + np.abs(x))), "mish": _f(lambda x: x * np.tanh(_softplus(x))),
    "gelu": _f(lambda x: x * 0.5 * (1 + _erf(x / math.sqrt(2)))),
    "gelu_tanh": _f(lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))),
    "swish": _g(lambda p, x: x / (1 + np.exp(-(p[0] if p else 1.0) * x))), "sigmoid": _f(lambda x: 1 / (1 + np.exp(-x))),
    "exp": _f(np.exp), "log": _f(np.log), "sqrt": _f(np.sqrt), "reciprocal": _f(lambda x: 1 / x), "rsqrt": _f(lambda x: 1 / np.sqrt(x)), "tanh": _f(np.tanh), "erf": _f(_erf),
    "sin": _f(np.sin), "cos": _f(np.cos), "tan": _f(np.tan), "asin": _f(np.arcsin), "acos": _f(np.arccos), "atan": _f(np.arctan),
    "sinh": _f(np.sinh), "cosh": _f(np.cosh), "asinh": _f(np.arcsinh), "acosh": _f(np.arccosh), "atanh": _f(np.arctanh),
    "pow": _g(lambda p, x, *y: np.power(x, y[0] if y else p[0])), "mod": _rest(np.mod), "fmod": _rest(np.fmod), "floor": _f(np.floor), "ceil": _f(np.ceil), "round": _f(np.rint), "cast": _cast,
    "equal": _same(np.equal), "less": _same(np.less), "lessequal": _same(np.less_equal), "greater": _same(np.greater),
    "greaterequal": _same(np.greater_equal), "and": _same(np.logical_and), "or": _same(np.logical_or), "xor": _same(np.logical_xor),
    "not": _same(np.logical_not), "where": _same(lambda c, a, b: np.where(c, a, b)), "isnan": _same(np.isnan),
}
