"""Operators that compute each output element from one element of every input."""
import numpy as np

from edgekit.exporters.lower.builder import Builder, Node

SAME = {  # ONNX operator: scalar operation with the dtype of the inputs
    "Abs": "abs", "Acos": "acos", "Acosh": "acosh", "Add": "add", "Asin": "asin", "Asinh": "asinh", "Atan": "atan", "Atanh": "atanh",
    "BitwiseAnd": "bitand", "BitwiseNot": "bitnot", "BitwiseOr": "bitor", "BitwiseXor": "bitxor", "Ceil": "ceil", "Cos": "cos",
    "Cosh": "cosh", "Div": "div", "Erf": "erf", "Exp": "exp", "Floor": "floor", "Identity": "identity", "Log": "log", "Mish": "mish",
    "Mul": "mul", "Neg": "neg", "PRelu": "prelu", "Reciprocal": "reciprocal", "Relu": "relu", "Round": "round",
    "Sigmoid": "sigmoid", "Sign": "sign", "Sin": "sin", "Sinh": "sinh", "Softplus": "softplus", "Softsign": "softsign", "Sqrt": "sqrt",
    "Sub": "sub", "Tan": "tan", "Tanh": "tanh", "HardSwish": "hardswish",
}
TRUTH = {  # the result is bool
    "And": "and", "Or": "or", "Xor": "xor", "Not": "not", "Equal": "equal", "Less": "less", "LessOrEqual": "lessequal",
    "Greater": "greater", "GreaterOrEqual": "greaterequal", "IsNaN": "isnan",
}
PARAMETERS = {  # operator: scalar operation, (attribute, default) in the order the operation takes them
    "LeakyRelu": ("leakyrelu", (("alpha", 0.01),)),
    "Elu": ("elu", (("alpha", 1.0),)),
    "Celu": ("celu", (("alpha", 1.0),)),
    "Selu": ("selu", (("alpha", 1.67326319217681884765625), ("gamma", 1.05070102214813232421875))),
    "HardSigmoid": ("hardsigmoid", (("alpha", 0.2), ("beta", 0.5))),
    "ThresholdedRelu": ("thresholdedrelu", (("alpha", 1.0),)),
    "Shrink": ("shrink", (("lambd", 0.5), ("bias", 0.0))),
    "Swish": ("swish", (("alpha", 1.0),)),
}


def _apply(b: Builder, node: Node, op: str, attrs: tuple = ()) -> None:
    out = node.output(0)
    b.set(out, b.apply(op, *(b.value(n) for n in node.inputs), dtype=b.dtype(out), shape=b.shape(out), attrs=attrs, label=node.op))


def same(b: Builder, node: Node) -> None:
    _apply(b, node, SAME[node.op])


def truth(b: Builder, node: Node) -> None:
    _apply(b, node, TRUTH[node.op])


def parameters(b: Builder, node: Node) -> None:
    op, names = PARAMETERS[node.op]
    _apply(b, node, op, tuple(node.attrs.get(name, default) for name, default in names))


def gelu(b: Builder, node: Node) -> None:
    _apply(b, node, "gelu_tanh" if node.attrs.get("approximate", "none") == "tanh" else "gelu")


def power(b: Builder, node: Node) -> None:
    """x^y; small constant exponents are products and roots."""
    exponent = b.array(node.input(1))
    out, dtype = node.output(0), b.dtype(node.output(0))
    if exponent is not None and exponent.size == 1 and dtype == "float32" and b.shape(out) == b.shape(node.input(0)):
        x, e = b.value(node.input(0)), float(exponent.reshape(-1)[0])
        shape = b.shape(out)
        if e == 0.5:
            return b.set(out, b.apply("sqrt", x, dtype=dtype, shape=shape, label="Pow"))
        if e in (1.0, 2.0, 3.0):
            y = x
            for _ in range(int(e) - 1):
                y = b.apply("mul", y, x, dtype=dtype, shape=shape, label="Pow")
            return b.set(out, y)
    x, y = b.value(node.input(0)), b.value(node.input(1))
    if y.dtype != dtype and not (y.dtype.startswith("float") and not dtype.startswith("float")):
        y = b.apply("cast", y, dtype=dtype, shape=y.shape)
    b.set(out, b.apply("pow", x, y, dtype=dtype, shape=b.shape(out), label="Pow"))


def clip(b: Builder, node: Node) -> None:
    out, dtype = node.output(0), b.dtype(node.output(0))
    low, high = b.array(node.input(1)), b.array(node.input(2))
    given = [n for n in (node.input(1), node.input(2)) if n]
    x = b.value(node.input(0))
    if dtype == "float32" and all(b.array(n) is not None for n in given):
        limits = (float(low.reshape(-1)[0]) if low is not None else -np.inf, float(high.reshape(-1)[0]) if high is not None else np.inf)
        return b.set(out, b.apply("clip", x, dtype=dtype, shape=b.shape(out), attrs=limits, label="Clip"))
    for name, op in ((node.input(1), "max"), (node.input(2), "min")):
        if name:
            x = b.apply(op, x, b.value(name), dtype=dtype, shape=b.shape(out), label="Clip")
    b.set(out, x)


def variadic(b: Builder, node: Node) -> None:
    """Max, Min, Sum, Mean of any number of inputs."""
    out, dtype, shape = node.output(0), b.dtype(node.output(0)), b.shape(node.output(0))
    op = {"Max": "max", "Min": "min", "Sum": "add", "Mean": "add"}[node.op]
    total = b.value(node.inputs[0])
    for name in node.inputs[1:]:
        total = b.apply(op, total, b.value(name), dtype=dtype, shape=shape, label=node.op)
    if node.op == "Mean":
        total = b.apply("mul", total, b.of_array(np.asarray(1 / len(node.inputs), dtype)), dtype=dtype, shape=shape)
    b.set(out, b.apply("identity", total, dtype=dtype, shape=shape) if total.shape != shape else total)


def modulo(b: Builder, node: Node) -> None:
    _apply(b, node, "fmod" if node.attrs.get("fmod", 0) else "mod")


def shift(b: Builder, node: Node) -> None:
    _apply(b, node, "shiftleft" if node.attrs["direction"] == "LEFT" else "shiftright")


def is_inf(b: Builder, node: Node) -> None:
    _apply(b, node, "isinf", (node.attrs.get("detect_positive", 1), node.attrs.get("detect_negative", 1)))


def cast(b: Builder, node: Node) -> None:
    out = node.output(0)
    source, target = b.dtype(node.input(0)), b.dtype(out)
    x = b.value(node.input(0))
    b.set(out, x if source == target else b.apply("cast", x, dtype=target, shape=b.shape(out), label="Cast"))


def where(b: Builder, node: Node) -> None:
    _apply(b, node, "where")


OPERATORS = {
    **dict.fromkeys(SAME, same), **dict.fromkeys(TRUTH, truth), **dict.fromkeys(PARAMETERS, parameters),
    "Gelu": gelu, "Pow": power, "Clip": clip, "Max": variadic, "Min": variadic, "Sum": variadic, "Mean": variadic, "Mod": modulo,
    "BitShift": shift, "IsInf": is_inf, "Cast": cast, "CastLike": cast, "Where": where,
}
