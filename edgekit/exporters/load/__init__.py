"""load: a trained model, in any form people have it, becomes clean static ONNX graphs.

The way of the data: a source (`onnx_file`, `torch_source`) gives an ONNX model; `check` refuses broken ones; `bind`
gives every input a static shape; `trace` walks the graph once, inlining, unrolling, folding and inferring; `finish`
folds affine steps into layers and shares constants; `states` checks what comes back at the next call.
"""
from edgekit.exporters.load.api import Loaded, Variant, load

__all__ = ["Loaded", "Variant", "load"]
