"""One network into a peer's own form, in a process of its own: `python -m benchmarks.convert REQUEST` (see `models`)."""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

# A compression pipeline of MNN (MNN_compression.proto): PRUNE, SIMD_OC, blocks of 4 outputs
MNN_GROUPS_OF_4 = b"\x0a\x050.0.0\x12\x0a\x08\x01\x1a\x06\x08\x01\x1a\x02\x20\x04"


def mnn(request: dict) -> None:
    """MNN's converter, for speed; sparse layers in groups of 4 outputs. Its command line would report its use: left out."""
    import _tools  # MNN's converter as its command line calls it
    import onnx
    arguments = ["mnnconvert", "-f", "ONNX", "--modelFile", request["onnx"], "--MNNModel", request["to"], "--bizCode", "bench",
                 "--optimizePrefer", "2"]
    if request["sparsity"]:
        parameters = Path(request["to"]).with_suffix(".compression")
        parameters.write_bytes(MNN_GROUPS_OF_4)
        arguments += ["--compressionParamsFile", str(parameters), "--detectSparseSpeedUp"]
    if any(n.op_type in ("LSTM", "GRU") for n in onnx.load(request["onnx"]).graph.node):
        arguments.append("--useOriginRNNImpl")  # its loops end the converter with a segmentation fault
    _tools.mnnconvert(arguments)


def ncnn(request: dict) -> None:
    """pnnx, weights kept in float32."""
    to = Path(request["to"])
    made = {f"ncnn{end}": f"{to}.{end}" for end in ("param", "bin", "py")}
    made |= {f"pnnx{end}": f"{to}.pnnx.{end}" for end in ("param", "bin", "py", "onnx")}
    subprocess.run([str(Path(sys.executable).with_name("pnnx")), request["onnx"], "fp16=0", *(f"{k}={v}" for k, v in made.items())],
                   check=True, stdout=sys.stderr)


def litert(request: dict) -> None:
    """litert-torch, from the torch module (a network that is only ONNX has none); it keeps NCHW at the inputs.

    Sparse: without a pattern, which XNNPACK likes best.
    """
    import litert_torch
    import torch

    from benchmarks.masks import unstructured
    from benchmarks.networks import NETWORKS
    if request["trained"]:
        raise SystemExit("litert-torch reads torch modules, and this network is an ONNX file")
    net = NETWORKS[request["network"]](**request["small"])
    for conv in [m for m in net.module.modules() if isinstance(m, torch.nn.Conv2d)][1:] if request["sparsity"] else ():
        if conv.groups == 1:
            w = conv.weight.detach().numpy()
            w *= unstructured(request["sparsity"])(w.reshape(len(w), -1)).reshape(w.shape)
    litert_torch.convert(net.module, tuple(map(torch.from_numpy, net.example().values()))).export(request["to"])


def products(request: dict) -> None:
    """The matrices alone."""
    import onnx

    from benchmarks.masks import matrices
    np.savez(request["to"], *matrices(onnx.load(request["onnx"])))


if __name__ == "__main__":
    wanted = json.loads(sys.argv[1])
    {"mnn": mnn, "ncnn": ncnn, "litert": litert, "products": products}[wanted["peer"]](wanted)
