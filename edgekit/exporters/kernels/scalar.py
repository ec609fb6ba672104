"""The scalar operations of fused bodies (`spec.Op`), by name, as builders of `tirx` expressions.

A value of dtype bool is a uint8 of 0 or 1, in memory and in expressions alike.
"""
import math as m
from collections.abc import Callable

from tvm import tirx

from edgekit.errors import UnsupportedError
from edgekit.exporters.kernels import math
from edgekit.exporters.kernels.math import isnan, like, select


def _max(let, a, b):
    return select(tirx.Or(a > b, isnan(a)), a, b)


def _min(let, a, b):
    return select(tirx.Or(a < b, isnan(a)), a, b)


def _relu(let, x):
    return select(x < like(x, 0), like(x, 0), x)


def _clip(let, x, low=-m.inf, high=m.inf):
    return math.clamp(let, x, low, high)


OPS: dict[str, Callable] = {
    "identity": lambda let, x: x,
    "add": lambda let, a, b: a + b,
    "sub": lambda let, a, b: a - b,
    "mul": lambda let, a, b: a * b,
    "div": lambda let, a, b: a / b,
    "max": _max,
    "min": _min,
    "relu": _relu,
    "clip": _clip,
    "leakyrelu": lambda let, x, a: select(x < like(x, 0), x * like(x, a), x),
    "neg": lambda let, x: -x,
    "abs": lambda let, x: tirx.abs(x),
    "sqrt": lambda let, x: tirx.sqrt(x),
    "exp": math.exp,
    "log": math.log,
    "tanh": math.tanh,
    "sigmoid": math.sigmoid,
    "erf": math.erf,
    "gelu": lambda let, x: x * math.normal_cdf(let, x),
    "swish": lambda let, x, a=1.0: x * math.sigmoid(let, let(x * like(x, a))),
}


def apply(op: str, args: list, dtype: str, attrs: tuple = (), lanes: int = 1, let: Callable | None = None):
    """The operation as an expression of `dtype` with `lanes` lanes. Give `let` (`Code.let`) to name values as statements."""
    if op not in OPS:
        raise UnsupportedError(f"no scalar operation {op!r}")
    names: list = []

    def name(value):
        var = tirx.Var(f"s{len(names)}", value.ty)
        names.append((var, value))
        return var

    let = let or name
    out = OPS[op](let, *[let(a) for a in args], *attrs)
    for var, value in reversed(names):
        out = tirx.Let(var, value, out)
    return out
