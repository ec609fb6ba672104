"""From an ONNX model to clean static graphs, one a variant: the data's way through this folder."""
from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from edgekit.errors import EdgekitError, InputError
from edgekit.exporters.load.bind import Shapes, bindings, input_dims
from edgekit.exporters.load.check import check
from edgekit.exporters.load.finish import drop_unused, fold_affine, share_constants
from edgekit.exporters.load.graph import Graph, to_model
from edgekit.exporters.load.onnx_file import text_in
from edgekit.exporters.load.trace import trace


def clean(model: onnx.ModelProto, shapes: Shapes | None = None, keep: frozenset[str] | None = None,
          where: str = "") -> list[tuple[str, onnx.ModelProto]]:
    """(name of the variant, clean model) for every binding of `shapes`. where: put before every error's place."""
    try:
        with text_in(""):
            dims = input_dims(model)
            check(model)
            return [(binding.name, to_model(clean_graph(model, binding.shapes, keep), model.graph.name or "model"))
                    for binding in bindings(dims, shapes)]
    except MemoryError:
        raise InputError("not enough memory to load it", where=where, fix="export a smaller model") from None
    except EdgekitError as error:
        error.where = ": ".join(filter(None, [where, error.where]))
        raise


def clean_graph(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]],
                keep: frozenset[str] | None = None) -> Graph:
    """A checked model at one static shape."""
    graph = trace(model, shapes, keep)
    graph = share_constants(drop_unused(fold_affine(drop_unused(graph))))
    for name, data in graph.constants.items():
        if np.issubdtype(data.dtype, np.floating) and np.isnan(data).any():
            raise InputError("this constant, computed from the weights, is NaN", where=f"constant {name}",
                             fix="look for a negative variance or a division by zero in the weights")
    return graph
