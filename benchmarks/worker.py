"""One runtime in a process of its own: `python worker.py RUNTIME`, then JSON, a line a request, on stdin and stdout.

    {"do": "load", "model": PATH, "inputs": NPZ, "outputs": [NAME, ...]}  -> {"seconds": ..., "version": ..., "rss": bytes}
    {"do": "run", "to": NPZ}                                              -> {}     one inference, its outputs written
    {"do": "time", "calls": n}                                            -> {"seconds": [...]}

A failure answers {"error": TEXT}. One model a process, one thread. It imports nothing of the suite.
"""
import contextlib
import ctypes
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]
WARM = 0.005  # seconds of calls that are not counted, before those that are


class Model(NamedTuple):
    """call: one inference on inputs that are set. outputs: what the last call left. clock: seconds of one, where the
    runtime can tell them apart from Python's own share."""

    call: Callable[[], object]
    outputs: Callable[[], list[np.ndarray]]
    clock: Callable[[], float] | None = None


def edgekit(model: str, inputs: Arrays, names: list[str], threads: int = 1) -> Model:
    """A bundle's host library: clocked around the C function."""
    from edgekit.runtimes import open_session
    from edgekit.runtimes.abi.bundle import read
    files = read(Path(model))
    session, entry = open_session(files, threads=threads), files.manifest["entries"][0]["name"]
    return Model(lambda: session.run(inputs, entry), lambda: list(session.run(inputs, entry).values()),
                 lambda: session.time(inputs, entry))


def onnxruntime(model: str, inputs: Arrays, names: list[str]) -> Model:
    """All graph optimisations, one thread, outputs bound to memory of its own."""
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for name, value in inputs.items():
        binding.bind_cpu_input(name, value)
    for name in names:
        binding.bind_output(name)
    return Model(lambda: session.run_with_iobinding(binding), binding.copy_outputs_to_cpu)


def openvino(model: str, inputs: Arrays, names: list[str]) -> Model:
    """Latency mode, one stream of one thread, float32 arithmetic."""
    import openvino
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model), "CPU", {
        "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"})
    request = compiled.create_infer_request()
    for name, value in inputs.items():
        request.set_tensor(name, openvino.Tensor(value))

    def call() -> None:
        request.start_async()
        request.wait()
    return Model(call, lambda: [np.array(request.get_tensor(name).data) for name in names])


def mnn(model: str, inputs: Arrays, names: list[str]) -> Model:
    """One thread, high power mode, float32. An inference overwrites the inputs: they are copied in before each."""
    import MNN
    net = MNN.Interpreter(model)
    session = net.createSession({"numThread": 1, "backend": "CPU", "precision": "high", "power": "high"})
    given = [(net.getSessionInput(session, name), MNN.Tensor(value.shape, MNN.Halide_Type_Float, value, MNN.Tensor_DimensionType_Caffe))
             for name, value in inputs.items()]

    def clock() -> float:
        for there, here in given:
            there.copyFrom(here)
        start = time.perf_counter()
        net.runSession(session)
        return time.perf_counter() - start

    def output(name: str) -> np.ndarray:
        there = net.getSessionOutput(session, name)
        shape = there.getShape()
        here = MNN.Tensor(shape, MNN.Halide_Type_Float, np.zeros(shape, np.float32), MNN.Tensor_DimensionType_Caffe)
        there.copyToHostTensor(here)
        return np.array(here.getData(), np.float32)
    return Model(clock, lambda: [output(name) for name in names], clock)


def ncnn(model: str, inputs: Arrays, names: list[str]) -> Model:
    """One thread, light mode, packed layouts, Winograd and sgemm on, float32 storage. The model has no batch axis."""
    import ncnn
    net = ncnn.Net()
    net.opt.num_threads, net.opt.lightmode = 1, True
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = net.opt.use_bf16_storage = False
    if net.load_param(model + ".param") or net.load_model(model + ".bin"):
        raise RuntimeError("ncnn does not load it")
    given = [ncnn.Mat(np.ascontiguousarray(_unbatched(v))).clone() for v in inputs.values()]
    found: list = []

    def call() -> None:
        extractor = net.create_extractor()
        for i, mat in enumerate(given):
            extractor.input(f"in{i}", mat)
        found[:] = [extractor.extract(f"out{i}") for i in range(len(names))]

    def outputs() -> list[np.ndarray]:
        if any(status for status, _ in found):
            raise RuntimeError("ncnn does not run it; its tensors have no batch axis")
        return [np.array(mat) for _, mat in found]
    return Model(call, outputs)


