"""How the work of real networks can be shared by two cores, as the generated tables say; no clock."""
import re
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from edgekit.exporters.emit import c_source
from edgekit.exporters.emit.compile import Symbol
from edgekit.exporters.load import load
from edgekit.exporters.lower import lower, supported
from edgekit.targets import load as load_target

MODELS = Path(__file__).parents[3] / "shared" / "models"
pytestmark = pytest.mark.skipif(not MODELS.exists(), reason="../shared is not here")


def units(kernels: list, target: str) -> list[int]:
    from edgekit.exporters.kernels import build
    from edgekit.exporters.kernels.schedule import machine_of
    return [build(k, machine_of(load_target(target)))[1] for k in kernels]


@pytest.mark.parametrize("target", ["host", "wasm"])
@pytest.mark.parametrize("name, shapes", [("mobilenet_v1_025_224", {"n": 1}), ("squeezenet11", None)])
def test_two_cores_could_halve_the_time(name, shapes, target):
    """Steps that stay on one core, and units that do not divide evenly, leave a speed-up of 1.9."""
    loaded = load(MODELS / f"{name}.onnx", keep=supported(), input_shapes=shapes)
    plan, _ = lower(loaded.name, [(v.name, v.model) for v in loaded.variants], loaded.states)
    steps = plan.entries[0].steps
    kernels = list(dict.fromkeys(s.kernel for s in steps))
    with ProcessPoolExecutor(1, get_context("spawn")) as child:  # TVM takes over SIGSEGV, which wasmtime needs for its traps
        counted = child.submit(units, kernels, target).result()
    symbols = {k: Symbol(f"k{i}", n) for i, (k, n) in enumerate(zip(kernels, counted, strict=True))}
    source = c_source.source(plan, [c_source.Level(symbols, ())])
    table = re.findall(r"\{ek_call\w+, (\d+), ([01])\}", source)
    assert len(table) == len(steps)
    longer = sum(step.macs * (-(-int(units) // 2) / int(units) if parallel == "1" else 1)
                 for step, (units, parallel) in zip(steps, table, strict=True))
    assert sum(s.macs for s in steps) >= 1.9 * longer
