"""Elementary functions against float64: every exponent, the edges, on every kind of machine, vectors against scalars."""
import dataclasses
import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from edgekit import targets
from edgekit.exporters.kernels.spec import Map, Op, Tensor
from tests.kernels.machines import load

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
EDGES = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 2, -2, 0.5, -0.5, 1e-45, -1e-45, 1.1754944e-38, -1.1754942e-38,
                  3.4028235e38, -3.4028235e38, 88.72284, 88.72283, 88.72, -87.33655, -103.97208, -103.97209, -104.5, 89.5,
                  0.99999994, 1.0000001, -0.99999994, -1.0000001, 16777216, 16777215, 8388608.5, 1e10, 2.0**100], np.float32)


@cache
def _erf() -> Callable:
    return np.frompyfunc(math.erf, 1, 1)


def erf(x: np.ndarray) -> np.ndarray:
    return _erf()(x).astype(np.float64)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.where(x < 0, np.exp(x) / (1 + np.exp(x)), 1 / (1 + np.exp(-x)))


def softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, x)


def elu(x: np.ndarray) -> np.ndarray:
    return np.where(x < 0, np.expm1(x), x)


# Name: (exact function in float64, largest error in ulp of float32)
FUNCTIONS: dict[str, tuple[Callable, float]] = {
    "exp": (np.exp, 1.05), "log": (np.log, 1.0), "tanh": (np.tanh, 1.5), "sigmoid": (sigmoid, 2.5), "erf": (erf, 1.5),
    "sin": (np.sin, 0.51), "cos": (np.cos, 0.51), "tan": (np.tan, 0.51),
    "asin": (np.arcsin, 0.51), "acos": (np.arccos, 0.51), "atan": (np.arctan, 0.51),
    "sinh": (np.sinh, 0.51), "cosh": (np.cosh, 0.51),
    "asinh": (np.arcsinh, 0.51), "acosh": (np.arccosh, 0.51), "atanh": (np.arctanh, 0.51),
    "softplus": (softplus, 2.5), "elu": (elu, 1.5), "sqrt": (np.sqrt, 0.5), "rsqrt": (lambda x: 1 / np.sqrt(x), 1.6),
}
PAIRS: dict[str, tuple[Callable, float]] = {"pow": (np.power, 0.51), "fmod": (np.fmod, 0.0)}
DOUBLE = ["exp", "log", "tanh", "sigmoid", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh",
          "atanh", "softplus", "elu", "sqrt"]


def kernel(op: str, n: int, inputs: int = 1, dtype: str = "float32") -> Map:
    t = Tensor(dtype, (1,))
    return Map((n,), (t,) * inputs, (Op(op, tuple(range(inputs)), dtype),), t)


def samples(n: int, seed: int) -> np.ndarray:
    """Edges, random bit patterns (every exponent), and values of ordinary size."""
    rng = np.random.default_rng(seed)
    half, quarter = n // 2, n // 4
    x = np.concatenate([rng.integers(0, 1 << 32, half, np.uint32).view(np.float32), rng.normal(0, 1, quarter),
                        rng.normal(0, 30, n - half - quarter)]).astype(np.float32)
    x[:len(EDGES)] = EDGES
    return x