def litert(model: str, inputs: Arrays, names: list[str]) -> Model:
    """TFLite's interpreter with its XNNPACK delegate, one thread."""
    from ai_edge_litert.interpreter import Interpreter
    net = Interpreter(model_path=model, num_threads=1)
    net.allocate_tensors()
    runner = net.get_signature_runner()
    places = {k: d["index"] for k, d in runner.get_input_details().items()}
    for (_, place), value in zip(sorted(places.items(), key=_number), inputs.values(), strict=True):
        net.set_tensor(place, value)
    results = [d["index"] for _, d in sorted(((k, d) for k, d in runner.get_output_details().items()), key=_number)]
    return Model(net.invoke, lambda: [net.get_tensor(i) for i in results])


def products(model: str, inputs: Arrays, names: list[str]) -> Model:
    """The matrix-vector products of a net and nothing else, by numpy's BLAS, less what as many calls cost on 1 x 1."""
    with np.load(model) as file:
        matrices = [file[name] for name in file]
    full, empty = ([(w, np.ones(w.shape[1], np.float32), np.empty(w.shape[0], np.float32)) for w in chosen]
                   for chosen in (matrices, [w[:1, :1].copy() for w in matrices]))

    def seconds(products: list) -> float:
        start = time.perf_counter()
        for w, x, y in products:
            np.matmul(w, x, out=y)
        return time.perf_counter() - start
    return Model(lambda: seconds(full), list, lambda: seconds(full) - seconds(empty))


class Runtime(NamedTuple):
    """load: (model, inputs, names of outputs) -> Model. module: what is imported before memory counts. package: its version."""

    load: Callable[[str, Arrays, list[str]], Model]
    module: str
    package: str


RUNTIMES = {
    "edgekit": Runtime(edgekit, "edgekit.runtimes.host", "edgekit-deploy"),
    "edgekit, 2 threads": Runtime(partial(edgekit, threads=2), "edgekit.runtimes.host", "edgekit-deploy"),
    "onnxruntime": Runtime(onnxruntime, "onnxruntime", "onnxruntime"),
    "openvino": Runtime(openvino, "openvino", "openvino"),
    "mnn": Runtime(mnn, "MNN", "MNN"),
    "ncnn": Runtime(ncnn, "ncnn", "ncnn"),
    "litert": Runtime(litert, "ai_edge_litert.interpreter", "ai-edge-litert"),
    "products": Runtime(products, "numpy", "numpy")}


class Server:
    """Answers requests about one model."""

    def __init__(self, runtime: Runtime):
        self.runtime = runtime
        self.model: Model | None = None
        self.outputs: list[str] = []

    def answer(self, request: dict) -> dict:
        """See the top of the module."""
        if request["do"] == "load":
            return self._load(request["model"], request["inputs"], request["outputs"])
        if self.model is None:
            raise RuntimeError("nothing is loaded")
        if request["do"] == "run":
            self.model.call()
            np.savez(request["to"], **dict(zip(self.outputs, self.model.outputs(), strict=True)))
            return {}
        return {"seconds": _times(self.model, request["calls"])}

    def _load(self, model: str, inputs: str, outputs: list[str]) -> dict:
        with np.load(inputs) as file:
            arrays = {k: file[k] for k in file}
        importlib.import_module(self.runtime.module)
        before, start = _rss("VmRSS"), time.perf_counter()
        self.model, self.outputs = self.runtime.load(model, arrays, outputs), outputs
        self.model.call()
        seconds, peak = time.perf_counter() - start, _rss("VmHWM")
        version = "here"
        with contextlib.suppress(metadata.PackageNotFoundError):
            version = metadata.version(self.runtime.package)
        return {"seconds": seconds, "version": version, "rss": peak - before}


def main() -> None:
    """Serves requests until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print to stdout
    server = Server(RUNTIMES[sys.argv[1]])
    for line in sys.stdin:
        try:
            answer = server.answer(json.loads(line))
        except Exception as e:  # noqa: BLE001 - whatever a runtime raises is its answer
            answer = {"error": f"{type(e).__name__}: {e}"[:500]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _times(model: Model, calls: int) -> list[float]:
    call, clock = model.call, time.perf_counter
    end = clock() + WARM
    while clock() < end:  # caches hold what the one before me left
        call()
    if model.clock:
        return [model.clock() for _ in range(calls)]
    seconds = []
    for _ in range(calls):
        start = clock()
        call()
        seconds.append(clock() - start)
    return seconds


def _unbatched(value: np.ndarray) -> np.ndarray:
    """Without the batch axis: the first, or in a recurrent layer the second."""
    if value.ndim > 1 and len(value) == 1:
        return value[0]
    return value[:, 0] if value.ndim == 3 and value.shape[1] == 1 else value


def _number(item: tuple[str, object]) -> int:
    """args_0, output_12: the order of a signature's names."""
    digits = "".join(c for c in item[0] if c.isdigit())
    return int(digits or 0)


def _rss(field: str) -> int:
    """Bytes, of /proc; 0 where there is none."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(1, 9)  # Linux: this process ends with the suite
    main()
