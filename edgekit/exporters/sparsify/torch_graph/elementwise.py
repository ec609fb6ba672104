"""Operators that compute each element of the result from one element of every input."""
from collections.abc import Callable
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekit.exporters.sparsify.torch_graph.node import Node, NotInTorch, Result


def div(node: Node, a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def power(node: Node, a: Tensor, b: Tensor) -> Tensor:
    exponent = node.known[1]
    if exponent is not None and exponent.size == 1 and a.is_floating_point():
        return torch.pow(a, float(exponent.reshape(-1)[0])).expand(node.shapes[0])  # no logarithm in the gradient
    return torch.pow(a, b).to(a.dtype)


def mod(node: Node, a: Tensor, b: Tensor) -> Tensor:
    return torch.fmod(a, b) if node.attrs.get("fmod", 0) else torch.remainder(a, b)


def shift(node: Node, a: Tensor, b: Tensor) -> Tensor:
    return a << b if node.attrs["direction"] == "LEFT" else a >> b


def clip(node: Node, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    limits = [None if k >= len(node.inputs) or not node.inputs[k] else node.known[k] for k in (1, 2)]
    computed = any(t is not None and limit is None for t, limit in zip((low, high), limits))
    if computed or not x.is_floating_point():
        x = x if low is None else torch.maximum(x, low)
        return x if high is None else torch.minimum(x, high)
    a, b = (None if v is None else float(v.reshape(-1)[0]) for v in limits)
    return x.clone() if a is None and b is None else torch.clamp(x, a, b)


def cast(node: Node, x: Tensor, *like: Tensor) -> Tensor:
    dtype = node.dtypes[0]
    if dtype is None:
        raise NotInTorch("element type")
    return x != 0 if dtype == torch.bool else x.to(dtype)


def is_inf(node: Node, x: Tensor) -> Tensor:
    both = node.attrs.get("detect_positive", 1), node.attrs.get("detect_negative", 1)
    found = torch.isinf(x)
    if both[0] and both[1]:
        return found
    return found & (x > 0) if both[0] else found & (x < 0) if both[1] else torch.zeros_like(found)


def shrink(node: Node, x: Tensor) -> Tensor:
    limit, bias = node.attrs.get("lambd", 0.5), node.attrs.get("bias", 0.0)
    return torch.where(x < -limit, x + bias, torch.where(x > limit, x - bias, torch.zeros_like(x)))


def hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    return torch.clamp(x * node.attrs.get("alpha", 0.2) + node.attrs.get("beta", 0.5), 0, 1)


def elu(node: Node, x: Tensor) -> Tensor:
    return F.elu(x, node.attrs.get("alpha", 1.0))


def celu(node: Node, x: Tensor) -> Tensor:
    return F.celu(x, node.attrs.get("alpha", 1.0))


def selu(node: Node, x: Tensor) -> Tensor:
    alpha, gamma = node.attrs.get("alpha", 1.67326319217681884765625), node.attrs.get("gamma", 1.05070102214813232421875)
    return gamma * F.elu(x, alpha)


def leaky_relu(node: Node, x: Tensor) -> Tensor:
    return F.leaky_relu(x, node.attrs.get("alpha", 0.01))


def thresholded_relu(node: Node, x: Tensor) -> Tensor:
    return torch.where(x > node.attrs.get("alpha", 1.0), x, torch.zeros_like(x))


def swish(node: Node, x: Tensor) -> Tensor:
    return x * torch.sigmoid(node.attrs.get("alpha", 1.0) * x)


def gelu(node: Node, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=node.attrs.get("approximate", "none"))


def prelu(node: Node, x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x >= 0, x, slope * x)


def variadic(node: Node, *inputs: Tensor) -> Tensor:
    together: Callable[[Tensor, Tensor], Tensor] = {"Max": torch.maximum, "Min": torch.minimum}.get(node.op, torch.add)
    total = reduce(together, inputs)
    return total / len(inputs) if node.op == "Mean" else total


def _plain(f: Callable[..., Tensor]) -> Callable[..., Result]:
    return lambda node, *inputs: f(*inputs)


_PLAIN: dict[str, Callable[..., Tensor]] = {
    "Abs": torch.abs, "Acos": torch.acos, "Acosh": torch.acosh, "Add": torch.add, "And": torch.logical_and, "Asin": torch.asin,
    "Asinh": torch.asinh, "Atan": torch.atan, "Atanh": torch.atanh, "BitwiseAnd": torch.bitwise_and, "BitwiseNot": torch.bitwise_not,
    "BitwiseOr": torch.bitwise_or, "BitwiseXor": torch.bitwise_xor, "Ceil": torch.ceil, "Cos": torch.cos, "Cosh": torch.cosh,
    "Equal": torch.eq, "Erf": torch.erf, "Exp": torch.exp, "Floor": torch.floor, "Greater": torch.gt, "GreaterOrEqual": torch.ge,
    "HardSwish": F.hardswish, "Identity": torch.clone, "IsNaN": torch.isnan, "Less": torch.lt, "LessOrEqual": torch.le,
    "Log": torch.log, "Mish": F.mish, "Mul": torch.mul, "Neg": torch.neg, "Not": torch.logical_not, "Or": torch.logical_or,
    "Reciprocal": torch.reciprocal, "Relu": torch.relu, "Round": torch.round, "Sigmoid": torch.sigmoid, "Sign": torch.sign,
    "Sin": torch.sin, "Sinh": torch.sinh, "Softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)), "Softsign": F.softsign,
    "Sqrt": torch.sqrt, "Sub": torch.sub, "Tan": torch.tan, "Tanh": torch.tanh, "Where": torch.where, "Xor": torch.logical_xor,
}

OPERATORS: dict[str, Callable[..., Result]] = {
    **{op: _plain(f) for op, f in _PLAIN.items()}, **dict.fromkeys(("Max", "Min", "Sum", "Mean"), variadic),
    "BitShift": shift, "Cast": cast, "CastLike": cast, "Celu": celu, "Clip": clip, "Div": div, "Elu": elu, "Gelu": gelu,
    "HardSigmoid": hard_sigmoid, "IsInf": is_inf, "LeakyRelu": leaky_relu, "Mod": mod, "PRelu": prelu, "Pow": power, "Selu": selu,
    "Shrink": shrink, "Swish": swish, "ThresholdedRelu": thresholded_relu,
}
