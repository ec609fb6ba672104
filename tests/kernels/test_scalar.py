"""Every scalar operation against its definition in numpy, on every dtype it has, on every kind of machine."""
import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest

from edgekit import targets
from edgekit.errors import UnsupportedError
from edgekit.exporters.kernels import scalar
from edgekit.exporters.kernels.spec import Map, Op, Tensor
from tests.kernels.machines import load

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
N = 512 + 13
INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
FLOATS = ["float16", "float32", "float64"]
HOST = targets.load("host")
MACHINES = {
    "host": HOST,
    "scalar": dataclasses.replace(HOST, lanes=1),
    "x86-64": dataclasses.replace(HOST, cpu="x86-64", features=(), lanes=4, registers=16),
    "arm64": targets.load("arm64"),
    "wasm": targets.load("wasm"),
}


def stored(dtype: str) -> np.dtype:
    return np.dtype("uint8" if dtype == "bool" else dtype)


def kernel(op: str, inputs: tuple[str, ...], output: str, attrs: tuple = ()) -> Map:
    return Map((N,), tuple(Tensor(d, (1,)) for d in inputs),
               (Op(op, tuple(range(len(inputs))), output, attrs),), Tensor(output, (1,)))


def values(dtype: str, seed: int) -> np.ndarray:
    """Edges and all magnitudes of a dtype."""
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return rng.integers(0, 2, N).astype(np.uint8)
    if dtype.startswith("float"):
        edges = [0.0, -0.0, np.inf, -np.inf, np.nan, 0.5, -0.5, 1.5, 2.5, -2.5, 1, -1, np.finfo(dtype).max, np.finfo(dtype).tiny / 2]
        x = rng.normal(0, 1, N) * 10.0 ** rng.integers(-4, 5, N)
    else:
        i = np.iinfo(dtype)
        edges = [0, 1, 2, 3, i.max, i.max - 1, i.min, i.min + 1, *([-1, -2, -3] if i.min else [])]
        x = rng.integers(i.min, i.max, N, np.dtype(dtype), endpoint=True) >> np.asarray(rng.integers(0, i.bits, N), dtype)
    x = x.astype(dtype)
    x[:len(edges)] = rng.permutation(np.array(edges, dtype))
    return x


