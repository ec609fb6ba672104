"""edgekit: compiles trained networks into small, self-contained C libraries, and measures what they do.

    bundle = edgekit.export("model.onnx", targets=["host", "wasm"], sparsity=0.5, output="model.ekb")
    bundle = edgekit.open("model.ekb")
    y, = bundle.run(x)
    result = bundle.bench(period="50ms", deadline="40ms", budget="p99<=10ms")

Importing edgekit needs numpy only; compilers, torch and runners are imported when they are first used.
"""
import os
from typing import Any

from edgekit.budget import Budget
from edgekit.bundle import Bundle, open
from edgekit.export import export

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime would report models to its maker

__version__ = "0.1.0"
__all__ = ["Budget", "Bundle", "Dynamic", "Gradual", "export", "fisher", "fit", "open", "prune", "taylor", "trainable"]


def __getattr__(name: str) -> Any:
    if name in ("Dynamic", "Gradual", "fisher", "prune", "taylor", "trainable"):
        from edgekit.exporters import sparsify  # exporters are left alone until they are needed
        return getattr(sparsify, name)
    if name == "fit":
        from edgekit.fitting import fit
        return fit
    raise AttributeError(f"module 'edgekit' has no attribute {name!r}")
