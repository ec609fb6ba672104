"""MobileNet-v1 1.0 224, dense and group-sparse, against onnxruntime: one thread, one core, batch 1, seeded random weights.

    python benchmarks/mobilenet.py [--sparsity 0.5 ...] [--rounds 100] [--core N] [--json FILE]

Every contestant lives in this process and takes its turn in every round (A B C A B C ...), so whatever else the machine
does falls on all of them alike. A round is *quiet* if its total time is among the shorter half. Printed are medians over
the quiet rounds; a ratio is the median of the ratios within them. Only ratios mean anything on another machine.
"""
import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import edgekit as ek
from edgekit.bench import machine
from edgekit.runtimes import open_session
from edgekit.runtimes.abi.bundle import read

TARGETS = ["host", "arm64", "wasm"]
BLOCKS = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]


def mobilenet_v1(seed: int = 0) -> onnx.ModelProto:
    """x (1, 3, 224, 224) -> y (1, 1000), float32: 4.2 M parameters and 569 M multiply-accumulates (Howard et al. 2017)."""
    rng = np.random.default_rng(seed)
    nodes, weights = [], []

    def constant(name: str, value: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(value.astype(np.float32), name))
        return name

    def conv_relu(x: str, name: str, inputs: int, outputs: int, k: int, stride: int, groups: int = 1) -> str:
        fan_in = inputs // groups * k * k
        w = constant(name + ".weight", rng.standard_normal((outputs, inputs // groups, k, k)) * np.sqrt(2 / fan_in))
        b = constant(name + ".bias", rng.standard_normal(outputs) * 0.01)
        where = {"kernel_shape": [k, k], "strides": [stride] * 2, "pads": [k // 2] * 4, "group": groups}
        nodes.append(helper.make_node("Conv", [x, w, b], [name], name=name, **where))
        nodes.append(helper.make_node("Relu", [name], [name + ".relu"], name=name + ".relu"))
        return name + ".relu"

    channels = 32
    x = conv_relu("x", "first", 3, channels, 3, 2)
    for i, (outputs, stride) in enumerate(BLOCKS):
        x = conv_relu(x, f"depthwise{i}", channels, channels, 3, stride, groups=channels)
        x = conv_relu(x, f"pointwise{i}", channels, outputs, 1, 1)
        channels = outputs
    nodes.append(helper.make_node("GlobalAveragePool", [x], ["pool"], name="pool"))
    nodes.append(helper.make_node("Flatten", ["pool"], ["flat"], name="flatten"))
    head = [constant("head.weight", rng.standard_normal((1000, channels)) * 0.03), constant("head.bias", np.zeros(1000))]
    nodes.append(helper.make_node("Gemm", ["flat", *head], ["y"], name="head", transB=1))
    return _model("mobilenet_v1", nodes, weights, [1, 3, 224, 224], [1, 1000])


def ppo_policy(seed: int = 0) -> onnx.ModelProto:
    """x (1, 8) -> y (1, 2): two tanh layers of 64, the policy that PPO implementations train by default."""
    rng = np.random.default_rng(seed)
    nodes, weights, x = [], [], "x"
    for i, (inputs, outputs) in enumerate([(8, 64), (64, 64), (64, 2)]):
        w = (rng.standard_normal((outputs, inputs)) / np.sqrt(inputs)).astype(np.float32)
        weights += [numpy_helper.from_array(w, f"w{i}"), numpy_helper.from_array(np.zeros(outputs, np.float32), f"b{i}")]
        out = "y" if i == 2 else f"linear{i}"
        nodes.append(helper.make_node("Gemm", [x, f"w{i}", f"b{i}"], [out], name=f"linear{i}", transB=1))
        if i < 2:
            nodes.append(helper.make_node("Tanh", [out], [f"tanh{i}"], name=f"tanh{i}"))
        x = f"tanh{i}"
    return _model("ppo", nodes, weights, [1, 8], [1, 2])


def _model(name: str, nodes: list, weights: list, inputs: list[int], outputs: list[int]) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, inputs)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, outputs)
    graph = helper.make_graph(nodes, name, [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def interleave(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each contestant's turn in the quiet rounds, after a tenth of the rounds as a warm-up."""
    warm = max(rounds // 10, 3)
    seconds = np.empty((warm + rounds, len(contestants)))
    for row in seconds:
        for i, call in enumerate(contestants.values()):
            start = time.perf_counter()
            call()
            row[i] = time.perf_counter() - start
    seconds = seconds[warm:]
    total = seconds.sum(axis=1)
    quiet = seconds[total <= np.median(total)]
    return {name: quiet[:, i] for i, name in enumerate(contestants)}


def measure_mobilenet(folder: Path, sparsities: list[float], rounds: int, core: int) -> dict:
    """Exports for three targets, then the race; seconds, bytes and ratios."""
    path = folder / "mobilenet_v1.onnx"
    onnx.save(mobilenet_v1(), path)
    say("exporting MobileNet-v1, dense, for " + ", ".join(TARGETS))
    os.environ["EDGEKIT_CACHE"] = str(folder / "cache")  # nothing compiled before counts
    start = time.perf_counter()
    bundles = {"dense": ek.export(path, targets=TARGETS, output=folder / "dense.ekb")}
    export_seconds = time.perf_counter() - start
    for sparsity in sparsities:
        say(f"exporting at {sparsity:.0%} for host")
        name = f"{sparsity:.0%}"
        bundles[name] = ek.export(path, targets=["host"], sparsity=sparsity, output=folder / f"{name[:-1]}.ekb")

    pin(core)
    x = np.random.default_rng(1).standard_normal((1, 3, 224, 224)).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    reference = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    contestants: dict[str, Callable[[], object]] = {"onnxruntime": lambda: reference.run(None, {"x": x})}
    contestants |= {name: lambda bundle=bundle: bundle.run(x) for name, bundle in bundles.items()}
    say(f"racing {', '.join(contestants)}: {rounds} rounds on core {core}")
    seconds = interleave(contestants, rounds)
    wasm = bundles["dense"].manifest["targets"]["wasm"]
    return {
        "export_seconds_three_targets": export_seconds,
        "wasm_code_bytes": wasm["code_bytes"],
        "milliseconds": {name: 1e3 * median(s) for name, s in seconds.items()},
        "over_onnxruntime": {name: median(seconds[name] / seconds["onnxruntime"]) for name in bundles},
        "over_our_dense": {name: median(seconds[name] / seconds["dense"]) for name in bundles},
    }


def measure_call(folder: Path, rounds: int) -> dict:
    """What a call of a small policy costs through Python (`bundle.run(x)`) over its bare time in C. Microseconds."""
    say("exporting a small policy and timing its call")
    bundle = ek.export(ppo_policy(), targets=["host"], output=folder / "ppo.ekb")
    x = np.ones((1, 8), np.float32)
    with closing(open_session(read(folder / "ppo.ekb"))) as session:
        calls = interleave({"python": lambda: bundle.run(x)}, 100 * rounds)["python"]
        bare = np.sort([session.time({"x": x}, "run") for _ in range(100 * rounds)])[: 50 * rounds]
    python, c = 1e6 * median(calls), 1e6 * median(bare)
    return {"python_us": python, "c_us": c, "overhead_us": python - c}


def pin(core: int) -> None:
    """Keeps this process on one core, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def show(result: dict) -> None:
    print(f"{'':14}{'ms':>9}{'/ onnxruntime':>16}{'/ our dense':>14}")
    for name, ms in result["milliseconds"].items():
        ratios = [result[over].get(name) for over in ("over_onnxruntime", "over_our_dense")]
        cells = ["" if ratio is None else f"{ratio:.3f}" for ratio in ratios]
        print(f"{name:14}{ms:9.2f}{cells[0]:>16}{cells[1]:>14}")
    print(f"export for {', '.join(TARGETS)}: {result['export_seconds_three_targets']:.1f} s, nothing cached")
    print(f"wasm code without weights: {result['wasm_code_bytes'] / 1000:.0f} kB")
    call = result["policy_call"]
    print(f"small policy, one call: {call['python_us']:.2f} us through Python, {call['c_us']:.2f} us in C: "
          f"{call['overhead_us']:.2f} us over it")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sparsity", type=float, nargs="*", default=[0.5], help="beside dense (default: 0.5)")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0)
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure_mobilenet(Path(folder), arguments.sparsity, arguments.rounds, arguments.core)
        result |= {"policy_call": measure_call(Path(folder), arguments.rounds), "machine": machine.describe()}
    show(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
