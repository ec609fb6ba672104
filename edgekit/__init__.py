"""edgekit: compiles trained networks into small, self-contained C libraries, and measures what they do.

    bundle = edgekit.export("model.onnx", targets=["host", "wasm"], sparsity=0.5, output="model.ekb")
    bundle = edgekit.open("model.ekb")
    y, = bundle.run(x)
    result = bundle.bench(period="50ms", deadline="40ms", budget="p99<=10ms")

Names are imported when they are first used: `import edgekit` is fast and needs nothing but Python.
"""
import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.budget import Budget
    from edgekit.bundle import Bundle, open
    from edgekit.export import export
    from edgekit.exporters.sparsify import prune

__version__ = "0.1.0"
__all__ = ["Budget", "Bundle", "export", "open", "prune"]

_HOME = {"Budget": "edgekit.budget", "Bundle": "edgekit.bundle", "open": "edgekit.bundle", "export": "edgekit.export",
         "prune": "edgekit.exporters.sparsify"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'edgekit' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