def ulp_errors(got: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Distance in float32 ulp; inf where one is not finite and the other is something else."""
    want = exact.astype(np.float32)
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    step = np.maximum(np.spacing(np.abs(want)).astype(np.float64), 2.0**-149)
    apart = np.where(np.isfinite(got) & np.isfinite(want), np.abs(got.astype(np.float64) - exact) / step, np.inf)
    return np.where(same & ~np.isfinite(want), 0, apart)


HOST = targets.load("host")
MACHINES = {
    "host": (HOST, (1 << 20) + 13),
    "scalar": (dataclasses.replace(HOST, lanes=1), 4096 + 13),
    "x86-64-v2": (dataclasses.replace(HOST, cpu="x86-64-v2", lanes=4), 4096 + 13),
    "arm64": (targets.load("arm64"), 4096 + 13),
    "wasm": (targets.load("wasm"), 4096 + 13),
}


class Machine:
    """All functions compiled for one target."""

    def __init__(self, name: str, folder):
        target, self.n = MACHINES[name]
        kernels = [kernel(op, self.n) for op in FUNCTIONS] + [kernel(op, self.n, 2) for op in PAIRS]
        self.call = load(kernels, target, folder)

    def __call__(self, op: str, *x: np.ndarray) -> np.ndarray:
        out = np.empty_like(x[0])
        self.call(kernel(op, self.n, len(x)), *x, out)
        return out


@pytest.fixture(scope="module", params=["host", "arm64", "wasm", pytest.param("x86-64-v2", marks=pytest.mark.slow)])
def machine(request, tmp_path_factory) -> Machine:
    return Machine(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("op", FUNCTIONS)
def test_a_function_is_right_everywhere(machine, op):
    exact, bound = FUNCTIONS[op]
    x = samples(machine.n, 1)
    errors = ulp_errors(machine(op, x), exact(x.astype(np.float64)))
    worst = errors.argmax()
    assert errors[worst] <= bound, f"{op}({x[worst]!r})"


@pytest.mark.parametrize("op", PAIRS)
def test_a_function_of_two_numbers_is_right_everywhere(machine, op):
    exact, bound = PAIRS[op]
    x, y = samples(machine.n, 1), np.roll(samples(machine.n, 2), 77)
    y[1::3] = np.round(y[1::3])
    grid = np.array(np.meshgrid(EDGES, EDGES)).reshape(2, -1)
    x[-grid.shape[1]:], y[-grid.shape[1]:] = grid
    errors = ulp_errors(machine(op, x, y), exact(x.astype(np.float64), y.astype(np.float64)))
    worst = errors.argmax()
    assert errors[worst] <= bound, f"{op}({x[worst]!r}, {y[worst]!r})"


def test_zeros_keep_their_sign(machine):
    x = np.resize(np.array([0.0, -0.0], np.float32), machine.n)
    for op in ("sin", "tan", "asin", "atan", "sinh", "asinh", "atanh", "tanh", "erf", "sqrt", "elu"):
        np.testing.assert_array_equal(np.signbit(machine(op, x)), np.signbit(x), op)


def test_huge_angles_are_reduced_exactly(machine):
    """Every exponent of float32, where pi to a hundred digits matters."""
    x = np.resize(np.ldexp(np.float32(1.2345678), np.arange(-20, 128)).astype(np.float32), machine.n)
    for op, exact in (("sin", np.sin), ("cos", np.cos), ("tan", np.tan)):
        assert ulp_errors(machine(op, x), exact(x.astype(np.float64))).max() <= 0.51


def test_vectors_and_scalars_give_the_same_bits(tmp_path_factory):
    n = MACHINES["scalar"][1]
    wide = dataclasses.replace(HOST, name="wide")
    kernels = [kernel(op, n) for op in FUNCTIONS] + [kernel(op, n, 2) for op in PAIRS]
    one = load(kernels, MACHINES["scalar"][0], tmp_path_factory.mktemp("one"))
    many = load(kernels, wide, tmp_path_factory.mktemp("many"))
    x, y = samples(n, 3), np.roll(samples(n, 4), 5)
    for k in kernels:
        a, b = np.empty_like(x), np.empty_like(x)
        one(k, *(x, y)[:len(k.inputs)], a)
        many(k, *(x, y)[:len(k.inputs)], b)
        same = (a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))
        assert same.all(), (k.body[0].op, x[~same][:3], a[~same][:3], b[~same][:3])


def test_functions_of_doubles(tmp_path):
    n = 4096 + 5
    ops = {op: kernel(op, n, 1, "float64") for op in DOUBLE} | {op: kernel(op, n, 2, "float64") for op in PAIRS}
    call = load(list(ops.values()), HOST, tmp_path)
    rng = np.random.default_rng(0)
    x = np.concatenate([EDGES.astype(np.float64), np.ldexp(rng.uniform(-2, 2, n), rng.integers(-40, 9, n)), [5e-324, 1e-310]])[-n:]
    y = rng.normal(0, 3, n)
    for op, k in ops.items():
        exact, out = {**FUNCTIONS, **PAIRS}[op][0], np.empty(n)
        call(k, *(x, y)[:len(k.inputs)], out)
        np.testing.assert_allclose(out, exact(*(x, y)[:len(k.inputs)]), rtol=1e-13 if op == "pow" else 4e-15, atol=5e-324,
                                   err_msg=op)


def test_doubles_beyond_what_is_exact_are_nan_and_never_wrong(tmp_path):
    k = kernel("sin", 3, 1, "float64")
    out = np.empty(3)
    load([k], HOST, tmp_path)(k, np.array([2.9e9, 3.1e9, -1e300]), out)
    np.testing.assert_allclose(out[0], np.sin(2.9e9), rtol=1e-9)
    assert np.isnan(out[1:]).all()


@pytest.mark.parametrize("op", ["gelu", "mish", "swish", "gelu_tanh"])
def test_smooth_gates(tmp_path, op):
    """Far below the error that the definitions themselves would have, where they cancel."""
    n = 1 << 16
    k = kernel(op, n)
    x, out = np.linspace(-9, 12, n).astype(np.float32), np.empty(n, np.float32)
    load([k], HOST, tmp_path)(k, x, out)
    d = x.astype(np.float64)
    cdf = np.frompyfunc(lambda v: math.erfc(-v / math.sqrt(2)) / 2, 1, 1)(d).astype(np.float64)
    gate = {"gelu": cdf, "mish": np.tanh(softplus(d)), "swish": sigmoid(d),
            "gelu_tanh": sigmoid(2 * np.sqrt(2 / np.pi) * (d + 0.044715 * d**3))}[op]
    np.testing.assert_allclose(out, d * gate, rtol=1e-5, atol=1e-8 if op == "gelu" else 1e-30)
    np.testing.assert_allclose(out[x > -1], (d * gate)[x > -1], rtol=5e-7)
