"""Scatter, compiled for every machine, against its definition: repeated, negative and outside indices, all reductions."""
import numpy as np
import pytest

from edgekit import targets
from edgekit.exporters.kernels.spec import Scatter, Tensor
from tests.kernels.machines import load
from tests.reference import run_kernel

ROWS, COLUMNS, HEIGHT = 9, 6, 5
OPS = ("set", "add", "mul", "max", "min")
DTYPES = ("float32", "int64", "uint8", "bool")


def kernel(op: str, dtype: str, index: str, axis: int) -> Scatter:
    """Updates of (ROWS, COLUMNS), stored by columns, into a table whose rows or columns the index names."""
    out = (COLUMNS, 1) if axis == 0 else (HEIGHT, 1)
    return Scatter((ROWS, COLUMNS), axis, HEIGHT, op, Tensor(dtype, (1, ROWS)), Tensor(index, (COLUMNS, 1)), Tensor(dtype, out))


CASES = [(op, dtype, index, axis) for op in OPS for dtype in DTYPES for index in ("int32", "int64") for axis in (0, 1)
         if dtype != "bool" or op == "set"]


@pytest.mark.parametrize("name", ["host", "arm64", "wasm"])
def test_scatter(name, tmp_path):
    kernels = {case: kernel(*case) for case in CASES}
    call = load(list(kernels.values()), targets.load(name), tmp_path)
    r = np.random.default_rng(0)
    for (op, dtype, index, axis), k in kernels.items():
        stored = np.dtype("uint8" if dtype == "bool" else dtype)
        high = 2 if dtype == "bool" else 5
        updates = r.integers(0, high, ROWS * COLUMNS).astype(stored)
        at = r.integers(-HEIGHT - 2, HEIGHT + 2, ROWS * COLUMNS).astype(index)
        got = r.integers(0, high, HEIGHT * COLUMNS if axis == 0 else ROWS * HEIGHT).astype(stored)
        want = got.copy()
        run_kernel(k, updates, at, want)
        call(k, updates, at, got)
        np.testing.assert_array_equal(got, want, f"{op} {dtype} {index} {axis}")


@pytest.mark.parametrize("name", ["host", "wasm"])
def test_what_is_outside_is_never_touched(name, tmp_path):
    k = Scatter((4,), 0, 3, "add", Tensor("float32", (1,)), Tensor("int64", (1,)), Tensor("float32", (1,)))
    got = np.array([1, 1, 1], np.float32)
    load([k], targets.load(name), tmp_path)(k, np.full(4, 2, np.float32), np.array([-1, 3, -4, 1 << 40]), got)
    np.testing.assert_array_equal(got, [1, 1, 3])