def c_div(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Truncated as in C, 0 for division by zero, wrapping for the one quotient that overflows."""
    exact = [0 if q == 0 else int(math.copysign(1, p) * math.copysign(1, q)) * (abs(p) // abs(q))
             for p, q in zip(a.tolist(), b.tolist(), strict=True)]
    return np.array([e % 2**(8 * a.itemsize) for e in exact], np.uint64).astype(f"uint{8 * a.itemsize}").view(a.dtype)


def c_mod(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.array([0 if q == 0 else abs(p) % abs(q) * (-1 if p < 0 else 1) for p, q in zip(a.tolist(), b.tolist(), strict=True)], a.dtype)


def wrapped_pow(a: np.ndarray, e: np.ndarray) -> np.ndarray:
    bits = 8 * a.itemsize

    def one(p: int, n: int) -> int:
        return pow(p, n, 2**bits) if n >= 0 else {1: 1, -1: 1 if n % 2 == 0 else -1}.get(p, 0) % 2**bits
    return np.array([one(*v) for v in zip(a.tolist(), e.tolist(), strict=True)], np.uint64).astype(f"uint{bits}").view(a.dtype)


def shifted(left: bool) -> Callable:
    def shift(a: np.ndarray, n: np.ndarray) -> np.ndarray:
        width = 8 * a.itemsize
        out = [0 if k >= width else v << k if left else v >> k for v, k in zip(a.tolist(), n.tolist(), strict=True)]
        return np.array([o % 2**width for o in out], a.dtype)
    return shift


ARITHMETIC: dict[str, Callable] = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "max": np.maximum, "min": np.minimum}
WHOLE: dict[str, Callable] = {
    **ARITHMETIC, "div": c_div, "mod": lambda a, b: np.where(b == 0, 0, np.mod(a, np.where(b == 0, 1, b))), "fmod": c_mod,
    "pow": wrapped_pow, "bitand": np.bitwise_and, "bitor": np.bitwise_or, "bitxor": np.bitwise_xor,
}
WHOLE_ONE: dict[str, Callable] = {"neg": np.negative, "abs": np.abs, "sign": np.sign, "bitnot": np.bitwise_not, "identity": np.array,
                                  "relu": lambda x: np.maximum(x, 0)}
REAL: dict[str, Callable] = {**ARITHMETIC, "div": np.divide, "fmod": np.fmod, "mod": np.mod,
                             "prelu": lambda x, s: np.where(x < 0, x * s, x)}
REAL_ONE: dict[str, Callable] = {
    "neg": np.negative, "abs": np.abs, "sign": np.sign, "floor": np.floor, "ceil": np.ceil, "round": np.round, "sqrt": np.sqrt,
    "reciprocal": lambda x: 1 / x, "relu": lambda x: np.maximum(x, 0), "softsign": lambda x: x / (1 + np.abs(x)), "identity": np.array,
}
COMPARE: dict[str, Callable] = {"equal": np.equal, "notequal": np.not_equal, "less": np.less, "lessequal": np.less_equal,
                                "greater": np.greater, "greaterequal": np.greater_equal}
LOGIC: dict[str, Callable] = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


def elu(x: np.ndarray, alpha: float) -> np.ndarray:
    return np.where(x < 0, alpha * np.expm1(x), x)


def hard(x: np.ndarray, a: float, b: float) -> np.ndarray:
    return np.clip(a * x + b, 0, 1)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -x))


# (operation, attributes): definition in float64
ACTIVATIONS: dict[tuple[str, tuple], Callable] = {
    ("leakyrelu", (0.1,)): lambda x: np.where(x < 0, 0.1 * x, x),
    ("elu", (0.7,)): lambda x: elu(x, 0.7),
    ("celu", (0.7,)): lambda x: np.maximum(x, 0) + np.minimum(0, 0.7 * np.expm1(x / 0.7)),
    ("selu", ()): lambda x: 1.0507009873554805 * elu(x, 1.6732632423543772),
    ("selu", (2.0, 3.0)): lambda x: 3 * elu(x, 2.0),
    ("hardsigmoid", (0.2, 0.5)): lambda x: hard(x, 0.2, 0.5),
    ("hardswish", ()): lambda x: x * hard(x, 1 / 6, 0.5),
    ("softplus", ()): lambda x: np.logaddexp(0, x),
    ("mish", ()): lambda x: x * np.tanh(np.logaddexp(0, x)),
    ("swish", (1.5,)): lambda x: x * sigmoid(1.5 * x),
    ("thresholdedrelu", (0.4,)): lambda x: np.where(x > 0.4, x, 0),
    ("shrink", (0.3, 0.1)): lambda x: np.where(x < -0.3, x + 0.1, np.where(x > 0.3, x - 0.1, 0)),
    ("clip", (-0.5, 1.25)): lambda x: np.clip(x, -0.5, 1.25),
    ("clip", (-np.inf, 2.0)): lambda x: np.minimum(x, 2),
    ("clip", (0.0, np.inf)): lambda x: np.maximum(x, 0),
    ("pow", (2.0,)): lambda x: x**2,
    ("pow", (3.0,)): lambda x: x**3,
    ("pow", (-1.0,)): lambda x: 1 / x,
    ("pow", (0.3,)): lambda x: x**0.3,
}


def in_reach(remainder: Callable) -> Callable:
    """Remainders of doubles are NaN where the quotient is beyond 2^77."""
    return lambda a, b: np.where(np.isfinite(a) & (np.abs(a / b) >= 2.0**77), np.nan, remainder(a, b))


def cases() -> list[tuple[Map, Callable]]:
    """Every operation on every dtype, with its definition on numpy arrays of the inputs' dtypes."""
    made: list[tuple[Map, Callable]] = []
    for d in INTEGERS:
        made += [(kernel(op, (d, d), d), f) for op, f in WHOLE.items()]
        made += [(kernel(op, (d,), d), f) for op, f in WHOLE_ONE.items()]
        made.append((kernel("prelu", (d, d), d), lambda x, s: np.where(x < 0, x * s, x)))
        made += [(kernel(op, (d, d), "bool"), f) for op, f in COMPARE.items()]
    for d in ["uint8", "uint16", "uint32", "uint64"]:
        made += [(kernel("shiftleft", (d, d), d), shifted(True)), (kernel("shiftright", (d, d), d), shifted(False))]
    for d in ["float32", "float64"]:
        made += [(kernel(op, (d, d), d), in_reach(f) if op.endswith("mod") and d == "float64" else f) for op, f in REAL.items()]
        made += [(kernel(op, (d,), d), f) for op, f in REAL_ONE.items()]
        made += [(kernel(op, (d, d), "bool"), f) for op, f in COMPARE.items()]
    made += [(kernel(op, ("bool", "bool"), "bool"), f) for op, f in LOGIC.items()]
    made.append((kernel("not", ("bool",), "bool"), np.logical_not))
    for d in [*INTEGERS, *FLOATS, "bool"]:
        made.append((kernel("where", ("bool", d, d), d), lambda c, a, b: np.where(c != 0, a, b)))
    for d in FLOATS:
        made.append((kernel("isnan", (d,), "bool"), np.isnan))
        made += [(kernel("isinf", (d,), "bool", (p, n)), lambda x, p=p, n=n: np.isposinf(x) & bool(p) | np.isneginf(x) & bool(n))
                 for p in (0, 1) for n in (0, 1)]
    for op in ("add", "mul", "div", "sqrt"):  # correctly rounded in float32, then to float16: as numpy does
        two = op != "sqrt"
        made.append((kernel(op, ("float16",) * (1 + two), "float16"), {**REAL, **REAL_ONE}[op]))
    return made


CASES = cases()
EVERYWHERE = ["host", *(pytest.param(name, marks=pytest.mark.slow) for name in ("scalar", "arm64", "wasm", "x86-64"))]


def run(call: Callable, k: Map, *inputs: np.ndarray) -> np.ndarray:
    out = np.full(N, 77, stored(k.output.dtype))
    call(k, *inputs, out)
    return out


@pytest.mark.parametrize("name", EVERYWHERE)
def test_operations_are_exact(name, tmp_path):
    call = load([k for k, _ in CASES], MACHINES[name], tmp_path)
    for k, definition in CASES:
        inputs = [values(t.dtype, 10 + i) for i, t in enumerate(k.inputs)]
        want = np.asarray(definition(*inputs)).astype(stored(k.output.dtype))
        np.testing.assert_array_equal(run(call, k, *inputs), want, f"{k.body[0]} of {[t.dtype for t in k.inputs]}")


@pytest.mark.parametrize("name", EVERYWHERE)
@pytest.mark.parametrize("dtype", FLOATS)
def test_activations(name, dtype, tmp_path):
    kernels = {key: kernel(key[0], (dtype,), dtype, key[1]) for key in ACTIVATIONS}
    call = load(list(kernels.values()), MACHINES[name], tmp_path)
    x = (np.random.default_rng(1).normal(0, 3, N)).astype(dtype)
    x[:2] = np.nan, 0
    tolerance = {"float16": 1e-3, "float32": 1e-6, "float64": 1e-13}[dtype]
    for key, k in kernels.items():
        want = ACTIVATIONS[key](x.astype(np.float64))
        np.testing.assert_allclose(run(call, k, x).astype(np.float64), want, rtol=tolerance, atol=tolerance / 4, err_msg=str(key))


@pytest.mark.parametrize("name", EVERYWHERE)
def test_casts_between_all_types(name, tmp_path):
    """As numpy where the value fits; clamped, with NaN as 0, where a float does not fit an integer."""
    every = [*INTEGERS, *FLOATS, "bool"]
    kernels = [kernel("cast", (a,), b) for a in every for b in every]
    call = load(kernels, MACHINES[name], tmp_path)
    for k in kernels:
        have, want_type = k.inputs[0].dtype, k.output.dtype
        x = values(have, 5)
        if want_type == "bool":
            want = (x != 0).astype(np.uint8)
        elif have in FLOATS and want_type in INTEGERS:
            i = np.iinfo(want_type)
            want = np.array([0 if math.isnan(v) else i.max if v >= i.max else i.min if v <= i.min else int(v) for v in x.tolist()],
                            want_type)
        else:
            want = x.astype(want_type)
        np.testing.assert_array_equal(run(call, k, x), want, f"{have} to {want_type}")


def test_every_float16_and_every_rounding_to_it(tmp_path):
    n = 1 << 16
    t = {d: Tensor(d, (1,)) for d in FLOATS}

    def cast(a, b, size):
        return Map((size,), (t[a],), (Op("cast", (0,), b),), t[b])
    up, down, double = cast("float16", "float32", n), cast("float32", "float16", 1 << 20), cast("float64", "float16", 1 << 20)
    call = load([up, down, double], HOST, tmp_path)
    every, out = np.arange(n, dtype=np.uint16).view(np.float16), np.empty(n, np.float32)
    call(up, every, out)
    np.testing.assert_array_equal(out, every.astype(np.float32))
    rng = np.random.default_rng(0)
    halfway = (np.resize(every, 1 << 19).astype(np.float32).view(np.uint32) + rng.choice([0, 0xFFF, 0x1000, 0x1001], 1 << 19)).astype(np.uint32)
    x = np.concatenate([rng.integers(0, 1 << 32, 1 << 19, np.uint32), halfway]).view(np.float32)
    got = np.empty(1 << 20, np.float16)
    call(down, x, got)
    np.testing.assert_array_equal(got, x.astype(np.float16))
    wide = np.nextafter(x.astype(np.float64), rng.choice([-np.inf, np.inf], 1 << 20))
    call(double, wide, got)
    np.testing.assert_array_equal(got, wide.astype(np.float16))


def test_any_byte_but_zero_is_true(tmp_path):
    k = kernel("cast", ("bool",), "bool")
    every = np.resize(np.arange(256, dtype=np.uint8), N)
    negated = kernel("not", ("bool",), "bool")
    call = load([k, negated], HOST, tmp_path)
    np.testing.assert_array_equal(run(call, k, every), every != 0)
    np.testing.assert_array_equal(run(call, negated, every), every == 0)


@pytest.mark.parametrize("dtype, value", [("float32", 0.1), ("float64", 0.1), ("float16", 0.1), ("float32", np.inf), ("float32", np.nan),
                                          ("int64", -(1 << 62)), ("uint64", (1 << 64) - 1), ("int8", -128), ("bool", 1)])
def test_constants(dtype, value, tmp_path):
    t = Tensor(dtype, (1,))
    k = Map((N,), (), (Op("const", (), dtype, (value,)),), t)
    np.testing.assert_array_equal(run(load([k], HOST, tmp_path), k), np.full(N, value, stored(dtype)))


def test_nothing_is_simplified_as_if_floats_were_reals(tmp_path):
    """Several operations in one body: x - x, x == x and (x + c) - c keep their meaning for NaN, infinity and rounding."""
    f, b = Tensor("float32", (1,)), Tensor("bool", (1,))
    difference = Map((N,), (f,), (Op("sub", (0, 0), "float32"),), f)
    equal = Map((N,), (f,), (Op("equal", (0, 0), "bool"),), b)
    around = Map((N,), (f,), (Op("const", (), "float32", (1e8,)), Op("add", (0, 1), "float32"), Op("sub", (2, 1), "float32")), f)
    wrapped = Map((N,), (Tensor("int32", (1,)),), (Op("const", (), "int32", (1,)), Op("add", (0, 1), "int32"), Op("greater", (2, 0), "bool")), b)
    call = load([difference, equal, around, wrapped], HOST, tmp_path)
    x = values("float32", 3)
    np.testing.assert_array_equal(run(call, difference, x), x - x)
    np.testing.assert_array_equal(run(call, equal, x), ~np.isnan(x))
    np.testing.assert_array_equal(run(call, around, x), (x + np.float32(1e8)) - np.float32(1e8))
    i = values("int32", 3)
    np.testing.assert_array_equal(run(call, wrapped, i), (i + np.int32(1)) > i)


def test_long_bodies_compile_in_time_that_does_not_explode(tmp_path):
    """Each value is used twice, sixty deep: 2^60 paths, sixty operations."""
    ops = [Op("mul", (k, k), "float32") if k % 2 else Op("add", (k, k), "float32") for k in range(60)]
    t = Tensor("float32", (1,))
    k = Map((N,), (t,), tuple(ops), t)
    x = np.full(N, 1e-3, np.float32)
    want = x
    for op in ops:
        want = want * want if op.op == "mul" else want + want
    np.testing.assert_array_equal(run(load([k], HOST, tmp_path), k, x), want)


def test_nan_passes_as_in_onnxruntime(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    x, y = values("float32", 3), values("float32", 4)
    for op, inputs, attrs in (("Relu", [x], ()), ("Max", [x, y], ()), ("Min", [x, y], ()), ("Clip", [x, -1.0, 2.0], (-1.0, 2.0))):
        names = [f"i{k}" for k in range(len(inputs))]
        info = [onnx.helper.make_tensor_value_info(n, 1, np.shape(v)) for n, v in zip(names, inputs, strict=True)]
        graph = onnx.helper.make_graph([onnx.helper.make_node(op, names, ["o"])], "g", info, [onnx.helper.make_tensor_value_info("o", 1, (N,))])
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        want = session.run(None, {n: np.asarray(v, np.float32) for n, v in zip(names, inputs, strict=True)})[0]
        arrays = [v for v in inputs if isinstance(v, np.ndarray)]
        k = kernel(op.lower(), ("float32",) * len(arrays), "float32", attrs)
        np.testing.assert_array_equal(run(load([k], HOST, tmp_path), k, *arrays), want, op)


def test_every_operation_has_a_test():
    tested = {k.body[0].op for k, _ in CASES} | {op for op, _ in ACTIVATIONS}
    from tests.kernels.test_math import FUNCTIONS, PAIRS
    assert set(scalar.OPS) - tested - set(FUNCTIONS) - set(PAIRS) == {"gelu", "gelu_tanh"}  # test_math's smooth gates


def test_an_unknown_operation_is_an_error():
    with pytest.raises(UnsupportedError, match="frobnicate"):
        scalar.apply("frobnicate", [], "float32", (), 1, lambda v: v)
