"""The peaks of this machine, really measured: plausible, ordered, and the same loops in a wasm engine."""
import pytest

from edgekit.bench.peaks import measure

pytest.importorskip("ziglang")


def test_peaks_of_this_machine():
    found = measure("host")
    assert found.flops > 1e9
    names, rates = [e.name for e in found.levels], [e.rate for e in found.levels]
    assert names[-1] == "memory" and found.levels[-1].size is None and all(e.size for e in found.levels[:-1])
    assert rates[0] > rates[-1] > 1e8
    assert found.level(1).name == names[0] and found.level(1 << 40).name == "memory"


def test_peaks_in_a_wasm_engine():
    pytest.importorskip("wasmtime")
    assert 1e8 < measure("wasm").flops < 1.2 * measure("host").flops
