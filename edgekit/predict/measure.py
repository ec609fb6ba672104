"""What each step of a plan costs on a processor, in its place among the others: seconds, or executed instructions."""
import tempfile
from collections.abc import Mapping
from contextlib import closing
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bench.machine import one_core
from edgekit.targets import Target

SECONDS = 0.4        # of rounds over a plan
ROUNDS = (7, 200)    # at least, at most
SIZES = (16, 1 << 17) # inputs of a net that does nothing
EMPTY = 60           # rounds of calls that do nothing
QUIET = 0.2          # the quantile of the rounds that counts: others had company


def measured(plan: Any, arrays: Mapping[str, np.ndarray], target: Target) -> list[float]:
    """Of each step of the first entry; target: of one level. The steps run in their order over the plan's arena, so that
    what a step finds in the caches is what the one before has left; what it costs to call from here is subtracted."""
    from edgekit.exporters.emit.compile import compile_kernels
    from edgekit.exporters.emit.link import compile_c, link_shared
    from edgekit.tune.harness import machine_at
    entry, buffers = plan.entries[0], plan.buffers(plan.entries[0])
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        work = Path(folder)
        compiled = compile_kernels([s.kernel for s in entry.steps], target, "cost", work)
        memory = work / "ek_memory.c"  # what a loop that copies or fills may call
        memory.write_bytes(resources.files("edgekit.runtimes.abi").joinpath("ek_memory.c").read_bytes())
        library = work / target.shared.format(name="cost")
        exported = [s.name for s in compiled.symbols.values()] + (["__heap_base"] if target.runner == "wasm" else [])
        link_shared([*compiled.objects, compile_c(memory, target)], target, exported, library)
        weights = np.zeros(plan.weights_bytes, np.uint8)
        for c in plan.constants:
            weights[c.offset:c.offset + c.nbytes] = np.ascontiguousarray(arrays[c.name]).reshape(-1).view(np.uint8)
        floats = np.resize(np.array([0.0, 0.5, -0.25, 0.125], np.float32), plan.arena_bytes // 4 + 1)  # no denormal numbers
        with one_core(target.runner != "arm"), closing(machine_at(target, library)) as machine:
            bases = {"weights": machine.place(weights), "arena": machine.place(floats.view(np.uint8))}
            calls, empty = [], []
            for s in entry.steps:
                places = [bases[buffers[a.buffer].space] + buffers[a.buffer].offset + a.offset * np.dtype(buffers[a.buffer].dtype).itemsize for a in s.args]
                symbol = compiled.symbols[s.kernel]
                calls.append(machine.ready(symbol.name, [*places, 0, symbol.units, 0]))
                empty.append(machine.ready(symbol.name, [*places, 0, 0, 0]))
            if target.runner == "arm":
                return [call(1) for call in calls]
            return _quiet(calls, empty)


def _quiet(calls: list, empty: list) -> list[float]:
    once = max(sum(call(1) for call in calls) for _ in range(3))
    rounds = int(min(max(SECONDS / once, ROUNDS[0]), ROUNDS[1]))
    taken = np.array([[call(1) for call in calls] for _ in range(rounds)])
    nothing = np.array([[call(1) for call in empty] for _ in range(EMPTY)])
    return np.maximum(np.quantile(taken, QUIET, axis=0) - np.quantile(nothing, QUIET, axis=0), 1e-9).tolist()


def inference(target: Target) -> dict[str, float]:
    """What an inference costs beside its steps: `call`, and each `byte` that goes in or out. Of a net that does nothing,
    with few inputs and with many."""
    from onnx import TensorProto, helper

    from edgekit.export import export
    from edgekit.exporters.load import load
    from edgekit.exporters.lower import lower
    from edgekit.runtimes import open_session
    found = {}
    for size in SIZES:
        ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (size,)) for name in "xy"]
        graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "nothing", ports[:1], ports[1:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        plan, arrays = lower("nothing", [("run", load(model).variants[0].model)])
        x = {"x": np.zeros(size, np.float32)}
        with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
            bundle = export(model, targets=[target.name], output=Path(folder) / "nothing.ekb", name="nothing")
            with closing(open_session(bundle.files, target.name)) as session, one_core(target.runner != "arm"):
                whole = session.instructions(x, "run") if target.runner == "arm" else float(np.quantile([session.time(x, "run") for _ in range(ROUNDS[1])], QUIET))
        found[size] = max(whole - sum(measured(plan, arrays, target)), 0.0)
    few, many = (found[size] for size in SIZES)
    each = max(many - few, 0.0) / (8 * (SIZES[1] - SIZES[0]))
    return {"call": max(few - 8 * SIZES[0] * each, 0.0), "byte": each}
