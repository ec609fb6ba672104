"""The drivers of kernel tests notice a kernel that leaves its operands."""
import numpy as np
import pytest

from edgekit import targets
from edgekit.exporters.kernels.spec import Map, Op, Tensor
from tests.kernels.machines import PAGE, load

F = "float32"


def doubled(n: int) -> Map:
    return Map((n,), (Tensor(F, (1,)),), (Op("add", (0, 0), F),), Tensor(F, (1,)))


@pytest.mark.parametrize("name", ["host", "arm64", "wasm"])
def test_a_write_behind_an_operand_is_noticed(name, tmp_path):
    call = load([doubled(20)], targets.load(name), tmp_path)
    x, y = np.arange(20, dtype=np.float32), np.zeros(20, np.float32)
    call(doubled(20), x, y)
    np.testing.assert_array_equal(y, 2 * x)
    with pytest.raises(AssertionError, match="operand 1 of .* written outside"):
        call(doubled(20), x, y[:16])


@pytest.mark.parametrize("name", ["host", "arm64", "wasm"])
def test_a_read_behind_an_operand_is_not_a_number(name, tmp_path):
    y = np.zeros(20, np.float32)
    load([doubled(20)], targets.load(name), tmp_path)(doubled(20), np.ones(16, np.float32), y)
    assert (y[:16] == 2).all() and np.isnan(y[16:]).all()


def test_a_read_far_behind_an_operand_faults(tmp_path):
    unicorn = pytest.importorskip("unicorn")
    n = PAGE // 4
    call = load([doubled(n)], targets.load("arm64"), tmp_path)
    with pytest.raises(unicorn.UcError, match="UNMAPPED"):
        call(doubled(n), np.ones(n - 20, np.float32), np.zeros(n, np.float32))
